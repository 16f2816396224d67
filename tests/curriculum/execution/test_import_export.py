"""From a Hugging Face directory to a trained one, through the command line: import, run, branch, export."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import commands
import llamas
import pytest
import torch
from projects import BuiltOnce, write_small_project
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from curriculum.artifacts import checkpoints, huggingface
from curriculum.artifacts.stage_folder import StageFolder
from curriculum.compiler import imported_models
from curriculum.compiler.compile import compile_curriculum
from curriculum.compiler.prepared_text import PreparedText
from curriculum.compiler.summary import summarise
from curriculum.config.project import Project
from curriculum.errors import PlanError
from curriculum.execution import import_model
from curriculum.plan.model import ModelConfig
from curriculum.plan.stage import StagePlan
from runner.checkpoint import tensors as checkpoint_tensors
from runner.checkpoint.huggingface import to_hugging_face
from runner.model.transformer import Transformer

ROOT = Path(__file__).resolve().parents[3]
Curriculum = Callable[..., "subprocess.CompletedProcess[str]"]

FULL = ("--size", "full")
POSITIONS = {"max_position_embeddings": 64}
STAGE = "runs/full/mine/continued"


def command(project: Path, *words: str, fresh: bool = False) -> str:
    done = commands.run(*words, folder=project, fresh=fresh)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def drafted(built_once: BuiltOnce) -> Path:
    """A project with a directory to start from and the curriculum that `import` wrote for it; nothing has run."""

    def build(project: Path) -> None:
        write_small_project(project)
        llamas.save(project / "tiny", dtype=torch.bfloat16, rope=llamas.LLAMA_3, shard="40KB", **POSITIONS)
        said = command(project, "import", "tiny", "mine", "--mixture", "prose-only", "--tokens", "12k")
        assert "Llama, 37,792 parameters" in said
        assert "next: curriculum plan mine" in said

    return built_once("drafted", build)


@pytest.fixture(scope="session")
def finished(drafted: Path, built_once: BuiltOnce) -> Path:
    """The same project, its import trained to the end by processes as a person starts them; read only."""

    def build(project: Path) -> None:
        shutil.copytree(drafted, project)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPROFILEIMPORTTIME": "1"}
        commands.run("run", "mine", *FULL, folder=project, check=True, environment=environment, fresh=True)

    return built_once("continued", build)


def test_one_process_trains_without_torch_s_compiler_and_without_what_shards(finished: Path) -> None:
    imported = set(
        re.findall(r"^import time: .* (\S+)$", (finished / STAGE / "attempts/0001/rank0.log").read_text(), re.M)
    )
    assert "torch.optim" in imported
    assert not imported & {"torch._dynamo", "torch.distributed.fsdp", "torch.distributed.tensor", "sympy"}


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "project"))


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for path in folder.glob("*.safetensors"):
        found |= load_file(path)
    return found


def model_at_end(stage: Path) -> Transformer:
    plan = StagePlan.load(stage / "plan.json")
    model = Transformer(ModelConfig.from_json(plan.model))
    last = checkpoints.latest(StageFolder(stage))
    assert last is not None
    assert last.position == plan.end
    checkpoint_tensors.load(last.path, model, None)
    return model


def test_an_import_states_neither_model_nor_tokenizer_and_is_planned_before_it_is_read(drafted: Path) -> None:
    text = (drafted / "stages/mine.yaml").read_text()
    assert "from: hf:tiny\n" in text
    plan = json.loads(command(drafted, "plan", "mine", *FULL, "--json"))
    assert plan["imported"] == {"from": "hf:tiny", "digest": None}
    assert plan["tokenizer"] == "hf:tiny"
    assert plan["cost"]["parameters"] == 37_792
    assert any("not imported yet" in note for note in plan["stages"][0]["notes"])
    assert not (drafted / "data").exists()


@pytest.mark.promise("A key of a `config.json` that neither transformers nor we read is reported, with its line")
def test_a_plan_reports_a_key_of_the_directory_that_is_not_read(drafted: Path, tmp_path: Path) -> None:
    project = Path(shutil.copytree(drafted, tmp_path / "project"))
    config = json.loads((project / "tiny/config.json").read_text())
    (project / "tiny/config.json").write_text(json.dumps({"qk_clip": 100.0, **config}, indent=1))
    notes = json.loads(command(project, "plan", "mine", *FULL, "--json"))["stages"][0]["notes"]
    assert any(note.startswith("`qk_clip` in line 2 of its config.json changes no logits") for note in notes)
    assert not any(
        "qk_clip" in note
        for note in json.loads(command(drafted, "plan", "mine", *FULL, "--json"))["stages"][0]["notes"]
    )


def test_a_branch_inside_the_first_stage_of_an_import_is_written(drafted: Path, tmp_path: Path) -> None:
    project = Path(shutil.copytree(drafted, tmp_path / "project"))
    command(project, "branch", "mine@4k", "annealed", "--decay", "4k", *FULL)
    stages = compile_curriculum(Project(project), "annealed", "full").stages
    assert [stage.name for stage in stages] == ["mine/continued", "annealed/decay"]
    assert stages[1].plan.optimizer == stages[0].plan.optimizer
    assert not stages[1].plan.reset_optimizer


@pytest.mark.promise("`init` and `import` write cadences with which evaluations take less than a tenth of the compute")
@pytest.mark.parametrize(
    ("tokens", "mixture", "often"),
    [("12k", "prose-only", False), ("100k", "mixed", False), ("10M", "mixed", True), ("10B", "prose-only", True)],
)
def test_an_import_evaluates_for_less_than_a_tenth_of_the_compute_however_short_it_is(
    drafted: Path, tmp_path: Path, tokens: str, mixture: str, often: bool
) -> None:
    project = Project(shutil.copytree(drafted, tmp_path / "project"))
    sources = project.root / "sources.yaml"
    sources.write_text(sources.read_text().replace("held_out: 25%", "held_out: 25%, tokens: 20B"))
    import_model.write(project, import_model.draft(project, project.root / "tiny", "short", mixture, tokens))
    compiled = compile_curriculum(Project(project.root), "short", "full")
    plan = summarise(project, compiled, "local", project.machine("local"))
    assert 0 < plan["cost"]["evaluation_share"] < 0.1
    assert (plan["stages"][0]["evaluations"] == 21) == often
    assert 1 <= plan["stages"][0]["held_out_windows"] <= 1024


def test_a_run_begins_with_the_imported_weights_a_fresh_optimizer_and_unread_sources(finished: Path) -> None:
    plan = StagePlan.load(finished / STAGE / "plan.json")
    found = huggingface.read(finished / "tiny")
    digest = imported_models.digest(Project(finished), found)
    assert digest is not None
    assert plan.parent is not None
    assert (plan.parent.fingerprint, plan.parent.position) == (digest, 0)
    assert (plan.start, plan.first_step, plan.read_before, plan.reset_optimizer) == (0, 0, {}, True)
    assert (
        plan.tokenizer["digest"]
        == huggingface.known_sums(found, imported_models.memory(Project(finished)))["tokenizer.json"]
    )

    read = json.loads((finished / STAGE / "evaluations/g0-0000000000000000.json").read_bytes())
    loss = read["sets"]["prose"]["loss"]
    assert loss == pytest.approx(
        loss_of(AutoModelForCausalLM.from_pretrained(finished / "tiny").float(), finished), abs=1e-4
    )
    last = json.loads(sorted((finished / STAGE / "evaluations").iterdir())[-1].read_bytes())
    assert last["sets"]["prose"]["loss"] < loss - 0.2


def loss_of(model: torch.nn.Module, project: Path) -> float:
    """transformers' own loss on the held-out windows that an evaluation reads."""
    import numpy as np

    from curriculum.data.dataset import Dataset

    texts = PreparedText.open(Project(project), "mine", "full")
    compiled = texts.compiled
    length = compiled.stages[0].plan.sequence_length
    dataset = Dataset.open(texts.folder("prose"), split="held-out", sequence_length=length)
    measured = min(compiled.stages[0].held_out_windows, dataset.windows)
    rows = torch.from_numpy(dataset.read(np.arange(measured) * dataset.windows // measured))
    with torch.no_grad():
        logits = model(rows[:, :-1]).logits
    return float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten()))


@pytest.mark.promise("transformers computes our logits (within 1e-4) from an export, with our tokens")
def test_an_export_of_what_was_trained_computes_our_logits_in_transformers(finished: Path, tmp_path: Path) -> None:
    command(finished, "export", "mine", "--to", str(tmp_path / "out"), "--dtype", "fp32", *FULL, fresh=True)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert theirs.dtype == torch.float32
    ours = model_at_end(finished / STAGE)
    with torch.no_grad():
        mine = ours.head.logits(ours(llamas.tokens()))
    assert mine.std() > 0.5
    torch.testing.assert_close(llamas.logits(theirs), mine, rtol=0, atol=1e-4)
    start = llamas.logits(AutoModelForCausalLM.from_pretrained(finished / "tiny"))
    assert float((mine - start).abs().max()) > 0.01, "it was trained"

    text = "the grey sea was calm"
    tokens = AutoTokenizer.from_pretrained(tmp_path / "out")(text).input_ids
    texts = PreparedText.open(Project(finished), "mine", "full")
    assert texts.loaded_tokenizer is not None
    assert tokens == texts.loaded_tokenizer.encode(text)


def test_an_export_keeps_the_directory_s_dtype_and_files_unless_another_is_asked_for(
    finished: Path, tmp_path: Path
) -> None:
    said = command(finished, "export", "mine", "--to", str(tmp_path / "out"), *FULL)
    assert "mine in bfloat16" in said
    for name in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (finished / "tiny" / name).read_bytes()
    model = model_at_end(finished / STAGE)
    ours = dict(to_hugging_face(model.config, model.state_dict().__getitem__))
    mine = tensors(tmp_path / "out")
    assert mine.keys() == ours.keys()
    assert all(torch.equal(mine[name], tensor.bfloat16()) for name, tensor in ours.items())
    card = (tmp_path / "out/README.md").read_text()
    assert "Starts from the weights of `tiny`" in card
    assert "| mine/continued | prose-only |" in card
    assert "## Held-out loss" in card


@pytest.mark.promise("An import exported again is bitwise the directory, dtype by dtype")
def test_at_position_zero_an_export_is_bitwise_the_imported_directory(finished: Path, tmp_path: Path) -> None:
    command(finished, "export", "mine@0", "--to", str(tmp_path / "out"), *FULL)
    theirs, mine = tensors(finished / "tiny"), tensors(tmp_path / "out")
    assert mine.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert mine[name].dtype == tensor.dtype
        assert torch.equal(mine[name], tensor)
    assert "No step was trained" in (tmp_path / "out/README.md").read_text()


def test_no_checkpoint_there_names_the_nearest_before_and_after(
    finished: Path, curriculum: Curriculum, tmp_path: Path
) -> None:
    kept = [c.position for c in checkpoints.list_checkpoints(StageFolder(finished / STAGE))]
    refused = curriculum(finished, "export", "mine@6k", "--to", str(tmp_path / "out"), *FULL, check=False)
    assert refused.returncode == 2
    said = " ".join(refused.stderr.split())
    assert f"the nearest: {kept[0]:,} after" in said
    wanted = (kept[0] + kept[1]) // 2
    refused = curriculum(finished, "export", f"mine@{wanted}", "--to", str(tmp_path / "out"), *FULL, check=False)
    said = " ".join(refused.stderr.split())
    assert f"the nearest: {kept[0]:,} before and {kept[1]:,} after" in said
    assert not (tmp_path / "out").exists()


def test_files_that_no_longer_tell_what_was_trained_are_not_made_into_a_card(
    copy: Path, curriculum: Curriculum, tmp_path: Path
) -> None:
    path = copy / "stages/mine.yaml"
    path.write_text(path.read_text().replace("max: 1e-4", "max: 2e-4"))
    refused = curriculum(copy, "export", "mine", "--to", str(tmp_path / "out"), *FULL, check=False)
    assert refused.returncode == 2
    assert "`mine` was trained with another plan than its files now describe" in refused.stderr


def test_killed_and_run_again_an_import_ends_with_the_same_bits(finished: Path, drafted: Path, tmp_path: Path) -> None:
    project = Path(shutil.copytree(drafted, tmp_path / "project"))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (tmp_path / "said.txt").open("w") as said:
        process = commands.start(
            *("run", "mine", *FULL), folder=project, environment=environment, out=said.fileno(), err=said.fileno()
        )
    until = time.monotonic() + 120
    while checkpoints.latest(StageFolder(project / STAGE)) is None:
        assert time.monotonic() < until, (tmp_path / "said.txt").read_text()
        time.sleep(0.01)
    process.kill()
    process.wait(timeout=60)
    assert not (project / STAGE / "DONE").exists()
    command(project, "run", "mine", *FULL)
    assert (project / STAGE / "DONE").read_bytes() == (finished / STAGE / "DONE").read_bytes()


@pytest.mark.promise("Other bytes under an import's path are detected when a run has started from it")
def test_other_bytes_under_the_same_path_are_distinguished_from_a_run_that_has_started(
    copy: Path, curriculum: Curriculum
) -> None:
    first = next(path for path in sorted((copy / "tiny").glob("*.safetensors")))
    stored = load_file(first)
    name = min(stored)
    stored[name] = stored[name] + 1
    save_file(stored, first, metadata={"format": "pt"})
    done = (copy / STAGE / "DONE").read_bytes()
    refused = curriculum(copy, "run", "mine", *FULL, check=False)
    assert refused.returncode == 2
    said = " ".join(refused.stderr.split())
    assert "`mine/continued` has started with another plan" in said
    assert "would change from step 0 on" in said
    assert (copy / STAGE / "DONE").read_bytes() == done


def test_a_directory_that_was_only_touched_goes_on(copy: Path) -> None:
    command(copy, "plan", "mine", *FULL)
    for path in (copy / "tiny").iterdir():
        os.utime(path)
    assert "not imported yet, or was touched since" in command(copy, "plan", "mine", *FULL)
    assert "done, at" in command(copy, "run", "mine", *FULL)


def test_a_flipped_bit_in_an_import_is_noticed_before_a_step_is_taken(copy: Path, curriculum: Curriculum) -> None:
    shutil.rmtree(copy / "runs/full/mine")
    path = next((copy / "data/imported").glob("*/rank-00000.safetensors"))
    raw = bytearray(path.read_bytes())
    raw[-3] ^= 1
    path.write_bytes(raw)
    refused = curriculum(copy, "verify", "mine", *FULL, check=False)
    assert refused.returncode == 2
    assert "`rank-00000.safetensors` holds other bytes" in refused.stderr
    refused = curriculum(copy, "run", "mine", *FULL, check=False)
    assert "holds other bytes" in refused.stderr
    assert not (copy / STAGE / "metrics.jsonl").exists()


def test_a_branch_of_an_import_goes_on_from_it_and_is_exported_with_its_files(copy: Path, tmp_path: Path) -> None:
    end = StagePlan.load(copy / STAGE / "plan.json").end
    command(copy, "branch", "mine", "side", "--mixture", "mixed", "--until", "16k", *FULL)
    command(copy, "run", "side", *FULL)
    stage = next((copy / "runs/full/side").iterdir())
    plan = StagePlan.load(stage / "plan.json")
    assert plan.start == end
    assert plan.reset_optimizer is False
    assert plan.model["rope_scaling"]["rope_type"] == "llama3"
    command(copy, "export", "side", "--to", str(tmp_path / "out"), "--dtype", "fp32", *FULL)
    config = json.loads((tmp_path / "out/config.json").read_bytes())
    theirs = json.loads((copy / "tiny/config.json").read_bytes())
    assert config.pop("dtype") == "float32"
    assert theirs.pop("dtype") == "bfloat16"
    assert config == theirs
    ours = model_at_end(stage)
    with torch.no_grad():
        mine = ours.head.logits(ours(llamas.tokens()))
    other = llamas.logits(AutoModelForCausalLM.from_pretrained(tmp_path / "out"))
    torch.testing.assert_close(other, mine, rtol=0, atol=1e-4)
    assert "| mine/continued | prose-only |" in (tmp_path / "out/README.md").read_text()


SMALLER = """\
full: {}
small:
  tokens: 1/2
  sequence_length: 32
  batch: 1 -> 2 sequences
  tokenizer: small
  model: {hidden_size: 16, num_attention_heads: 2, num_key_value_heads: 1}
  learning_rate: {max: 5e-1, min: 1e-1, warmup: 3 steps}
  stand_ins: {prose: code}
long: {sequence_length: 65}
"""


def test_a_size_scales_an_import_s_lengths_and_text_but_not_its_model_tokenizer_and_rate(
    drafted: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(drafted, tmp_path / "project"))
    (root / "sizes.yaml").write_text(SMALLER.replace("1/2", "0.5"))
    full = compile_curriculum(Project(root), "mine", "full").stages[0]
    small = compile_curriculum(Project(root), "mine", "small").stages[0]
    same = {key: value for key, value in full.plan.model.items() if key != "max_position_embeddings"}
    assert {key: small.plan.model[key] for key in same} == same
    assert small.plan.sequence_length == small.plan.model["max_position_embeddings"] == 32
    assert (small.plan.batch_sequences, full.plan.batch_sequences) == (4, 2)
    assert (small.declared_end, full.declared_end) == (6_000, 12_000)
    assert (small.plan.learning_rate.max, small.plan.learning_rate.min) == (1e-4, 1e-5)
    assert small.plan.sources["prose"].dataset == "code"
    note = next(note for note in small.notes if "size `small`" in note)
    assert "states its own model and tokenizer and learning rate: not applied" in note
    assert not any("states its own" in note for note in full.notes)


def test_windows_longer_than_the_model_s_positions_are_refused(drafted: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(drafted, tmp_path / "project"))
    (root / "sizes.yaml").write_text(SMALLER.replace("1/2", "0.5"))
    with pytest.raises(PlanError, match="`sequence_length` of 65 is more than the 64 positions") as refused:
        compile_curriculum(Project(root), "mine", "long")
    assert refused.value.place is not None
    assert refused.value.place.file == "sizes.yaml"


@pytest.mark.parametrize("tokens", [1, 10**6, 10**9, 10**11])
def test_the_batch_that_an_import_proposes_is_dealt_to_any_power_of_two_of_gpus_and_scaled_by_every_size(
    tokens: int,
) -> None:
    sequences = import_model._batch(Project(ROOT), 2048, tokens)
    sizes = [entry.batch for entry in Project(ROOT).sizes.root.values() if entry.batch]
    steps = [size.from_ // math.gcd(size.from_, size.to) for size in sizes if size.from_]
    assert all(sequences % step == 0 for step in steps)
    rest = sequences // math.lcm(*steps)
    assert rest & (rest - 1) == 0
    assert sequences * 2048 <= max(2 * import_model.BATCH_TOKENS, 2048 * math.lcm(*steps))


@pytest.mark.parametrize(("to", "why"), [("a-file/model", "Not a directory"), ("", "names no directory")])
def test_an_export_to_where_nothing_can_be_written_is_refused_before_any_work(
    finished: Path, tmp_path: Path, curriculum: Curriculum, to: str, why: str
) -> None:
    (tmp_path / "a-file").write_text("")
    refused = curriculum(finished, "export", "mine", "--to", str(tmp_path / to) if to else "", check=False)
    assert refused.returncode == 2
    assert why in refused.stderr
    assert "preparing" not in refused.stdout + refused.stderr
    unknown = curriculum(finished, "export", "unknown", "--to", str(tmp_path / "new/model"), check=False)
    assert "unknown curriculum" in unknown.stderr
    assert not (tmp_path / "new").exists()


def test_an_import_writes_its_file_once_and_names_a_directory_elsewhere_in_full(
    drafted: Path, curriculum: Curriculum, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(drafted, tmp_path / "project"))
    before = (root / "stages/mine.yaml").read_bytes()
    again = curriculum(root, "import", "tiny", "mine", "--mixture", "prose-only", check=False)
    assert again.returncode == 2
    assert "exists already" in again.stderr
    assert (root / "stages/mine.yaml").read_bytes() == before

    shutil.move(root / "tiny", tmp_path / "a model: its #1")
    found = json.loads(
        command(root, "import", "../a model: its #1", "other", "--mixture", "mixed", "--tokens", "3B", "--json")
    )
    assert found["written"] == "stages/other.yaml"
    assert found["dtype"] == "bfloat16"
    leg = Project(root).curriculum("other")[0]
    assert leg.from_ == f"hf:{tmp_path}/a model: its #1"
    compiled = compile_curriculum(Project(root), "other", "full")
    assert compiled.stages[0].setting.until == 3_000_000_000
    assert compiled.stages[0].plan.batch_tokens == 1 << 20

    which = curriculum(root, "import", str(tmp_path / "a model: its #1"), "third", check=False)
    assert "no mixture given" in which.stderr
    assert "mixed, prose-only" in which.stderr

"""Whole runs of a small project through the command line: real processes, real signals, real files."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import commands
import llamas
import numpy as np
import pytest
import torch

from curriculum import fs
from curriculum.artifacts import checkpoints, ledger
from curriculum.artifacts.evaluations import read_evaluations
from curriculum.artifacts.stage_folder import StageFolder
from curriculum.compiler.prepared_text import PreparedText
from curriculum.config.project import Project
from curriculum.errors import Busy
from curriculum.plan.model import ModelConfig
from curriculum.plan.stage import StagePlan
from curriculum.stream import reader
from runner.checkpoint import tensors
from runner.model.transformer import Transformer

Curriculum = Callable[..., "subprocess.CompletedProcess[str]"]

FULL = ("--size", "full")


def done(project: Path, curriculum: str, stage: str) -> dict[str, object]:
    return json.loads((project / "runs/full" / curriculum / stage / "DONE").read_bytes())


def stage(project: Path, curriculum: str, name: str) -> Path:
    return project / "runs/full" / curriculum / name


def test_one_command_prepares_the_text_and_trains_every_stage_of_the_lineage(finished: Path) -> None:
    assert (stage(finished, "trunk", "basic") / "DONE").exists()
    assert (stage(finished, "variant", "continual") / "DONE").exists()
    assert done(finished, "variant", "cooldown")["position"] == 12288
    assert not (finished / "runs/full/trunk/continual").exists()


def test_training_lowers_the_held_out_loss(finished: Path) -> None:
    folder = stage(finished, "trunk", "basic") / "evaluations"
    losses = [json.loads(path.read_bytes())["sets"]["prose"]["loss"] for path in sorted(folder.iterdir())]
    assert losses[-1] < losses[0] - 1


def test_every_stage_s_end_is_a_checkpoint_that_verifies(finished: Path) -> None:
    for curriculum, name in (("trunk", "basic"), ("variant", "continual"), ("variant", "cooldown")):
        folder = stage(finished, curriculum, name)
        end = StagePlan.load(folder / "plan.json").end
        checkpoint = checkpoints.latest(StageFolder(folder))
        assert checkpoint is not None
        assert checkpoint.position == end
        checkpoints.verify(checkpoint.path)


def test_running_what_is_done_already_starts_no_process_and_changes_nothing(
    finished: Path, curriculum: Curriculum
) -> None:
    attempts = sorted(finished.rglob("attempts/*"))
    before = time.monotonic()
    again = curriculum(finished, "run", "variant", *FULL)
    assert "done, at 12,288 tokens" in again.stdout
    assert sorted(finished.rglob("attempts/*")) == attempts
    assert time.monotonic() - before < 20


def test_the_result_table_shows_the_held_out_loss_of_every_source_at_the_stages_edges(
    finished: Path, curriculum: Curriculum
) -> None:
    table = curriculum(finished, "run", "variant", *FULL).stdout.split("held-out loss")[1]
    for label in ("trunk/basic start", "end of trunk/basic", "end of variant/continual", "end of variant/cooldown"):
        row = next(line for line in table.splitlines() if line.startswith(label))
        assert len(re.findall(r"\d+\.\d{3}", row)) == 2, row


@pytest.mark.promise("A trunk is shared by its variants and not trained again")
def test_another_variant_shares_the_trunk_which_is_not_trained_again(
    finished: Path, curriculum: Curriculum, tmp_path: Path
) -> None:
    project = tmp_path / "copy"
    shutil.copytree(finished, project)
    trunk = done(project, "trunk", "basic")
    attempts = len(list((stage(project, "trunk", "basic") / "attempts").iterdir()))
    curriculum(project, "run", "trunk", *FULL)
    assert done(project, "trunk", "basic") == trunk
    assert len(list((stage(project, "trunk", "basic") / "attempts").iterdir())) == attempts
    assert done(project, "trunk", "cooldown")["position"] == 12288


Seen = Callable[[Path], bool]


def preparing(project: Path) -> bool:
    return any(project.glob("data/*/*.partial"))


def steps(of: str, count: int) -> Seen:
    """Whether `count` steps of a stage are in its metrics."""

    def seen(project: Path) -> bool:
        metrics = project / "runs/full" / of / "metrics.jsonl"
        return metrics.exists() and metrics.read_bytes().count(b"\n") >= count

    return seen


@pytest.mark.promise(
    "Stopped by Ctrl-C, SIGTERM or `kill -9` again and again, a run ends with the same bits as an uninterrupted one"
)
@pytest.mark.parametrize(
    ("number", "stops"),
    [
        (signal.SIGKILL, (preparing, steps("trunk/basic", 3), steps("variant/continual", 2))),
        (signal.SIGTERM, (steps("trunk/basic", 2), steps("trunk/basic", 9))),
        (signal.SIGINT, (steps("trunk/basic", 3), steps("variant/continual", 3))),
    ],
    ids=["SIGKILL", "SIGTERM", "SIGINT"],
)
def test_a_run_that_was_stopped_again_and_again_ends_with_the_same_bits(
    finished: Path, small_project: Path, number: signal.Signals, stops: tuple[Seen, ...]
) -> None:
    if preparing not in stops:
        shutil.copytree(finished / "data", small_project / "data")
    for seen in stops:
        with (small_project / "said.txt").open("w") as said:
            process = commands.start(
                *("run", "variant", *FULL),
                folder=small_project,
                environment={**os.environ, "OMP_NUM_THREADS": "1"},
                out=said.fileno(),
                err=said.fileno(),
                fresh=seen is stops[-1],  # once as a person starts it
            )
        until = time.monotonic() + 120
        while not seen(small_project) and process.poll() is None and time.monotonic() < until:
            time.sleep(0.002)
        assert process.poll() is None, "it ended before it could be stopped"
        process.send_signal(number)
        process.wait(timeout=60)
    commands.run("run", "variant", *FULL, folder=small_project, check=True)
    for curriculum, name in (("trunk", "basic"), ("variant", "continual"), ("variant", "cooldown")):
        assert done(small_project, curriculum, name) == done(finished, curriculum, name)
        # A stop adds a line of its own; every line of the undisturbed run is there with the same counts.
        undisturbed = ledger_by_position(finished, curriculum, name)
        assert ledger_by_position(small_project, curriculum, name).items() >= undisturbed.items()
        assert evaluated(small_project, curriculum, name) == evaluated(finished, curriculum, name)


def evaluated(project: Path, curriculum: str, name: str) -> list[str]:
    return [path.name for path in StageFolder(stage(project, curriculum, name)).evaluation_files()]


@pytest.mark.promise("`plan` says how many tokens a run evaluates")
def test_a_run_evaluates_as_often_and_as_many_tokens_as_its_plan_says(finished: Path, curriculum: Curriculum) -> None:
    plan = json.loads(curriculum(finished, "plan", "variant", *FULL, "--json").stdout)
    tokens = 0
    for row in plan["stages"]:
        measured = read_evaluations(StageFolder(stage(finished, row["curriculum"], row["stage"])))
        assert len(measured) == row["evaluations"]
        tokens += sum(entry["tokens"] for sets in measured.values() for entry in sets.values())
    assert plan["cost"]["tokens_evaluated"] == tokens
    assert plan["cost"]["evaluation_share"] == pytest.approx(tokens / (tokens + 3 * plan["cost"]["tokens"]))


def ledger_by_position(project: Path, curriculum: str, name: str) -> dict[int, object]:
    return {entry.position: entry for entry in ledger.read(StageFolder(stage(project, curriculum, name)))}


@pytest.mark.promise("The trainer's own count of windows equals the plan's arithmetic")
def test_the_trainer_s_own_count_of_windows_equals_the_plan_s_arithmetic(finished: Path) -> None:
    for curriculum, name in (("trunk", "basic"), ("variant", "continual"), ("variant", "cooldown")):
        folder = stage(finished, curriculum, name)
        plan = StagePlan.load(folder / "plan.json")
        entries = ledger.read(StageFolder(folder))
        assert entries[-1].position == plan.end
        for entry in entries:
            planned = plan.windows_read(entry.position)
            assert {n: c for n, c in planned.items() if c} == dict(entry.windows)


@pytest.mark.promise("The tokens of a step do not depend on ranks, micro-batch or workers")
def test_two_processes_train_the_same_tokens_in_the_same_steps(finished: Path, paired: Path) -> None:
    one, two = stage(finished, "variant", "continual"), stage(paired, "variant", "continual")
    assert StagePlan.load(one / "plan.json").fingerprint == StagePlan.load(two / "plan.json").fingerprint
    mine, theirs = fs.read_json_lines(one / "metrics.jsonl"), fs.read_json_lines(two / "metrics.jsonl")
    assert [line["step"] for line in mine] == [line["step"] for line in theirs]
    for left, right in zip(mine, theirs, strict=True):
        assert {n: s["tokens"] for n, s in left["sources"].items()} == {
            n: s["tokens"] for n, s in right["sources"].items()
        }
        assert left["loss"] == pytest.approx(right["loss"], rel=2e-4)


@pytest.mark.promise("The tokens of a step do not depend on ranks, micro-batch or workers")
@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
def test_the_tokens_of_a_step_do_not_depend_on_the_number_of_ranks(finished: Path, ranks: int) -> None:
    plan = StagePlan.load(stage(finished, "variant", "continual") / "plan.json")
    texts = PreparedText.open(Project(finished), "variant", "full")
    sources = reader.open_sources(plan, {name: str(texts.folder(s.dataset)) for name, s in plan.sources.items()})
    for step in range(plan.first_step, plan.stop_step):
        parts = [reader.read(plan, sources, step, rank, ranks) for rank in range(ranks)]
        whole = reader.read(plan, sources, step, 0, 1)
        assert np.array_equal(np.concatenate([part.tokens for part in parts]), whole.tokens)


def test_batch_shows_the_same_step_before_and_after_it_ran(
    finished: Path, small_project: Path, curriculum: Curriculum
) -> None:
    curriculum(small_project, "prepare", "variant", *FULL)
    before = json.loads(curriculum(small_project, "batch", "variant", "--step", "30", *FULL, "--json").stdout)
    after = json.loads(curriculum(finished, "batch", "variant", "--step", "30", *FULL, "--json").stdout)
    assert before == after
    assert before["stage"] == "continual"
    assert all(slot["documents"] for slot in before["slots"])


@pytest.mark.promise("An edited mixture under a started run is refused with the first step it changes")
def test_an_edited_mixture_under_a_started_run_is_refused_with_the_first_step_it_changes(
    finished: Path, curriculum: Curriculum, tmp_path: Path
) -> None:
    project = tmp_path / "copy"
    shutil.copytree(finished, project)
    (project / "mixtures/mixed.yaml").write_text("weights: {prose: 1, code: 1}\n")
    refused = curriculum(project, "run", "variant", *FULL, check=False)
    assert refused.returncode == 2
    assert "`variant/continual` has started with another plan" in refused.stderr
    assert re.search(r"from\s+step\s+\d+\s+on", refused.stderr)
    assert "hint:" in refused.stderr


@pytest.mark.promise("A flipped bit in a checkpoint is noticed before it is loaded")
def test_a_checkpoint_with_one_flipped_bit_is_refused_before_use(
    finished: Path, curriculum: Curriculum, tmp_path: Path
) -> None:
    project = tmp_path / "copy"
    shutil.copytree(finished, project)
    shutil.rmtree(project / "runs/full/variant")
    end = checkpoints.latest(StageFolder(stage(project, "trunk", "basic")))
    assert end is not None
    target = next(end.path.glob("*.safetensors"))
    raw = bytearray(target.read_bytes())
    raw[len(raw) // 2] ^= 1
    target.write_bytes(raw)
    refused = curriculum(project, "run", "variant", *FULL, check=False)
    assert refused.returncode == 1
    assert target.name in refused.stderr
    assert "holds other bytes" in refused.stderr


@pytest.mark.processes
def test_a_second_start_in_the_same_folder_learns_who_holds_it(small_project: Path) -> None:
    lock = small_project / "lock"
    code = (
        "import time; from pathlib import Path; from curriculum.fs import Lock; "
        f"Lock(Path({str(lock)!r}), 'the folder').acquire(); print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    try:
        with pytest.raises(Busy, match=f"pid {holder.pid}"):
            fs.Lock(lock, "the folder").acquire()
    finally:
        holder.kill()
        holder.wait()
    fs.Lock(lock, "the folder").acquire()


def test_verify_finds_everything_in_order_and_a_changed_byte_of_the_text(
    finished: Path, curriculum: Curriculum, tmp_path: Path
) -> None:
    assert "ok  ledger of variant/cooldown" in curriculum(finished, "verify", "variant", *FULL).stdout
    project = tmp_path / "copy"
    shutil.copytree(finished, project)
    shard = next((project / "data/prose").glob("*/train/*.ds"))
    raw = bytearray(shard.read_bytes())
    raw[100] ^= 4
    shard.write_bytes(raw)
    refused = curriculum(project, "verify", "variant", *FULL, check=False)
    assert refused.returncode == 2
    assert shard.name in refused.stderr


@pytest.mark.promise("transformers computes our logits (within 1e-4) from an export, with our tokens")
def test_an_export_is_a_hugging_face_directory_with_our_logits_and_our_tokens(
    finished: Path, curriculum: Curriculum, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    curriculum(finished, "export", "variant/continual", "--to", str(tmp_path / "out"), *FULL)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    folder = stage(finished, "variant", "continual")
    ours = Transformer(ModelConfig.from_json(StagePlan.load(folder / "plan.json").model))
    last = checkpoints.latest(StageFolder(folder))
    assert last is not None
    tensors.load(last.path, ours, None)
    with torch.no_grad():
        mine = ours.head.logits(ours(llamas.tokens()))
    assert mine.std() > 0.5
    torch.testing.assert_close(llamas.logits(theirs), mine, rtol=0, atol=1e-4)

    assert (theirs.config.eos_token_id, theirs.config.bos_token_id) == (0, None)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    texts = PreparedText.open(Project(finished), "variant", "full")
    assert texts.loaded_tokenizer is not None
    for text in ("rain and ships", "  x = lambda:\n\tyield é"):
        assert tokenizer(text).input_ids == texts.loaded_tokenizer.encode(text)
    assert (tokenizer.eos_token, tokenizer.eos_token_id) == ("</s>", 0)
    card = (tmp_path / "out/README.md").read_text()
    assert "| trunk/basic | prose-only |" in card
    assert "variant/cooldown" not in card
    assert "## Held-out loss" in card

    curriculum(finished, "export", "trunk@6144", "--to", str(tmp_path / "at"), *FULL)
    assert "# trunk@6.144k at 6,144 tokens" in (tmp_path / "at/README.md").read_text()

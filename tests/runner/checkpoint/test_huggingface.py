"""Weights in and out: an import exported again is bitwise the directory, and killed half-way nothing is half there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import commands
import family_models
import llamas
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small import ALONE, CONFIG, NUMBERS, build, take
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from curriculum.artifacts import checkpoints, huggingface, jobs
from curriculum.artifacts.jobs import ExportJob, ImportJob
from curriculum.errors import Busy, CheckpointError, ConfigError, DataError
from curriculum.plan.model import ModelConfig
from runner.checkpoint import huggingface as checkpoint_huggingface, tensors as checkpoint_tensors
from runner.checkpoint.huggingface import to_hugging_face
from runner.model.transformer import Transformer
from runner.train.optimizer import adamw

KINDS = {
    "bf16, untied": {"dtype": torch.bfloat16},
    "bf16, tied": {"dtype": torch.bfloat16, "tied": True},
    "fp16": {"dtype": torch.float16},
    "fp32": {"dtype": torch.float32},
    "Llama 3's positions": {"dtype": torch.bfloat16, "rope": llamas.LLAMA_3},
    "one key head": {"dtype": torch.bfloat16, "num_key_value_heads": 1},
    "as many key heads": {"dtype": torch.bfloat16, "num_key_value_heads": 4},
    "wider heads": {"dtype": torch.bfloat16, "head_dim": 16},
    "in several files": {"dtype": torch.bfloat16, "shard": "30KB"},
    "other constants": {"rms_norm_eps": 1e-3, "rope": {"rope_type": "default", "rope_theta": 500.0}},
}


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= load_file(path)
    return found


def imported(source: Path, at: Path, **more: int) -> Path:
    """The checkpoint folder that `source` becomes below `at`."""
    job = ImportJob(attempt_folder="", source=str(source), imported=str(at), memory=str(at / "digests.json"))
    outcome = checkpoint_huggingface.import_directory(job, **more)
    assert outcome["outcome"] == jobs.DONE
    return Path(outcome["checkpoint"])


def back(folder: Path, output: Path, dtype: str | None = None, **more: int) -> Path:
    """An import's checkpoint exported again, in the directory's own dtypes unless another is stated."""
    origin = checkpoints.state(folder)["imported"]
    checkpoint_huggingface.export(
        ExportJob(
            attempt_folder="",
            checkpoint=str(folder),
            output=str(output),
            model=origin["model"],
            dtype=dtype or origin["dtype"],
            dtypes={} if dtype else origin["dtypes"],
            copies={path.name: str(path) for path in (folder / huggingface.SOURCE).iterdir()},
            **more,
        )
    )
    return output


@pytest.mark.promise("An import exported again is bitwise the directory, dtype by dtype")
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_an_import_exported_again_is_bitwise_the_directory(kind: dict[str, object], tmp_path: Path) -> None:
    source = llamas.save(tmp_path / "theirs", **kind)
    ours = back(imported(source, tmp_path / "data"), tmp_path / "ours")
    theirs, mine = tensors(source), tensors(ours)
    assert mine.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert mine[name].dtype == tensor.dtype, name
        assert torch.equal(mine[name], tensor), name
    for name in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        assert (ours / name).read_bytes() == (source / name).read_bytes()
    one, other = (AutoModelForCausalLM.from_pretrained(folder) for folder in (source, ours))
    assert one.dtype == other.dtype
    assert torch.equal(llamas.logits(one), llamas.logits(other))


@pytest.mark.promise("An import of any family exported again is bitwise the directory, and generates the same text")
@pytest.mark.parametrize("kind", family_models.ONE_OF_EACH)
def test_an_import_of_any_family_exported_again_is_bitwise_the_directory_and_generates_the_same(
    kind: str, tmp_path: Path
) -> None:
    source = llamas.save(tmp_path / "theirs", family_models.model(kind, dtype=torch.bfloat16))
    checkpoint = imported(source, tmp_path / "data")
    out = back(checkpoint, tmp_path / "ours")
    theirs, mine = tensors(source), tensors(out)
    assert mine.keys() == theirs.keys()
    assert all(mine[name].dtype == t.dtype and torch.equal(mine[name], t) for name, t in theirs.items())
    assert (out / "config.json").read_bytes() == (source / "config.json").read_bytes()
    one, other = (AutoModelForCausalLM.from_pretrained(folder).float().eval() for folder in (source, out))
    assert type(one) is type(other)
    read = llamas.tokens()
    expected = one.generate(read, max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=0)
    assert torch.equal(
        other.generate(read, max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=0), expected
    )
    ours = Transformer(ModelConfig.from_json(huggingface.read(source).model))
    checkpoint_tensors.load(checkpoint, ours, None)
    with torch.no_grad():
        for _ in range(8):
            read = torch.cat((read, ours.head.logits(ours(read))[:, -1:].argmax(-1)), dim=1)
    assert torch.equal(read, expected)


@pytest.mark.promise("An import's model is the directory's, wider heads and scaled rotary positions included")
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_our_model_computes_the_imported_model_s_logits(kind: dict[str, object], tmp_path: Path) -> None:
    source = llamas.save(tmp_path / "theirs", **kind)
    folder = imported(source, tmp_path / "data", file_bytes=20_000)
    assert len(list(folder.glob("rank-*.safetensors"))) > 1
    checkpoints.verify(folder)
    ours = Transformer(ModelConfig.from_json(huggingface.read(source).model))
    state = checkpoint_tensors.load(folder, ours, None)
    assert (state["position"], state["step"], state["windows"]) == (0, 0, {})
    expected = llamas.logits(LlamaForCausalLM.from_pretrained(source))
    assert expected.std() > 0.5
    with torch.no_grad():
        torch.testing.assert_close(ours.head.logits(ours(llamas.tokens())), expected, rtol=0, atol=1e-4)


def test_a_directory_of_several_dtypes_keeps_each(tmp_path: Path) -> None:
    source = llamas.save(tmp_path / "theirs", dtype=torch.bfloat16)
    stored = load_file(source / "model.safetensors")
    stored["model.norm.weight"] = stored["model.norm.weight"].float() + 1e-6
    stored["model.layers.1.mlp.up_proj.weight"] = stored["model.layers.1.mlp.up_proj.weight"].half()
    save_file(stored, source / "model.safetensors", metadata={"format": "pt"})
    mine = tensors(back(imported(source, tmp_path / "data"), tmp_path / "ours"))
    assert {name: (t.dtype, t.sum().item()) for name, t in mine.items()} == {
        name: (t.dtype, t.sum().item()) for name, t in stored.items()
    }


def test_an_import_is_made_once_and_its_weights_are_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = llamas.save(tmp_path / "theirs")
    folder = imported(source, tmp_path / "data")
    written = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_huggingface.fs, "sha256_file", lambda path: pytest.fail(f"{path} was read"))
        assert imported(source, tmp_path / "data") == folder
    os.utime(source / "model.safetensors")  # touched: read again, and found to be the same
    assert imported(source, tmp_path / "data") == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == written


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_other_bytes_in_any_file_that_decides_are_another_import(name: str, tmp_path: Path) -> None:
    source = llamas.save(tmp_path / "theirs")
    first = imported(source, tmp_path / "data")
    if name == "model.safetensors":
        stored = load_file(source / name)
        stored["model.norm.weight"][0] += 1
        save_file(stored, source / name, metadata={"format": "pt"})
    else:
        (source / name).write_text((source / name).read_text() + "\n")
    assert imported(source, tmp_path / "data") != first


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    made = llamas.model()
    with torch.no_grad():
        made.model.layers[1].mlp.down_proj.weight[3, 4] = float("nan")
    source = llamas.save(tmp_path / "theirs", made)
    with pytest.raises(DataError, match=r"`model\.layers\.1\.mlp\.down_proj\.weight` holds numbers that are not"):
        imported(source, tmp_path / "data")
    assert [path.name for path in (tmp_path / "data").iterdir()] == []


def test_an_output_weight_beside_tied_embeddings_is_left_out_if_it_is_them_and_refused_if_not(tmp_path: Path) -> None:
    source = llamas.save(tmp_path / "theirs", tied=True)
    stored = load_file(source / "model.safetensors")
    stored["lm_head.weight"] = stored["model.embed_tokens.weight"].clone()
    save_file(stored, source / "model.safetensors", metadata={"format": "pt"})
    ours = back(imported(source, tmp_path / "data"), tmp_path / "ours")
    assert tensors(ours).keys() == stored.keys() - {"lm_head.weight"}
    one, other = (AutoModelForCausalLM.from_pretrained(folder) for folder in (source, ours))
    assert torch.equal(llamas.logits(one), llamas.logits(other))

    stored["lm_head.weight"][5] += 1
    save_file(stored, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"its embeddings are tied, yet `lm_head\.weight` is another tensor"):
        imported(source, tmp_path / "data")


# --- export of what was trained --------------------------------------------------------------------------


@pytest.fixture
def trained(tmp_path: Path) -> tuple[Path, Transformer]:
    """A checkpoint with moments, after two steps, and its model."""
    model = build()
    optimizer = adamw(model, NUMBERS)
    for step in range(2):
        take(model, optimizer, step)
    checkpoint_tensors.save(tmp_path / "saved", model, optimizer, {"step": 2}, ALONE)
    return tmp_path / "saved", model


def job(saved: Path, output: Path, **more: object) -> ExportJob:
    model = {key: value for key, value in asdict(CONFIG).items() if value is not None}
    config = huggingface.config_of(model, dtype="float32", eos=0, bos=None)
    return ExportJob(
        **{
            "attempt_folder": str(output.parent / "attempt"),
            "checkpoint": str(saved),
            "output": str(output),
            "model": model,
            "dtype": "float32",
            "texts": {"config.json": json.dumps(config), "README.md": "a card"},
            **more,
        }
    )


def test_transformers_computes_our_logits_from_an_export(trained: tuple[Path, Transformer], tmp_path: Path) -> None:
    saved, model = trained
    checkpoint_huggingface.export(job(saved, tmp_path / "out"))
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    read = torch.randint(CONFIG.vocab_size, (3, 24), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        torch.testing.assert_close(theirs(read).logits, model.head.logits(model(read)), rtol=0, atol=1e-4)


@pytest.mark.parametrize("limit", [9_000, 20_000])
def test_a_large_export_is_several_files_with_an_index_that_transformers_follows(
    limit: int, trained: tuple[Path, Transformer], tmp_path: Path
) -> None:
    saved, model = trained
    checkpoint_huggingface.export(job(saved, tmp_path / "out", shard_bytes=limit))
    files = sorted((tmp_path / "out").glob("model-*.safetensors"))
    assert len(files) > 2
    assert files[0].name == f"model-00001-of-{len(files):05d}.safetensors"
    for path in files:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            assert file.metadata() == {"format": "pt"}
        assert len(names) == 1 or path.stat().st_size < limit + 2000
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_bytes())
    whole = tensors(tmp_path / "out")
    assert index["weight_map"].keys() == whole.keys()
    assert index["metadata"]["total_size"] == sum(t.numel() * 4 for t in whole.values())
    expected = dict(to_hugging_face(CONFIG, model.state_dict().__getitem__))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in expected.items())


def test_rows_that_several_ranks_wrote_are_put_together(trained: tuple[Path, Transformer], tmp_path: Path) -> None:
    saved, model = trained
    two = tmp_path / "two"
    two.mkdir()
    index = json.loads((saved / checkpoint_tensors.INDEX).read_bytes())
    stored = load_file(saved / "rank-00000.safetensors")
    parts: list[dict[str, torch.Tensor]] = [{}, {}]
    for key, entry in index.items():
        rows = entry["shape"][0]
        middle = -(-rows // 2) if key != "model.norm.weight" else rows  # one rank may hold none
        entry["parts"] = []
        for rank, (first, last) in enumerate(((0, middle), (middle, rows))):
            if last > first:
                parts[rank][key] = stored[key][first:last].clone()
                entry["parts"].append({"file": f"rank-{rank:05d}.safetensors", "rows": [first, last]})
    for rank, part in enumerate(parts):
        save_file(part, two / f"rank-{rank:05d}.safetensors")
    (two / checkpoint_tensors.INDEX).write_text(json.dumps(index))
    (two / checkpoints.STATE).write_bytes((saved / checkpoints.STATE).read_bytes())
    checkpoints.seal(two)
    checkpoint_huggingface.export(job(two, tmp_path / "out"))
    expected = dict(to_hugging_face(CONFIG, model.state_dict().__getitem__))
    found = tensors(tmp_path / "out")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())

    index["model.head.weight"]["parts"].pop()
    (two / checkpoint_tensors.INDEX).write_text(json.dumps(index))
    (two / checkpoints.MANIFEST).unlink()
    checkpoints.seal(two)
    with pytest.raises(CheckpointError, match=r"holds 34 of the 67 rows of `model\.head\.weight`"):
        checkpoint_huggingface.export(job(two, tmp_path / "other"))
    assert not (tmp_path / "other").exists()


def test_bf16_weights_are_the_nearest_to_those_trained(trained: tuple[Path, Transformer], tmp_path: Path) -> None:
    saved, model = trained
    checkpoint_huggingface.export(job(saved, tmp_path / "out", dtype="bfloat16"))
    for name, tensor in to_hugging_face(CONFIG, model.state_dict().__getitem__):
        assert torch.equal(tensors(tmp_path / "out")[name], tensor.bfloat16())


def test_a_checkpoint_with_one_flipped_bit_is_not_exported(trained: tuple[Path, Transformer], tmp_path: Path) -> None:
    saved, _ = trained
    path = saved / "rank-00000.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-5] ^= 1
    path.write_bytes(raw)
    with pytest.raises(CheckpointError, match="holds other bytes"):
        checkpoint_huggingface.export(job(saved, tmp_path / "out"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["saved"]


def test_a_directory_that_is_there_is_left_alone(trained: tuple[Path, Transformer], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(ConfigError, match="exists already"):
        checkpoint_huggingface.export(job(trained[0], tmp_path / "out"))
    assert list((tmp_path / "out").iterdir()) == []


def test_an_export_that_fails_leaves_nothing(trained: tuple[Path, Transformer], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        checkpoint_huggingface.export(
            job(trained[0], tmp_path / "out", copies={"tokenizer.json": str(tmp_path / "none")})
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["saved"]


def test_two_exports_to_one_directory_do_not_meet(trained: tuple[Path, Transformer], tmp_path: Path) -> None:
    with checkpoint_huggingface.fs.build_directory(tmp_path / "out") as folder:
        (folder / "mine").write_text("the first")
        with pytest.raises(Busy, match="is being written by another process"):
            checkpoint_huggingface.export(job(trained[0], tmp_path / "out"))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


# --- killed ----------------------------------------------------------------------------------------------

FILES = {"README.md", "config.json", "model.safetensors.index.json"}


def _at_once(temporary: Path) -> bool:
    return temporary.exists()


def _in_the_weights(temporary: Path) -> bool:
    return (temporary / "model-00002-of-00004.safetensors").exists()


def _at_the_last_file(temporary: Path) -> bool:
    """Or past it: in memory the directory may be published before the next look."""
    return (temporary / "README.md").exists() or temporary.with_name(temporary.name.removeprefix(".tmp-")).exists()


@pytest.mark.promise("After a kill an export or import is absent or complete, and the next one removes the remains")
@pytest.mark.processes
def test_killed_while_exporting_the_directory_is_absent_or_complete_and_the_next_export_clears_up(
    tmp_path: Path,
) -> None:
    numbers = {**asdict(CONFIG), "hidden_size": 512, "intermediate_size": 2048, "vocab_size": 8000}
    config = ModelConfig.from_json(numbers)
    model = build(config)
    checkpoint_tensors.save(tmp_path / "saved", model, adamw(model, NUMBERS), {"step": 0}, ALONE)
    del numbers["rope_scaling"]
    (tmp_path / "attempt").mkdir()
    output = tmp_path / "out"
    temporary = tmp_path / ".tmp-out"
    jobs.save(job(tmp_path / "saved", output, model=numbers, shard_bytes=19_000_000), tmp_path / "job.json")
    left = 0
    for moment in (_at_once, _in_the_weights, _at_the_last_file):
        assert _killed(tmp_path, moment, temporary), "the moment passed unseen"
        left += temporary.exists()
        assert not output.exists() or {path.name for path in output.iterdir()} >= FILES
        if output.exists():
            break
    assert left >= 2, "what was half-written stays under a name that no reader knows"
    if not output.exists():
        with open(os.devnull, "w") as nothing:
            last = commands.start_python(
                *("-m", "runner", str(tmp_path / "job.json")),
                folder=tmp_path,
                environment=os.environ,
                out=nothing.fileno(),
                err=nothing.fileno(),
            )
            assert last.wait(120) == 0
    whole = tensors(output)
    expected = dict(to_hugging_face(config, model.state_dict().__getitem__))
    assert whole.keys() == expected.keys()
    assert all(torch.equal(whole[name], tensor) for name, tensor in expected.items())
    assert {path.name for path in output.iterdir()} >= FILES
    assert not temporary.exists(), "the next export took over what the killed ones left"


def _killed(folder: Path, moment: Callable[[Path], bool], temporary: Path) -> bool:
    """Start the job and kill it as soon as `moment` has come; false when it ended before."""
    arguments = ("-m", "runner", str(folder / "job.json"))
    process = commands.start_python(*arguments, folder=folder, environment=os.environ, out=1, err=2)
    try:
        while True:
            seen = moment(temporary)
            try:
                assert process.wait(0.0005) == 0
                return seen or moment(temporary)
            except subprocess.TimeoutExpired:
                if seen:
                    process.kill()
                    assert process.wait(60) in (-signal.SIGKILL, 0)
                    return True
    finally:
        process.kill()


@pytest.mark.promise("After a kill an export or import is absent or complete, and the next one removes the remains")
@pytest.mark.processes
def test_killed_while_importing_nothing_is_taken_for_an_import_and_the_next_one_clears_up(tmp_path: Path) -> None:
    source = llamas.save(tmp_path / "theirs", hidden_size=256, intermediate_size=2048, num_hidden_layers=6)
    data = tmp_path / "data"
    (tmp_path / "attempt").mkdir()
    asked = ImportJob(
        attempt_folder=str(tmp_path / "attempt"),
        source=str(source),
        imported=str(data),
        memory=str(data / "digests.json"),
    )
    jobs.save(asked, tmp_path / "job.json")
    directory = huggingface.read(source)
    sums = {name: checkpoint_huggingface.fs.sha256_file(source / name) for name in directory.identity_files}
    final = data / huggingface.digest(sums)[:16]
    temporary = data / f".tmp-{final.name}"
    assert _killed(tmp_path, lambda at: (at / "rank-00000.safetensors").exists(), temporary)
    assert temporary.exists()
    assert not final.exists()
    assert huggingface.known_sums(directory, data / "digests.json") is None
    assert imported(source, data) == final
    assert not temporary.exists()
    checkpoints.verify(final)


def test_asked_to_stop_an_export_leaves_nothing(trained: tuple[Path, Transformer], tmp_path: Path) -> None:
    from curriculum.artifacts.job_process import StopFlag

    stop = StopFlag()
    stop.requested = True
    assert checkpoint_huggingface.export(job(trained[0], tmp_path / "out"), stop) == {"outcome": jobs.STOPPED}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["saved"]


def test_transformers_reads_an_imported_tokenizer_as_before(tmp_path: Path) -> None:
    source = llamas.save(tmp_path / "theirs")
    ours = back(imported(source, tmp_path / "data"), tmp_path / "ours")
    text = "the grey sea\n  was calm </s> and slow"
    assert AutoTokenizer.from_pretrained(ours)(text) == AutoTokenizer.from_pretrained(source)(text)

"""Checkpoints: every bit comes back, what does not fit is refused, nothing half-written bears a name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small import ALONE, CONFIG, NUMBERS, build, take, whole

from curriculum import fs
from curriculum.artifacts import checkpoints
from curriculum.errors import CheckpointError
from runner.checkpoint import tensors
from runner.model.transformer import Transformer
from runner.train.optimizer import adamw


def fresh(seed: int = 1) -> tuple[Transformer, torch.optim.Optimizer]:
    model = build(seed=seed)
    return model, adamw(model, NUMBERS)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.promise("A checkpoint resumes with the same bits, on one rank or two")
@pytest.mark.parametrize("saved_after", [0, 1, 3])
def test_a_resumed_run_is_the_uninterrupted_one_to_the_last_bit(tmp_path: Path, saved_after: int) -> None:
    model, optimizer = fresh()
    for step in range(5):
        if step == saved_after:
            tensors.save(tmp_path / "here", model, optimizer, {"step": step}, ALONE)
        take(model, optimizer, step)

    resumed, its_optimizer = fresh(seed=9)
    state = tensors.load(tmp_path / "here", resumed, its_optimizer)
    assert state["step"] == saved_after
    assert tensors.adam_step(its_optimizer) == saved_after
    for step in range(state["step"], 5):
        take(resumed, its_optimizer, step)
    assert same(whole(resumed), whole(model))


def test_saving_a_fresh_optimizer_does_not_move_adams_clock(tmp_path: Path) -> None:
    model, optimizer = fresh()
    tensors.save(tmp_path / "here", model, optimizer, {}, ALONE)
    assert tensors.adam_step(optimizer) == 0
    take(model, optimizer, 0)
    undisturbed, its_optimizer = fresh()
    take(undisturbed, its_optimizer, 0)
    assert same(whole(model), whole(undisturbed))


def test_saving_changes_nothing_in_the_run_that_goes_on(tmp_path: Path) -> None:
    weights = []
    for saves in (False, True):
        model, optimizer = fresh()
        for step in range(3):
            take(model, optimizer, step)
            if saves:
                tensors.save(tmp_path / str(step), model, optimizer, {}, ALONE)
        weights.append(whole(model))
    assert same(*weights)


def test_weights_alone_start_a_fresh_optimizer(tmp_path: Path) -> None:
    model, optimizer = fresh()
    for step in range(3):
        take(model, optimizer, step)
    tensors.save(tmp_path / "here", model, optimizer, {}, ALONE)

    branch, its_optimizer = fresh(seed=9)
    tensors.load(tmp_path / "here", branch, None)
    assert same(whole(branch), whole(model))
    assert tensors.adam_step(its_optimizer) == 0
    assert not any(values["exp_avg"].any() for values in its_optimizer.state.values())


def test_state_comes_back_as_it_was_given(tmp_path: Path) -> None:
    model, optimizer = fresh()
    state = {"position": 1_200_001_646_592, "windows": {"prose": 3}, "fingerprint": "ab"}
    tensors.save(tmp_path / "here", model, optimizer, state, ALONE)
    found = tensors.load(tmp_path / "here", *fresh())
    assert {key: found[key] for key in state} == state


def test_the_same_weights_make_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "other"):
        model, optimizer = fresh()
        take(model, optimizer, 0)
        tensors.save(tmp_path / name, model, optimizer, {"written": name}, ALONE)
    one, other = (checkpoints.weights_digest(tmp_path / name) for name in ("one", "other"))
    assert one == other


def test_the_folder_is_sealed_and_holds_no_pickle(tmp_path: Path) -> None:
    model, optimizer = fresh()
    tensors.save(tmp_path / "here", model, optimizer, {}, ALONE)
    checkpoints.verify(tmp_path / "here")
    names = sorted(path.name for path in (tmp_path / "here").iterdir())
    assert names == ["manifest.json", "rank-00000.safetensors", "state.json", "tensors.json"]
    assert [path.name for path in tmp_path.iterdir()] == ["here"], "nothing temporary stays behind"


def test_one_flipped_bit_is_noticed(tmp_path: Path) -> None:
    model, optimizer = fresh()
    tensors.save(tmp_path / "here", model, optimizer, {}, ALONE)
    file = tmp_path / "here" / "rank-00000.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"rank-00000\.safetensors.*other bytes"):
        checkpoints.verify(tmp_path / "here")


def test_what_a_killed_save_left_is_not_sealed_into_the_next(tmp_path: Path) -> None:
    left = tmp_path / ".tmp-here"
    left.mkdir()
    (left / "rank-00007.safetensors").write_bytes(b"half")
    model, optimizer = fresh()
    tensors.save(tmp_path / "here", model, optimizer, {}, ALONE)
    assert not (tmp_path / "here" / "rank-00007.safetensors").exists()


def test_a_save_that_fails_leaves_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, value: object, *, replace: bool = False) -> None:
        raise OSError(28, "No space left on device")

    model, optimizer = fresh()
    monkeypatch.setattr(fs, "write_json", full)
    with pytest.raises(OSError, match="No space left"):
        tensors.save(tmp_path / "g0-0000000000000128", model, optimizer, {}, ALONE)
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"intermediate_size": 60}, r"feed_forward\.gate_up\.weight` has shape \[104, 32\], not \[120, 32\]"),
        ({"num_hidden_layers": 3}, r"`model\.blocks\.2\..*` is missing"),
        ({"num_hidden_layers": 1}, r"it has no `model\.blocks\.1\."),
    ],
    ids=["wider", "deeper", "shallower"],
)
def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path, change: dict[str, int], reason: str) -> None:
    tensors.save(tmp_path / "here", *fresh(), {}, ALONE)
    other = build(replace(CONFIG, **change))
    with pytest.raises(CheckpointError, match=f"does not fit the plan's model: .*{reason}"):
        tensors.load(tmp_path / "here", other, adamw(other, NUMBERS))


def test_a_tied_model_is_saved_once_and_comes_back(tmp_path: Path) -> None:
    config = replace(CONFIG, tie_word_embeddings=True)
    model = build(config)
    optimizer = adamw(model, NUMBERS)
    take(model, optimizer, 0)
    tensors.save(tmp_path / "here", model, optimizer, {}, ALONE)
    index = json.loads((tmp_path / "here" / tensors.INDEX).read_text())
    assert "model.head.weight" not in index
    other = build(config, seed=9)
    tensors.load(tmp_path / "here", other, adamw(other, NUMBERS))
    assert same(whole(other), whole(model))
    assert other.head.weight is other.embedding.weight

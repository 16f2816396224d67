"""Saving while training goes on: what is saved is the copy, one at a time, and nothing half-written is ever read."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path

import commands
import pytest
import torch
from blake3 import blake3
from safetensors.torch import save_file
from small import ALONE, NUMBERS, build, take, whole

from curriculum import fs
from curriculum.artifacts import checkpoints
from curriculum.artifacts.stage_folder import StageFolder
from curriculum.errors import RunFailed
from runner.checkpoint import rank_file, tensors
from runner.checkpoint.tensors import Saver
from runner.model.transformer import Transformer
from runner.train.optimizer import adamw


def fresh(seed: int = 1) -> tuple[Transformer, torch.optim.Optimizer]:
    model = build(seed=seed)
    return model, adamw(model, NUMBERS)


class Gate:
    """Holds the writing thread before it publishes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = threading.Event()
        self.reached = threading.Event()
        seal = checkpoints.seal

        def held(folder: Path, known: dict[str, str]) -> None:
            self.reached.set()
            assert self.open.wait(30)
            seal(folder, known)

        monkeypatch.setattr(checkpoints, "seal", held)


@pytest.mark.promise(
    "A checkpoint written asynchronously has the bits of the step it names; a failing write stops the run"
)
def test_steps_taken_while_a_checkpoint_is_written_are_not_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    model, optimizer = fresh()
    take(model, optimizer, 0)
    then = whole(model)
    saver = Saver(ALONE)
    said: list[str] = []
    saver.begin(tmp_path / "here", model, optimizer, {"step": 1}, lambda: said.append("published"))
    saver.wait_for_copy()
    assert gate.reached.wait(30)
    take(model, optimizer, 1)  # begin() has returned: training goes on
    assert not (tmp_path / "here").exists()
    assert said == []
    gate.open.set()
    saver.wait()
    assert said == ["published"]
    checkpoints.verify(tmp_path / "here")
    again, its_optimizer = fresh(seed=9)
    tensors.load(tmp_path / "here", again, its_optimizer)
    assert all(torch.equal(tensor, then[name]) for name, tensor in whole(again).items())
    take(again, its_optimizer, 1)
    assert all(torch.equal(tensor, whole(model)[name]) for name, tensor in whole(again).items())


def test_a_second_save_waits_for_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    model, optimizer = fresh()
    saver = Saver(ALONE)
    saver.begin(tmp_path / "one", model, optimizer, {})
    assert gate.reached.wait(30)
    threading.Timer(0.3, gate.open.set).start()
    before = time.monotonic()
    saver.begin(tmp_path / "two", model, optimizer, {})
    assert time.monotonic() - before > 0.2
    assert (tmp_path / "one").exists()
    saver.wait()
    assert (tmp_path / "two").exists()


@pytest.mark.promise(
    "A checkpoint written asynchronously has the bits of the step it names; a failing write stops the run"
)
def test_what_goes_wrong_in_the_thread_is_raised_by_the_next_call_and_names_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, value: object, *, replace: bool = False) -> None:
        raise OSError(28, "No space left on device")

    model, optimizer = fresh()
    saver = Saver(ALONE)
    said: list[str] = []
    with monkeypatch.context() as broken:
        broken.setattr(fs, "write_json", full)
        saver.begin(tmp_path / "here", model, optimizer, {}, lambda: said.append("published"))
        assert saver._thread is not None
        saver._thread.join()
    with pytest.raises(OSError, match="No space left"):
        saver.check()
    assert said == []
    assert not (tmp_path / "here").exists()
    saver.begin(tmp_path / "here", model, optimizer, {})
    saver.wait()
    checkpoints.verify(tmp_path / "here")
    assert not list((tmp_path / "here").glob(f"*{tensors.FAILED}"))


@pytest.mark.promise(
    "NaN, Inf and loss spikes are reported with steps and documents, and a non-finite state never becomes a checkpoint"
)
def test_weights_that_are_not_finite_never_become_a_checkpoint(tmp_path: Path) -> None:
    model, optimizer = fresh()
    with torch.no_grad():
        model.norm.weight[3] = torch.nan
    with pytest.raises(RunFailed, match=r"`model\.norm\.weight` is not finite any more"):
        tensors.save(tmp_path / "here", model, optimizer, {}, ALONE)
    assert not (tmp_path / "here").exists()


def test_rank_0_hears_of_another_rank_s_failure_through_the_folder(tmp_path: Path) -> None:
    missing = tmp_path / "rank-00001.safetensors"
    missing.with_name(missing.name + tensors.FAILED).write_text("OSError: full")
    with pytest.raises(RunFailed, match=r"another process could not write its part.*OSError: full"):
        tensors._wait_for([missing], 5.0)


def test_a_save_that_copies_nothing_is_published_when_it_returns_and_writes_the_same_bytes(tmp_path: Path) -> None:
    model, optimizer = fresh()
    take(model, optimizer, 0)
    saver = Saver(ALONE)
    saver.begin(tmp_path / "copied", model, optimizer, {"step": 1})
    saver.wait()
    staging = saver._staging._buffer
    saver.begin(tmp_path / "not", model, optimizer, {"step": 1}, copy=False)
    files = {path.name: path.read_bytes() for path in (tmp_path / "copied").iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "not").iterdir()} == files
    assert saver._staging._buffer is staging
    saver = Saver(ALONE)
    saver.begin(tmp_path / "again", model, optimizer, {"step": 1}, copy=False)
    assert not len(saver._staging._buffer), "no memory is taken for a copy"


def test_the_copy_is_one_buffer_of_the_state_s_size_that_every_save_uses_again(tmp_path: Path) -> None:
    model, optimizer = fresh()
    saver = Saver(ALONE)
    saver.begin(tmp_path / "one", model, optimizer, {})
    buffer = saver._staging._buffer
    assert len(buffer) == 12 * sum(parameter.numel() for parameter in model.parameters())
    saver.begin(tmp_path / "two", model, optimizer, {})
    saver.wait()
    assert saver._staging._buffer is buffer


def test_a_rank_s_file_is_what_safetensors_would_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fs, "BLOCK_BYTES", 1 << 12)  # several blocks a tensor
    draw = torch.Generator().manual_seed(0)
    shapes = {"b.weight": (37, 61), "a": (3,), "exp_avg.z": (2, 0x400)}
    state = {key: torch.randn(shape, generator=draw) for key, shape in shapes.items()}
    digest = rank_file.write(tmp_path / "ours", state)
    save_file(state, tmp_path / "theirs")
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    assert digest == fs.blake3_file(tmp_path / "theirs") == blake3((tmp_path / "theirs").read_bytes()).hexdigest()


DIES = """\
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from small import ALONE, NUMBERS, build, take
from curriculum.artifacts import checkpoints
from runner.checkpoint import rank_file
from runner.checkpoint.tensors import Saver
from runner.train.optimizer import adamw
folder = Path(sys.argv[1])
model = build()
optimizer = adamw(model, NUMBERS)
saver = Saver(ALONE)
take(model, optimizer, 0)
saver.begin(folder / "g0-0000000000000128", model, optimizer, {"step": 1})
saver.wait()
def dies(*_):
    os.kill(os.getpid(), signal.SIGKILL)
def dies_between(blocks):
    for number, block in enumerate(blocks):
        yield dies() if number == 5 else block
if sys.argv[3] == "writing":
    blocks = rank_file._blocks
    rank_file._blocks = lambda tensors: dies_between(blocks(tensors))
else:
    checkpoints.seal = dies
take(model, optimizer, 1)
saver.begin(folder / "g0-0000000000000256", model, optimizer, {"step": 2}, copy=sys.argv[4] == "copied")
saver.wait()
"""


@pytest.mark.processes
@pytest.mark.parametrize(("when", "how"), [("writing", "copied"), ("writing", "in place"), ("sealing", "in place")])
def test_a_kill_while_writing_leaves_the_last_complete_checkpoint(tmp_path: Path, when: str, how: str) -> None:
    support = str(Path(__file__).parents[2] / "support")
    done = commands.python("-c", DIES, str(tmp_path / "checkpoints"), support, when, how, folder=tmp_path)
    assert done.returncode == -signal.SIGKILL
    folder = StageFolder(tmp_path)
    last = checkpoints.latest(folder)
    assert last is not None
    assert last.position == 128
    checkpoints.verify(last.path)
    assert list(folder.checkpoints.glob(".tmp-*"))
    checkpoints.sweep(folder)
    assert [path.name for path in folder.checkpoints.iterdir()] == ["g0-0000000000000128"]

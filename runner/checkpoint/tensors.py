"""Tensors to and from checkpoint folders: safetensors and JSON, resumable on any number of ranks.

    rank-00000.safetensors …   the rows that each rank held of `model.<name>`, Adam's moments of it and its
                                 moving average `ema.<name>` if one is kept
    tensors.json               for every tensor its shape and which file holds which rows
    state.json                 position, step, counters, Adam's step
    manifest.json              written last: size and BLAKE3 of the others

A rank reads only the rows that it will hold. (torch.distributed.checkpoint takes a second to import
at every start, and writes neither digests nor a commit record.)
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from curriculum import fs
from curriculum.artifacts import checkpoints, huggingface
from curriculum.artifacts.jobs import Machine
from curriculum.errors import CheckpointError, RunFailed
from curriculum.stream.agreement import POLL_SECONDS
from runner.checkpoint import rank_file
from runner.checkpoint.hf_weights import index_of, read_rows
from runner.parallel.fsdp import reshard
from runner.parallel.ranks import Ranks, local_part, rows_of

INDEX = checkpoints.INDEX
FAILED, DIGEST = ".failed", ".blake3"  # what a rank leaves for rank 0 beside its file
MOMENTS = ("exp_avg", "exp_avg_sq")
"""Adam's moments; Muon's matrices have a `momentum_buffer` in their place."""
EMA = "ema"
"""Before the name of a tensor: the moving average of the weights; also its key in the optimizer's state."""


def save(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Any], ranks: Ranks
) -> None:
    """Write and publish the checkpoint `folder`; every rank calls it, all return once it is durable."""
    saver = Saver(ranks)
    saver.begin(folder, model, optimizer, state)
    saver.wait()
    ranks.wait()


class Saver:
    """Saves during training: a thread writes a copy of the tensors, or the tensors themselves, one save at a time.

    The threads of several ranks communicate through the checkpoint's unpublished folder only. (A thread that uses a
    process group while training uses it too breaks the connections of both.) Rank 0 publishes once every rank's file
    exists, for which it waits `patience` seconds; the next call here raises the error of a thread.

    A CPU's thread makes the copy too, while the next step's gradients are computed: `wait_for_copy` comes before
    anything changes the tensors.
    """

    def __init__(self, ranks: Ranks, patience: float = Machine().slow_limit) -> None:
        self._ranks, self._patience = ranks, patience
        self._staging = rank_file.Staging()
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._is_copied = threading.Event()
        self._is_copied.set()

    def begin(
        self,
        folder: Path,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        state: Mapping[str, Any],
        published: Callable[[], None] = lambda: None,
        *,
        copy: bool = True,
    ) -> None:
        """Begin the checkpoint `folder` with this `state`, as `write` does; `published` is called at its end."""
        self.wait()
        temporary = folder.parent / f".tmp-{folder.name}"

        def clear() -> None:
            fs.remove(temporary)
            fs.make_directory(temporary)

        def publish(digests: Mapping[str, str]) -> None:
            fs.write_json(temporary / checkpoints.STATE, value)
            checkpoints.seal(temporary, digests)
            fs.publish(temporary, folder)
            published()

        value = {**state, "adam_step": adam_step(optimizer)}
        self._ranks.first_does(clear)
        self.write(temporary, model, optimizer, publish, copy=copy)

    def write(
        self,
        temporary: Path,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        publish: Callable[[Mapping[str, str]], None],
        *,
        copy: bool = True,
    ) -> None:
        """Begin to copy what is to be saved, or without `copy`, which all ranks say alike, return once it is published.

        Every rank calls it with the same empty folder, once no other save is being written. On rank 0 `publish` gets
        the digests of the files in there and makes it a checkpoint.
        """
        ranks = self._ranks
        reshard(model)
        tensors = dict(_tensors(model, optimizer))
        writes = rows_of(next(iter(tensors.values())))[2] == 0  # otherwise a lower replica writes the same rows
        rows = {key: rows_of(tensor)[:2] for key, tensor in tensors.items()} if writes else {}
        gathered = ranks.gather(rows)
        index = {
            key: {
                "shape": list(tensor.shape),
                "parts": [
                    {"file": _file(rank), "rows": list(part[key])}
                    for rank, part in enumerate(gathered)
                    if key in part and part[key][1] > part[key][0]
                ],
            }
            for key, tensor in tensors.items()
        }
        files = [temporary / _file(rank) for rank, part in enumerate(gathered) if part]
        parts = {key: local_part(tensor).detach() for key, tensor in tensors.items()} if writes else {}
        parts = {key: part for key, part in parts.items() if part.numel()}
        copied = self._staging.copy(parts) if copy else lambda: parts

        def write_part() -> None:
            try:
                written = copied()
                self._is_copied.set()
                if writes:
                    _write(temporary / _file(ranks.rank), written)
                if ranks.first:
                    _wait_for(files, self._patience)
                    digests = {path.name: _digest(path) for path in files}
                    fs.write_json(temporary / INDEX, index)
                    publish(digests)
            except BaseException as error:
                self._failure = error
                self._is_copied.set()
                with contextlib.suppress(OSError):
                    (temporary / f"{_file(ranks.rank)}{FAILED}").write_text(f"{type(error).__name__}: {error}")

        if copy and next(iter(tensors.values())).device.type == "cpu":
            self._is_copied.clear()
        self._thread = threading.Thread(target=write_part, name="checkpoint", daemon=True)
        self._thread.start()
        if not copy:
            self.wait()

    def wait_for_copy(self) -> None:
        """Until the tensors may be changed."""
        self._is_copied.wait()

    def check(self) -> None:
        """Raise the error of a thread that failed."""
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def wait(self) -> None:
        """Until every rank has written its file and rank 0 has published the checkpoint; every rank calls it."""
        self._ranks.wait_until(self._is_idle)
        self._thread = None
        self.check()

    def _is_idle(self) -> bool:
        if self._thread is not None:
            self._thread.join(POLL_SECONDS)
        return self._thread is None or not self._thread.is_alive()


def _write(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write this rank's file, which appears when it is durable and its digest is beside it."""
    unfinished = path.with_name(f".{path.name}")
    digest = rank_file.write(unfinished, tensors)
    path.with_name(f"{path.name}{DIGEST}").write_text(digest)
    os.rename(unfinished, path)


def _digest(path: Path) -> str:
    """The digest that a rank computed of its file; taken away from beside it."""
    beside = path.with_name(f"{path.name}{DIGEST}")
    digest = beside.read_text()
    beside.unlink()
    return digest


def _wait_for(files: Sequence[Path], patience: float) -> None:
    """Until every file exists; RunFailed once a rank reports a failure, or after `patience` seconds."""
    deadline = time.monotonic() + patience
    for path in files:
        failed = path.with_name(f"{path.name}{FAILED}")
        while not path.exists():
            if failed.exists():
                raise RunFailed(f"another process could not write its part, {path.name}: {failed.read_text()}")
            if time.monotonic() > deadline:
                raise RunFailed(f"another process has not written its part, {path.name}, in {patience:g} seconds")
            time.sleep(0.02)


def load(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer | None, *, weights: str = "model"
) -> dict[str, Any]:
    """Read the weights, and with `optimizer` its state, into place; returns the checkpoint's state.

    `weights` is `ema` where the moving average takes the weights' place. One that is kept from here on only, and is not
    in the checkpoint, begins at its weights. Another trainer's checkpoint with `layout: hf` has weights alone.

    Raises CheckpointError when a tensor is missing or of another shape, DataError for a Hugging Face model that we do
    not read. The caller has verified the digests.
    """
    state = checkpoints.state(folder)
    root, index = read_index(folder)
    reshard(model)
    tensors = dict(_tensors(model, optimizer))
    unknown = {key for key in index if key.startswith("model.")} - tensors.keys()
    if unknown:
        raise _misfit(folder, f"it has no `{min(unknown)}`")
    with torch.no_grad():
        for key, tensor in tensors.items():
            stored = _stored_as(key, weights, index)
            entry = index.get(stored)
            if entry is None:
                raise _misfit(folder, f"`{stored}` is missing")
            if entry["shape"] != list(tensor.shape):
                raise _misfit(folder, f"`{key}` has shape {entry['shape']}, not {list(tensor.shape)}")
            begin, end, _ = rows_of(tensor)
            target = local_part(tensor)
            for part in entry["parts"]:
                first, last = part["rows"]
                low, high = max(first, begin), min(last, end)
                if low < high:
                    rows = read_rows(root, part, stored, low - first, high - first)
                    target[low - begin : high - begin].copy_(rows)
    if optimizer is not None:
        for values in optimizer.state.values():
            values["step"].fill_(float(state["adam_step"]))
    return state


def read_index(checkpoint: Path) -> tuple[Path, dict[str, Any]]:
    """The folder that the files of a checkpoint's tensors are in, and which rows of each tensor are in which file.

    Of another trainer's checkpoint they are those of its Hugging Face model.
    """
    if checkpoints.trainer_of(checkpoint) is None:
        return checkpoint, json.loads(fs.read_bytes(checkpoint / INDEX))
    directory = huggingface.read(checkpoints.hf_folder(checkpoint), with_tokenizer=False)
    return directory.folder, index_of(directory)


def _stored_as(key: str, weights: str, index: Mapping[str, Any]) -> str:
    """The tensor of a checkpoint that is read as `key`."""
    kind, _, name = key.partition(".")
    if kind == "model":
        return f"{weights}.{name}"
    return f"model.{name}" if kind == EMA and key not in index else key


def adam_step(optimizer: torch.optim.Optimizer) -> int:
    """The number of updates of the moments; the same for every parameter."""
    return int(next(iter(optimizer.state.values()))["step"])


def _tensors(model: nn.Module, optimizer: torch.optim.Optimizer | None) -> Iterator[tuple[str, torch.Tensor]]:
    for name, parameter in model.named_parameters():
        yield f"model.{name}", parameter
        if optimizer is not None:
            for moment, tensor in optimizer.state[parameter].items():
                if moment != "step":
                    yield f"{moment}.{name}", tensor


def _misfit(folder: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"checkpoint `{folder.name}` does not fit the plan's model: {reason}",
        hint="a checkpoint continues with the model it was trained with",
    )


def _file(rank: int) -> str:
    return f"rank-{rank:05d}.safetensors"

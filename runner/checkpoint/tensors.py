"""Tensors to and from checkpoint folders: safetensors and JSON, resumable on any number of ranks.

    rank-00000.safetensors …   the rows that each rank held of `model.<name>` and Adam's moments of it
    tensors.json               for every tensor its shape and which file holds which rows
    state.json                 position, step, counters, Adam's step
    manifest.json              written last: size and SHA-256 of the others

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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from curriculum import fs
from curriculum.artifacts import checkpoints
from curriculum.errors import CheckpointError, RunFailed
from runner.parallel.fsdp import reshard
from runner.parallel.ranks import Ranks, local_part, rows_of

INDEX = checkpoints.INDEX
FAILED = ".failed"
PATIENCE_SECONDS = 3600.0  # for the slowest rank's file on a shared file system
POLL_SECONDS = 0.05
MOMENTS = ("exp_avg", "exp_avg_sq")


def save(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Any], ranks: Ranks
) -> None:
    """Write and publish the checkpoint `folder`; every rank calls it, all return once it is durable."""
    saver = Saver(ranks)
    saver.begin(folder, model, optimizer, state)
    saver.wait()
    ranks.wait()


class Saver:
    """Saves during training: the tensors are copied, and a thread writes the copy, one save at a time.

    The threads of several ranks communicate through the checkpoint's unpublished folder only. (A thread that uses a
    process group while training uses it too breaks the connections of both.) Rank 0 publishes once every rank's file
    exists; the next call here raises the error of a thread.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._copies: dict[str, torch.Tensor] = {}
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    def begin(
        self,
        folder: Path,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        state: Mapping[str, Any],
        published: Callable[[], None] = lambda: None,
        sealed: Callable[[], None] = lambda: None,
    ) -> None:
        """Copy what is to be saved and return; every rank calls it.

        On rank 0 `sealed` runs before the checkpoint is published, `published` once it is durable.
        """
        self.wait()
        ranks, temporary = self._ranks, folder.parent / f".tmp-{folder.name}"
        if ranks.first:
            fs.remove(temporary)  # of a killed save, perhaps of more ranks
            fs.make_directory(temporary)
        ranks.wait()
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
        if writes:
            self._copy(tensors)
        value = {**state, "adam_step": adam_step(optimizer)}

        def write() -> None:
            try:
                digests = {}
                if writes:
                    digests[_file(ranks.rank)] = self._write(temporary / _file(ranks.rank))
                if ranks.first:
                    _wait_for(files)
                    fs.write_json(temporary / INDEX, index)
                    fs.write_json(temporary / checkpoints.STATE, value)
                    checkpoints.seal(temporary, digests)
                    sealed()
                    fs.publish(temporary, folder)
                    published()
            except BaseException as error:
                self._failure = error
                with contextlib.suppress(OSError):
                    (temporary / f"{_file(ranks.rank)}{FAILED}").write_text(f"{type(error).__name__}: {error}")

        self._thread = threading.Thread(target=write, name="checkpoint", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise the error of a thread that failed."""
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def wait(self) -> None:
        """Until every rank has written its file and rank 0 has published the checkpoint; every rank calls it.

        The ranks ask each other again and again: a collective that waits for a slow disk would pass its timeout.
        """
        while self._ranks.any(self._thread is not None and self._thread.is_alive()):
            if self._thread is not None:
                self._thread.join(POLL_SECONDS)
            if self._ranks.size > 1:
                time.sleep(POLL_SECONDS)
        self._thread = None
        self.check()

    def _copy(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Copy into memory that is reused by every save, pinned where a GPU copies to it."""
        cuda = False
        for key, tensor in tensors.items():
            part = local_part(tensor).detach()
            if not part.numel():
                continue
            cuda = cuda or part.is_cuda
            if key not in self._copies:
                self._copies[key] = torch.empty(part.shape, dtype=part.dtype, pin_memory=part.is_cuda)
            self._copies[key].copy_(part, non_blocking=part.is_cuda)
        if cuda:
            torch.cuda.current_stream().synchronize()

    def _write(self, path: Path) -> str:
        """Write, make durable and return the digest of this rank's file."""
        for key, tensor in self._copies.items():
            if not np.isfinite(tensor.numpy()).all():
                raise RunFailed(
                    f"`{key}` is not finite any more: nothing is saved of this state",
                    hint="the last good checkpoint is kept; the same command continues from it",
                )
        unfinished = path.with_name(f".{path.name}")
        save_file(self._copies, unfinished)
        with ThreadPoolExecutor(1) as pool:  # digest and write to the disk at the same time
            digest = pool.submit(fs.sha256_file, unfinished)
            fs.fsync(unfinished)
        os.rename(unfinished, path)
        return digest.result()


def _wait_for(files: Sequence[Path]) -> None:
    """Until every file exists; RunFailed once a rank reports a failure, or after PATIENCE_SECONDS."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    for path in files:
        failed = path.with_name(f"{path.name}{FAILED}")
        while not path.exists():
            if failed.exists():
                raise RunFailed(f"another process could not write its part, {path.name}: {failed.read_text()}")
            if time.monotonic() > deadline:
                raise RunFailed(f"another process has not written its part, {path.name}, for a long time")
            time.sleep(0.02)


def load(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer | None) -> dict[str, Any]:
    """Read the weights, and with `optimizer` its moments, into place; returns the checkpoint's state.

    Raises CheckpointError when a tensor is missing or of another shape. The caller has verified the digests.
    """
    index: dict[str, Any] = json.loads(fs.read_bytes(folder / INDEX))
    state = checkpoints.state(folder)
    reshard(model)
    tensors = dict(_tensors(model, optimizer))
    unknown = {key for key in index if key.startswith("model.")} - tensors.keys()
    if unknown:
        raise _misfit(folder, f"it has no `{min(unknown)}`")
    with torch.no_grad():
        for key, tensor in tensors.items():
            entry = index.get(key)
            if entry is None:
                raise _misfit(folder, f"`{key}` is missing")
            if entry["shape"] != list(tensor.shape):
                raise _misfit(folder, f"`{key}` has shape {entry['shape']}, not {list(tensor.shape)}")
            begin, end, _ = rows_of(tensor)
            target = local_part(tensor)
            for part in entry["parts"]:
                first, last = part["rows"]
                low, high = max(first, begin), min(last, end)
                if low < high:
                    with safe_open(folder / part["file"], framework="pt") as file:
                        rows = file.get_slice(key)[low - first : high - first]
                    target[low - begin : high - begin].copy_(rows)
    if optimizer is not None:
        for values in optimizer.state.values():
            values["step"].fill_(float(state["adam_step"]))
    return state


def adam_step(optimizer: torch.optim.Optimizer) -> int:
    """The number of updates of the moments; the same for every parameter."""
    return int(next(iter(optimizer.state.values()))["step"])


def _tensors(model: nn.Module, optimizer: torch.optim.Optimizer | None) -> Iterator[tuple[str, torch.Tensor]]:
    for name, parameter in model.named_parameters():
        yield f"model.{name}", parameter
        if optimizer is not None:
            for moment in MOMENTS:
                yield f"{moment}.{name}", optimizer.state[parameter][moment]


def _misfit(folder: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"checkpoint `{folder.name}` does not fit the plan's model: {reason}",
        hint="a checkpoint continues with the model it was trained with",
    )


def _file(rank: int) -> str:
    return f"rank-{rank:05d}.safetensors"

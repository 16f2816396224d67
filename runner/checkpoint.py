"""Tensors to and from checkpoint folders: safetensors and JSON, resumable on any number of ranks.

    rank-00000.safetensors …   the rows that each rank held of `model.<name>` and Adam's moments of it
    tensors.json               for every tensor its shape and which rows lie in which file
    state.json                 position, step, counters, Adam's step
    manifest.json              written last: size and SHA-256 of all of these

A rank reads only the rows that it will hold, from whichever files hold them now. (With
torch.distributed.checkpoint, importing costs a second at every start, and neither digests nor a commit record
are written.)
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.distributed.tensor import DTensor

from curriculum import checkpoints, durable
from curriculum.errors import CheckpointError
from runner.distributed import Ranks
from runner.sharding import reshard

INDEX = "tensors.json"
MOMENTS = ("exp_avg", "exp_avg_sq")


def save(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Any], ranks: Ranks
) -> None:
    """Write and publish the checkpoint `folder`; every rank calls it, all return once it is durable."""
    temporary = folder.parent / f".tmp-{folder.name}"
    if ranks.first:
        shutil.rmtree(temporary, ignore_errors=True)  # a killed save's, perhaps of more ranks
        durable.make_directory(temporary)
    ranks.wait()
    reshard(model)
    tensors = dict(_tensors(model, optimizer))
    if _writes(tensors):
        held_here = {key: local(tensor).detach() for key, tensor in tensors.items()}
        save_file(
            {key: part.contiguous().cpu() for key, part in held_here.items() if part.numel()},
            temporary / _file(ranks.rank),
        )
    rows = {key: _rows(tensor) for key, tensor in tensors.items()} if _writes(tensors) else {}
    held = ranks.gather(rows)
    if ranks.first:
        index = {
            key: {
                "shape": list(tensor.shape),
                "parts": [
                    {"file": _file(rank), "rows": list(part[key])}
                    for rank, part in enumerate(held)
                    if key in part and part[key][1] > part[key][0]
                ],
            }
            for key, tensor in tensors.items()
        }
        durable.write_json(temporary / INDEX, index)
        durable.write_json(temporary / checkpoints.STATE, {**state, "adam_step": adam_step(optimizer)})
        checkpoints.seal(temporary)
        durable.publish(temporary, folder)
    ranks.wait()


def load(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer | None) -> dict[str, Any]:
    """Read the weights, and with `optimizer` its moments, into place; returns the checkpoint's state.

    Raises CheckpointError when a tensor is missing or of another shape. The caller has verified the digests.
    """
    index: dict[str, Any] = json.loads((folder / INDEX).read_bytes())
    state = checkpoints.state(folder)
    reshard(model)
    tensors = dict(_tensors(model, optimizer))
    strange = {key for key in index if key.startswith("model.")} - tensors.keys()
    if strange:
        raise _misfit(folder, f"it has no `{min(strange)}`")
    with torch.no_grad():
        for key, tensor in tensors.items():
            entry = index.get(key)
            if entry is None or entry["shape"] != list(tensor.shape):
                found = (
                    "is missing" if entry is None else f"has shape {entry['shape']}, not {list(tensor.shape)}"
                )
                raise _misfit(folder, f"`{key}` {found}")
            begin, end = _rows(tensor)
            target = local(tensor)
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
    """How many updates the moments have seen; the same for every parameter."""
    return int(next(iter(optimizer.state.values()))["step"])


def local(tensor: torch.Tensor) -> torch.Tensor:
    """The part of a tensor that this rank holds."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _tensors(model: nn.Module, optimizer: torch.optim.Optimizer | None) -> Iterator[tuple[str, torch.Tensor]]:
    for name, parameter in model.named_parameters():
        yield f"model.{name}", parameter
        if optimizer is not None:
            for moment in MOMENTS:
                yield f"{moment}.{name}", optimizer.state[parameter][moment]


def _rows(tensor: torch.Tensor) -> tuple[int, int]:
    """The half-open range of rows that this rank holds: FSDP2 shards dimension 0, in chunks of equal size."""
    if not isinstance(tensor, DTensor):
        return 0, tensor.shape[0]
    mesh = tensor.device_mesh
    shards, at = mesh.size(mesh.ndim - 1), mesh.get_local_rank(mesh.ndim - 1)
    chunk = -(-tensor.shape[0] // shards)
    begin = min(at * chunk, tensor.shape[0])
    return begin, begin + tensor.to_local().shape[0]


def _writes(tensors: Mapping[str, torch.Tensor]) -> bool:
    """Whether this rank's rows are not also held, and written, by a lower replica."""
    tensor = next(iter(tensors.values()))
    return not isinstance(tensor, DTensor) or tensor.device_mesh.get_local_rank(0) == 0


def _misfit(folder: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"checkpoint `{folder.name}` does not fit the plan's model: {reason}",
        hint="a checkpoint goes on with the model it was trained with",
    )


def _file(rank: int) -> str:
    return f"rank-{rank:05d}.safetensors"

"""Tensors to and from checkpoint folders: safetensors and JSON, resumable on any number of ranks.

    rank-00000.safetensors …   the rows that each rank held, under `model.<name>`, `exp_avg.<name>`, `exp_avg_sq.<name>`
    tensors.json               for every tensor its shape and which rows lie in which file
    state.json                 position, step, counters, Adam's step
    manifest.json              written last: size and SHA-256 of all of these

A rank reads only the rows that it will hold, from whichever files hold them now. (torch.distributed.checkpoint
would do; importing it costs a second at every start, and it writes neither digests nor a commit record.)
"""

from __future__ import annotations

import json

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

INDEX = "tensors.json"
MOMENTS = ("exp_avg", "exp_avg_sq")


def save(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Any], ranks: Ranks
) -> None:
    """Write and publish the checkpoint `folder`; every rank calls it, all return once it is durable."""
    temporary = folder.parent / f".tmp-{folder.name}"
    if ranks.first:
        durable.make_directory(temporary)
    ranks.wait()
    tensors = {key: tensor for key, tensor in _tensors(model, optimizer)}
    if _writes(tensors):
        save_file(
            {
                key: local(tensor).detach().contiguous().cpu()
                for key, tensor in tensors.items()
                if local(tensor).numel()
            },
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
    with torch.no_grad():
        for key, tensor in _tensors(model, optimizer):
            entry = index.get(key)
            if entry is None or entry["shape"] != list(tensor.shape):
                found = (
                    "is missing" if entry is None else f"has shape {entry['shape']}, not {list(tensor.shape)}"
                )
                raise CheckpointError(
                    f"checkpoint `{folder.name}` does not fit the plan's model: `{key}` {found}",
                    hint="a checkpoint goes on with the model it was trained with",
                )
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
        name = name.replace("_checkpoint_wrapped_module.", "").replace("_orig_mod.", "")
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


def _file(rank: int) -> str:
    return f"rank-{rank:05d}.safetensors"

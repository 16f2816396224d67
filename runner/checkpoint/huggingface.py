"""Between our checkpoints and Hugging Face directories: the `import` and `export` jobs.

Tensors are converted one after another, so that no more than one file of them is in memory. The job gives other
files (configuration, tokenizer, model card) as text or as paths to copy.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from curriculum import fs
from curriculum.artifacts import checkpoints, huggingface
from curriculum.artifacts.job_process import StopFlag
from curriculum.artifacts.jobs import DONE, STOPPED, ExportJob, ImportJob
from curriculum.errors import CheckpointError, ConfigError, DataError
from curriculum.plan.model import ModelConfig
from runner.checkpoint import tensors
from runner.checkpoint.hf_weights import index_of, read_rows

FILE_BYTES = 5_000_000_000
TORCH = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class Stopped(Exception):
    """A stop was requested; the unfinished directory is removed."""


# --- import ----------------------------------------------------------------------------------------------


def import_directory(job: ImportJob, stop: StopFlag | None = None, file_bytes: int = FILE_BYTES) -> dict[str, Any]:
    """Convert the directory, unless its bytes were converted before, and store their digests."""
    directory = huggingface.read(Path(job.source))
    memory = Path(job.memory)
    fs.make_directory(memory.parent)
    stamps = _stamps(directory)
    sums = huggingface.known_sums(directory, memory)
    if sums is None:
        sums = {name: fs.sha256_file(directory.folder / name) for name in stamps}
    digest = huggingface.digest(sums)
    final = Path(job.imported) / digest[:16]
    if not final.exists():
        try:
            with fs.build_directory(final) as folder:
                _convert(directory, digest, folder, stop, file_bytes)
                if _stamps(directory) != stamps:
                    raise DataError(
                        f"`{directory.folder}` was changed while it was imported",
                        hint="the same command imports it once it is complete",
                    )
        except Stopped:
            return {"outcome": STOPPED}
    # Last, since a plan takes stored digests for an import.
    huggingface.remember_sums(directory, memory, sums, stamps)
    return {"outcome": DONE, "digest": digest, "checkpoint": str(final)}


def _stamps(directory: huggingface.Directory) -> dict[str, str]:
    return {name: huggingface.stamp(directory.folder / name) for name in directory.identity_files}


def _convert(
    directory: huggingface.Directory, digest: str, folder: Path, stop: StopFlag | None, file_bytes: int
) -> None:
    """Write a checkpoint at position 0 into the empty `folder`, with the files that go through to an export."""
    _write_tensors(directory, folder, stop, file_bytes)
    fs.make_directory(folder / huggingface.SOURCE)
    for name in directory.carried:
        shutil.copyfile(directory.folder / name, folder / huggingface.SOURCE / name)
    fs.write_json(
        folder / checkpoints.STATE,
        {
            "generation": 0,
            "step": 0,
            "position": 0,
            "fingerprint": digest,
            "history": digest,
            "windows": {},
            "nonfinite_steps": 0,
            "nonfinite_in_a_row": 0,
            "ranks": 1,
            "imported": {
                "name": directory.folder.resolve().name,
                "digest": digest,
                "dtype": directory.dtype,
                "dtypes": directory.dtypes,
                "config": dict(directory.config),
                "model": dict(directory.model),
                "left_out": list(directory.left_out),
            },
        },
    )
    checkpoints.seal(folder)


def _write_tensors(directory: huggingface.Directory, folder: Path, stop: StopFlag | None, file_bytes: int) -> None:
    """Write the weights in fp32 with their index, without moments, into `folder`."""
    config = ModelConfig.from_json(directory.model)
    index: dict[str, Any] = {}
    file: dict[str, torch.Tensor] = {}
    number = 0

    def write() -> None:
        nonlocal number, file
        _save(file, folder / _file(number))
        number, file = number + 1, {}

    read = index_of(directory)
    for ours in config.fused_tensors():
        if stop:
            raise Stopped
        tensor = _merged(directory.folder, read, f"model.{ours}")
        if file and sum(map(_bytes, file.values())) + _bytes(tensor) > file_bytes:
            write()
        file[f"model.{ours}"] = tensor
        index[f"model.{ours}"] = {
            "shape": list(tensor.shape),
            "parts": [{"file": _file(number), "rows": [0, tensor.shape[0]]}],
        }
    write()
    fs.write_json(folder / tensors.INDEX, index)


def _save(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    save_file(dict(tensors), path, metadata={"format": "pt"})
    path.chmod(0o644)  # the library writes files that only their owner can read


def _file(number: int) -> str:
    return f"rank-{number:05d}.safetensors"


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


# --- export ----------------------------------------------------------------------------------------------


def export(job: ExportJob, stop: StopFlag | None = None) -> dict[str, Any]:
    """Write the directory, published when everything in it is on disk."""
    source, output = Path(job.checkpoint), Path(job.output)
    if output.exists():
        raise ConfigError(f"`{output}` exists already; nothing was written", hint="name a new directory")
    checkpoints.verify(source)
    try:
        with fs.build_directory(output) as folder:
            if job.model:
                _write_weights(job, ModelConfig.from_json(job.model), folder, stop)
            for name, text in job.texts.items():
                (folder / name).write_text(text)
            for name, path in job.copies.items():
                shutil.copyfile(path, folder / name)
            if job.sealed:
                checkpoints.seal(folder)
    except Stopped:
        return {"outcome": STOPPED}
    return {"outcome": DONE}


def _write_weights(job: ExportJob, config: ModelConfig, folder: Path, stop: StopFlag | None) -> None:
    """The tensors as safetensors: one file, or several with an index when one would exceed `shard_bytes`."""
    shards = _shards(job)
    names = (
        [huggingface.WEIGHTS]
        if len(shards) == 1
        else [f"model-{n + 1:05d}-of-{len(shards):05d}.safetensors" for n in range(len(shards))]
    )
    pending: dict[str, torch.Tensor] = {}
    root, index = tensors.read_index(Path(job.checkpoint))
    converted = to_hugging_face(config, lambda name: _merged(root, index, f"model.{name}"))
    for shard, file in zip(shards, names, strict=True):
        while not shard.keys() <= pending.keys():
            if stop:
                raise Stopped
            name, tensor = next(converted)
            pending[name] = tensor.to(TORCH[job.dtypes.get(name, job.dtype)])
        _save({name: pending.pop(name) for name in shard}, folder / file)
    if len(shards) > 1:
        weight_map = {name: file for shard, file in zip(shards, names, strict=True) for name in shard}
        total = sum(size for shard in shards for size in shard.values())
        fs.write_json(
            folder / huggingface.INDEX,
            {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))},
        )


def _shards(job: ExportJob) -> list[dict[str, int]]:
    """The tensors of each file with their bytes, in the order of the layers."""
    shards: list[dict[str, int]] = [{}]
    for name, shape in ModelConfig.from_json(job.model).shapes().items():
        size = math.prod(shape) * huggingface.BYTES[job.dtypes.get(name, job.dtype)]
        if shards[-1] and sum(shards[-1].values()) + size > job.shard_bytes:
            shards.append({})
        shards[-1][name] = size
    return shards


def to_hugging_face(config: ModelConfig, read: Callable[[str], torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor under its Hugging Face name, from the tensors that `read` returns for our names, in their order."""
    for ours, theirs in config.fused_tensors().items():
        parts = torch.split(read(ours), [shape[0] for shape in theirs.values()])
        for name, part in zip(theirs, parts, strict=True):
            # A copy: a view would keep, and be saved with, the storage of all its neighbours.
            yield name, part.clone()


def _merged(folder: Path, index: Mapping[str, Any], key: str) -> torch.Tensor:
    """The tensor from its parts, those that each rank wrote or of a Hugging Face model; CheckpointError when rows are
    missing.
    """
    entry = index.get(key)
    if entry is None:
        raise CheckpointError(f"checkpoint `{folder.name}` has no `{key}`", hint="it was trained with another model")
    tensor = torch.empty(entry["shape"])
    filled = 0
    for part in entry["parts"]:
        first, last = part["rows"]
        tensor[first:last].copy_(read_rows(folder, part, key, 0, last - first))
        filled += last - first
    if filled != entry["shape"][0]:
        raise CheckpointError(
            f"checkpoint `{folder.name}` holds {filled:,} of the {entry['shape'][0]:,} rows of `{key}`",
            hint="it is incomplete; take another checkpoint",
        )
    return tensor

"""Every file of a prepared data folder compared with the digest that its manifest has of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from curriculum import fs
from curriculum.data.manifest import Manifest, Shard, TokenLocation
from curriculum.errors import DataError

CHUNK = 1 << 20


def find_damage(folder: Path, manifest: Manifest, again: str) -> Iterator[int | DataError]:
    """The bytes of every sound file, and an error for every other one; `again` is the command that makes it again."""
    remake = f"remove the folder `{folder}`, and `{again}` makes it again"
    for split in manifest.splits.values():
        for shard in split.shards:
            elsewhere = manifest.elsewhere.get(shard.file)
            yield _tokens(folder, manifest, shard, elsewhere, remake)
            for file, digest in _companions(shard).items():
                yield _compared(folder / file, digest, remake)
    for file, digest in manifest.sidecars.items():
        yield _compared(folder / file, digest, remake)


def _companions(shard: Shard) -> dict[str, str]:
    """The files next to a shard's tokens, each with its digest."""
    base = shard.file.removesuffix(".ds")
    return {
        f"{shard.file}.blocks": shard.blocks_sha256,
        f"{shard.file}.index": shard.index_sha256,
        f"{base}.ids": shard.ids_sha256,
        f"{base}.ids.index": shard.ids_index_sha256,
    }


def _tokens(
    folder: Path, manifest: Manifest, shard: Shard, elsewhere: TokenLocation | None, remake: str
) -> int | DataError:
    if elsewhere is None:
        return _compared(folder / shard.file, shard.sha256, remake)
    # Someone else's file: symbolic links are followed, and the tokens may be a part of it.
    path, size = Path(elsewhere.path), shard.tokens * np.dtype(manifest.dtype).itemsize
    back = f"put it back as it was; or, to train on what it is now, {remake} from it"
    try:
        if path.stat().st_size != elsewhere.bytes:
            return _changed(path, f"has {path.stat().st_size:,} bytes instead of {elsewhere.bytes:,}", back)
        digest, remaining = hashlib.sha256(), size
        with path.open("rb") as file:
            file.seek(elsewhere.offset)
            while remaining and (data := file.read(min(remaining, CHUNK))):
                digest.update(data)
                remaining -= len(data)
    except OSError as reason:
        return _changed(path, f"cannot be read: {reason.strerror}", back)
    return size if digest.hexdigest() == shard.sha256 else _changed(path, "holds other tokens", back)


def _compared(path: Path, digest: str, way_out: str) -> int | DataError:
    """The bytes of a file that has this SHA-256, else the error."""
    try:
        actual, size = fs.sha256_file(path), path.stat().st_size
    except OSError as reason:
        return _damaged(path, f"cannot be read: {reason.strerror}", way_out)
    return size if actual == digest else _damaged(path, "differs from its digest", way_out)


def _changed(path: Path, how: str, way_out: str) -> DataError:
    return DataError(f"`{path}` is no longer as it was when it was digested: it {how}", hint=way_out)


def _damaged(path: Path, how: str, way_out: str) -> DataError:
    return DataError(f"`{path}` is damaged: it {how}", hint=way_out)

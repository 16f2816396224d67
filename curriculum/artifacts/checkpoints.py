"""Checkpoint directories: manifest, verification, pins and deletion. Tensors are read and written by the runner.

A checkpoint is complete once it has its final name: it is built as `.tmp-…`, sealed with a manifest of
every file's size and digest, synced and renamed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curriculum import fs
from curriculum.artifacts.stage_folder import StageFolder
from curriculum.errors import CheckpointError

KEEP_LAST = 2
"""Checkpoints of a stage's cadence that stay on disk next to its end and to those that are kept by name."""
TRACKERS = ("tensorboard", "wandb", "trackio")
MANIFEST = "manifest.json"
STATE = "state.json"
INDEX = "tensors.json"
FORMAT = 2
ALGORITHMS: dict[str, Callable[..., str]] = {"sha256": fs.sha256_file, "blake3": fs.blake3_file}
"""The digests of files that a manifest may hold, by the keys there; those of format 1 are SHA-256."""
_READ_FORMATS = (1, FORMAT)
_NAME = re.compile(r"g(\d+)-(\d{16,})")
_ASIDE = re.compile(rf"{re.escape(fs.ASIDE)}(?P<name>g\d+-(?P<position>\d{{16,}}))-[0-9a-f]+")


@dataclass(frozen=True, slots=True, order=True)
class Checkpoint:
    """A complete checkpoint on disk; `position` in tokens from the curriculum's root."""

    generation: int
    position: int
    path: Path

    @property
    def name(self) -> str:
        return self.path.name


def position_of(path: Path) -> int | None:
    """The position, in tokens, in the name of a published checkpoint; None for other names."""
    match = _NAME.fullmatch(path.name)
    return int(match[2]) if match else None


def list_checkpoints(folder: StageFolder) -> list[Checkpoint]:
    """Every published checkpoint of a stage, by (generation, position)."""
    paths = folder.checkpoints.iterdir() if folder.checkpoints.is_dir() else ()
    return sorted(
        Checkpoint(int(match[1]), int(match[2]), path)
        for path in paths
        if (match := _NAME.fullmatch(path.name)) and (path / MANIFEST).is_file()
    )


def latest(folder: StageFolder) -> Checkpoint | None:
    """The furthest checkpoint of the newest generation, or None."""
    return next(reversed(list_checkpoints(folder)), None)


def retained(positions: Sequence[int], end: int, keep: Collection[int], keep_last: int = KEEP_LAST) -> list[int]:
    """Those of a stage's saved `positions`, oldest first, that a trainer leaves on disk.

    They are the stage's end, those in `keep` and the last `keep_last` of the others.
    """
    passing = [position for position in positions if position != end and position not in keep]
    dropped = {*passing[: -keep_last or None]}
    return [position for position in positions if position not in dropped]


def seal(folder: Path, digests: Mapping[str, str] | None = None) -> None:
    """Write the manifest of a finished but unpublished checkpoint folder: size and BLAKE3 of every file.

    `digests` are BLAKE3 by name below the folder, of files that the caller has hashed as it wrote them.
    """
    digests = digests or {}
    files = {
        str(path.relative_to(folder)): {
            "bytes": path.stat().st_size,
            "blake3": digests.get(str(path.relative_to(folder))) or fs.blake3_file(path),
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    fs.write_sealed(folder / MANIFEST, {"format": FORMAT, "files": files})


def refuse_links(folder: StageFolder) -> None:
    """DataError for a symbolic link in a stage's folder or in one of its directories, those of trackers excepted."""
    if not folder.path.is_dir():
        return
    for path in sorted(folder.path.iterdir()):
        if path.name in TRACKERS:
            continue
        inside = sorted(path.iterdir()) if path.is_dir() and not path.is_symlink() else []
        for entry in (path, *inside):
            if entry.is_symlink():
                raise fs.link_error(entry)


def verify(folder: Path) -> None:
    """Read every byte back and compare with the manifest; CheckpointError names the first file that differs."""
    files = _manifest(folder)
    for file in files:
        _verify_file(folder, file, files[file])
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if name not in files and name != MANIFEST and (path.is_symlink() or not path.is_dir()):
            raise _damaged(folder, f"`{name}` was added to it")


def _verify_file(folder: Path, file: str, recorded: Mapping[str, Any]) -> None:
    path = folder / file
    if any(part.is_symlink() for part in (path, *path.parents[: len(Path(file).parts)])):
        raise _damaged(folder, f"`{file}` is reached through a symbolic link")
    if not path.is_file():
        raise _damaged(folder, f"`{file}` is missing")
    if path.stat().st_size != recorded["bytes"]:
        raise _damaged(folder, f"`{file}` has {path.stat().st_size:,} bytes instead of {recorded['bytes']:,}")
    algorithm, recorded_digest = _digest(recorded)
    try:
        digest = ALGORITHMS[algorithm](path, follow=False)
    except OSError as error:
        raise _damaged(folder, f"`{file}` cannot be read: {error.strerror}") from None
    if digest != recorded_digest:
        raise _damaged(folder, f"`{file}` holds other bytes than were saved")


def state(folder: Path) -> dict[str, Any]:
    """The training state without the tensors: position, step, plan fingerprint, counters; verified by its digest."""
    files = _manifest(folder)
    try:
        if STATE in files:
            _verify_file(folder, STATE, files[STATE])
        value: dict[str, Any] = fs.parse_json(fs.read_bytes(folder / STATE))
    except (OSError, ValueError) as error:
        raise _damaged(folder, f"`{STATE}` cannot be read: {error}") from None
    return value


def trainer_of(folder: Path) -> tuple[str, str] | None:
    """Name and layout of the other trainer that saved a checkpoint; None for our own."""
    trainer = state(folder).get("trainer")
    return None if trainer is None else (str(trainer["name"]), str(trainer["layout"]))


def hf_folder(folder: Path) -> Path:
    """Where a checkpoint with `layout: hf` has its Hugging Face model: in `hf/`, or at its top."""
    return folder / "hf" if (folder / "hf").is_dir() else folder


def lacks_of_hf(folder: Path) -> str | None:
    """The file that a Hugging Face model in a checkpoint lacks; None where it is complete."""
    model = hf_folder(folder)
    if not (model / "config.json").is_file():
        return "`config.json`"
    return None if any(model.glob("*.safetensors")) else "`*.safetensors`"


def size(folder: Path) -> int:
    """Bytes of a checkpoint's files."""
    return sum(int(entry["bytes"]) for entry in _manifest(folder).values())


def check_room(folder: Path, size: int, free: int | None = None) -> None:
    """CheckpointError when the disk of `folder` has no room for the `size` bytes of the next checkpoint."""
    room = free_bytes(folder) if free is None else free
    if room < size:
        raise CheckpointError(
            f"there is no room for the next checkpoint: it takes {size:,} bytes and {room:,} are free below "
            f"`{folder}`; nothing is trained that could not be saved",
            hint="free some (`curriculum prune --dry-run` shows which checkpoints are not needed); "
            "then the same command resumes",
        )


def free_bytes(folder: Path) -> int:
    """Bytes that a user without privileges may still write on the disk of `folder` or its nearest existing parent."""
    while not folder.exists():
        folder = folder.parent
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize


def weights_digest(folder: Path) -> str:
    """One digest of all tensor files, for comparing two checkpoints' bytes without loading them."""
    files = _manifest(folder).items()
    return fs.digest({file: _digest(entry)[1] for file, entry in files if file.endswith(".safetensors")})


def pin(folder: StageFolder, position: int, by: str) -> Path:
    """Keep the checkpoint at `position` (tokens) for curriculum `by`; a trainer that reaches it later saves one."""
    pins = folder.pins_at(position)
    fs.make_directory(pins)
    path = pins / f"{by}.json"
    fs.write_json(path, {"by": by, "position": position}, replace=True)
    return path


def pinning(folder: StageFolder) -> fs.Lock:
    """Held while a pin is written together with what it is for, or released because that is gone."""
    lock = fs.Lock(folder.pinning, f"what pins checkpoints in `{folder}`")
    lock.acquire(wait_seconds=10.0)
    return lock


def unpin(folder: StageFolder, by: str) -> list[int]:
    """Release what is pinned for `by`, under the lock `pinning`; returns the positions."""
    positions = [position for position, names in pinned(folder).items() if by in names]
    for position in positions:
        pins = folder.pins_at(position)
        fs.remove(pins / f"{by}.json")
        fs.fsync(pins)
    return positions


def pinned(folder: StageFolder) -> dict[int, tuple[str, ...]]:
    """Pinned positions (tokens), in order, each with the curricula that branch there."""
    try:
        paths = sorted(folder.pins.iterdir())
    except FileNotFoundError:
        return {}
    pins = {
        int(path.name): tuple(sorted(file.stem for file in path.glob("*.json")))
        for path in paths
        if path.name.isdigit()
    }
    return {position: names for position, names in pins.items() if names}


def is_pinned(folder: StageFolder, position: int) -> bool:
    """Whether a curriculum branches at `position`: one look, short enough for every step on a disk of the network."""
    try:
        return any(name.endswith(".json") for name in os.listdir(folder.pins_at(position)))
    except (FileNotFoundError, NotADirectoryError):
        return False


def discard(checkpoint: Checkpoint) -> bool:
    """Delete a checkpoint unless it is pinned, now or while it is being deleted; false when it stays.

    A process that pins writes the pin first and looks for the checkpoint then; here it is renamed first and the
    pins are read then. One of the two always sees the other.
    """
    folder = StageFolder(checkpoint.path.parent.parent)
    if is_pinned(folder, checkpoint.position):
        return False
    doomed = fs.set_aside(checkpoint.path)
    if is_pinned(folder, checkpoint.position):
        fs.publish(doomed, checkpoint.path)
        return False
    fs.remove_tree(doomed)
    return True


def file_digests(folder: Path) -> dict[str, str]:
    """The digest of each of a checkpoint's files but the state, by name, as its manifest says."""
    return {file: _digest(entry)[1] for file, entry in _manifest(folder).items() if file != STATE}


def content_digest(folder: Path) -> str:
    """One digest of a checkpoint's tensors or, where another trainer saved it, of all its files but the state."""
    if (folder / INDEX).is_file():
        return tensors_digest(folder)
    return fs.digest(file_digests(folder))


def tensors_digest(folder: Path) -> str:
    """One digest of all tensors by name, independent of the number of ranks that wrote them."""
    index: dict[str, Any] = json.loads(fs.read_bytes(folder / INDEX))
    headers: dict[str, tuple[int, dict[str, Any]]] = {}
    for file in {part["file"] for entry in index.values() for part in entry["parts"]}:
        with fs.open_file(folder / file) as stream:
            length = int.from_bytes(stream.read(8), "little")
            headers[file] = (8 + length, json.loads(stream.read(length)))
    tensors = {}
    for key, entry in index.items():
        digest = hashlib.sha256()
        dtype = ""
        for part in sorted(entry["parts"], key=lambda part: int(part["rows"][0])):
            begin, header = headers[part["file"]]
            dtype, (first, last) = header[key]["dtype"], header[key]["data_offsets"]
            with fs.open_file(folder / part["file"]) as stream:
                stream.seek(begin + first)
                remaining = last - first
                while remaining:
                    block = stream.read(min(remaining, 1 << 22))
                    digest.update(block)
                    remaining -= len(block)
        tensors[key] = [entry["shape"], dtype, digest.hexdigest()]
    return fs.digest(tensors)


def sweep(folder: StageFolder) -> None:
    """Remove what a killed save or deletion left, and rename back a pinned checkpoint that was to be deleted."""
    if not folder.checkpoints.is_dir():
        return
    fs.make_durable(folder.checkpoints)
    pins = pinned(folder)
    for path in sorted(folder.checkpoints.iterdir()):
        aside = _ASIDE.fullmatch(path.name)
        if aside and int(aside["position"]) in pins and not (folder.checkpoints / aside["name"]).exists():
            fs.publish(path, folder.checkpoints / aside["name"])
        elif path.name.startswith((".tmp-", fs.ASIDE, fs.REMOVED)):
            fs.remove(path)  # no process reads such a name: it needs no rename first


def _manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and digest of every file, by its name below the folder."""
    try:
        value = fs.parse_json(fs.read_bytes(folder / MANIFEST))
        if isinstance(value, dict) and value.get("format") not in _READ_FORMATS:
            formats = " and ".join(map(str, _READ_FORMATS))
            raise _damaged(folder, f"its format is {value.get('format')!r}, this version reads {formats}")
        manifest = fs.unseal(value, {"format", "files"})
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(folder, f"`{MANIFEST}` cannot be read: {error}") from None
    files: dict[str, dict[str, Any]] = manifest["files"]
    for name in files:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise _damaged(folder, f"`{MANIFEST}` names `{name}`, which is not inside it")
        if files[name].keys() - {"bytes"} not in ({algorithm} for algorithm in ALGORITHMS):
            raise _damaged(folder, f"`{MANIFEST}` has no digest of `{name}` that this version knows")
    return files


def _digest(entry: Mapping[str, Any]) -> tuple[str, str]:
    """The algorithm and the digest that a manifest's entry states."""
    return next((algorithm, str(entry[algorithm])) for algorithm in ALGORITHMS if algorithm in entry)


def _damaged(folder: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"checkpoint `{folder.name}` cannot be used: {reason}",
        hint=f"move {folder} away; training then continues from the checkpoint before it",
    )

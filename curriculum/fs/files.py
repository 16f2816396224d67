"""The one module through which everything that must survive a crash reaches the disk.

The protocol is always the same: write beside the target, fsync the file, put it in place by one rename
(or link), fsync the directory. Nothing durable is overwritten in place. A directory that belongs together
is built under a temporary name, synced, and published by one rename.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from curriculum.errors import DataError
from curriculum.fs.digests import canonical_json, parsed
from curriculum.fs.records import fields_of

_CHUNK = 1 << 20


def sha256_file(path: Path, *, follow: bool = True) -> str:
    """SHA-256 (hexadecimal) of a file's bytes; without `follow` a symbolic link is an OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW))
    with open(descriptor, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def opened(path: Path) -> BinaryIO:
    """A file to read; DataError for a symbolic link: what is below a run may be untrusted."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise linked(path) from None
        raise
    return open(descriptor, "rb")


def linked(path: Path) -> DataError:
    """What a symbolic link where a file or folder of a run is wanted is answered with."""
    return DataError(
        f"`{path}` is a symbolic link, and below a run none is followed",
        hint="put what it leads to in its place, if it is yours, and remove it otherwise",
    )


def read_bytes(path: Path) -> bytes:
    """A file's bytes; see `opened`."""
    with opened(path) as file:
        return file.read()


def settle(path: Path) -> None:
    """Make durable what is found finished: whoever finished it may have been killed before it was."""
    if path.is_dir():
        sync_directory(path)
    else:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make the names inside `path` durable; without this a power cut may undo a rename."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(path: Path) -> None:
    """Create `path` and its missing parents, each made durable in its own parent."""
    missing = []
    at = path
    while not at.exists():
        missing.append(at)
        at = at.parent
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        sync_directory(folder.parent)
    with contextlib.suppress(PermissionError):  # not ours, so not made a moment ago either
        sync_directory(at.parent)  # who made `at` may have been killed before this


def write_bytes(path: Path, data: bytes, *, replace: bool = False) -> None:
    """Put `data` at `path`, whole or not at all. Without `replace`, an existing file raises FileExistsError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if replace:
            os.rename(temporary, path)
        else:
            os.link(temporary, path)
            os.unlink(temporary)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    sync_directory(path.parent)


def write_json(path: Path, value: Any, *, replace: bool = False) -> None:
    """`write_bytes` of readable JSON (sorted keys, two spaces, a final newline)."""
    text = json.dumps(value, sort_keys=True, indent=2, allow_nan=False, ensure_ascii=False, default=fields_of)
    write_bytes(path, f"{text}\n".encode(), replace=replace)


def append_json_line(path: Path, value: Any, *, sync: bool = True) -> None:
    """Append one JSON object as one line; a crash can tear the last line only, and the next append drops it.

    When the line cannot be written whole (OSError), the file ends as it did before.
    """
    line = canonical_json(value) + b"\n"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # what looks torn must not be what another is writing now
        end = _end_of_lines(descriptor)
        try:
            view = memoryview(line)
            while view:
                view = view[os.write(descriptor, view) :]
            if sync:
                os.fsync(descriptor)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, end)
            raise
    finally:
        os.close(descriptor)
    if sync and end == 0:
        sync_directory(path.parent)


def _end_of_lines(descriptor: int) -> int:
    """Where the last whole line ends; what a crash left behind it is cut away."""
    size = end = os.fstat(descriptor).st_size
    if size and os.pread(descriptor, 1, size - 1) != b"\n":
        while end:
            begin = max(0, end - _CHUNK)
            newline = os.pread(descriptor, end - begin, begin).rfind(b"\n")
            if newline >= 0:
                end = begin + newline + 1
                break
            end = begin
        os.ftruncate(descriptor, end)
    return end


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Every whole line of `path`; a torn last line, which a crash may leave, is not one of them.

    DataError naming the line when one was damaged later.
    """
    if not path.exists():
        return []
    found = []
    for number, line in enumerate(read_bytes(path).split(b"\n")[:-1], 1):
        if line:
            try:
                value = parsed(line)
                if not isinstance(value, dict):
                    raise ValueError("it is not an object")
            except ValueError as error:
                raise damaged_line(path, number, str(error)) from None
            found.append(value)
    return found


def damaged_line(path: Path, number: int, reason: str) -> DataError:
    """What a line that cannot be what was written is answered with."""
    return DataError(
        f"`{path}` is damaged in line {number:,}: {reason}",
        hint=f"bring the file back from a copy, or move {path} away: the same command then resumes and starts another",
    )


def sync_file(path: Path) -> None:
    """Make a file's bytes durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """fsync every file below `folder`, then every directory, innermost first."""
    for root, _, files in os.walk(folder, topdown=False):
        for name in files:
            sync_file(Path(root, name))
        sync_directory(Path(root))


def check_writable(folder: Path) -> None:
    """OSError where nothing can be put into the folder."""
    probe = folder / f".tmp-{secrets.token_hex(8)}"
    probe.mkdir()
    probe.rmdir()


def remove(path: Path) -> None:
    """Delete what bears this name, if anything does; of a symbolic link the link, not what it leads to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def blocks(path: Path, size: int = _CHUNK) -> Iterator[bytes]:
    """The file's bytes in blocks of `size`, the last one shorter."""
    with opened(path) as file:
        while block := file.read(size):
            yield block

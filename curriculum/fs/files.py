"""Crash-safe file operations: atomic writes, append-only JSON Lines, fsync of files and directories.

A write goes to a temporary file in the target's directory, which is synced and put in place by one rename (or link);
then the directory is synced. Nothing durable is overwritten in place.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from curriculum.errors import DataError
from curriculum.fs.digests import canonical_json, parse_json, seal, unseal
from curriculum.fs.records import fields_of

if TYPE_CHECKING:
    from blake3 import blake3

BLOCK_BYTES = 16 << 20
"""Of what is hashed by several threads or written at a time."""
_CHUNK = 1 << 20
_HASH_THREADS = 4


def sha256_file(path: Path, *, follow: bool = True) -> str:
    """SHA-256 (hexadecimal) of a file's bytes; without `follow` a symbolic link is an OSError."""
    with _opened(path, follow) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def blake3_file(path: Path, *, follow: bool = True) -> str:
    """BLAKE3 (hexadecimal) of a file's bytes; without `follow` a symbolic link is an OSError.

    The file is read and not mapped into memory, where a failing disk would be a SIGBUS and no OSError.
    """
    with _opened(path, follow) as file:
        size = os.fstat(file.fileno()).st_size
        block = memoryview(bytearray(min(size + 1, BLOCK_BYTES)))
        hasher = blake3_hasher(_HASH_THREADS if size > BLOCK_BYTES else 1)
        while count := file.readinto(block):
            hasher.update(block[:count])
        return hasher.hexdigest()


def blake3_hasher(threads: int = _HASH_THREADS) -> blake3:
    """A hasher with threads of its own: the pool that all hashers can share hangs in a process forked from its user."""
    from blake3 import blake3

    return blake3(max_threads=min(threads, processors()))


def processors() -> int:
    """The number of processors this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _opened(path: Path, follow: bool) -> io.FileIO:
    return io.FileIO(os.open(path, os.O_RDONLY | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)))


def open_file(path: Path) -> BinaryIO:
    """A file opened for reading; DataError for a symbolic link, since a run folder may hold untrusted artifacts."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise link_error(path) from None
        raise
    return open(descriptor, "rb")


def link_error(path: Path) -> DataError:
    """The error for a symbolic link in place of a file or folder of a run."""
    return DataError(
        f"`{path}` is a symbolic link, and none is followed in a run folder",
        hint="replace it by a copy of its target if that is yours; else remove it",
    )


def read_bytes(path: Path) -> bytes:
    """A file's bytes; see `open_file`."""
    with open_file(path) as file:
        return file.read()


def read_sealed(path: Path, without_seal: Iterable[str] = ()) -> dict[str, Any]:
    """What `write_sealed` wrote to `path`, see `unseal`; OSError, or ValueError for a file that was changed since."""
    return unseal(parse_json(read_bytes(path)), without_seal)


def make_durable(path: Path) -> None:
    """fsync a finished file or directory and its name: the process that wrote it may have been killed before it did."""
    fsync(path)
    fsync(path.parent)


def fsync(path: Path) -> None:
    """fsync a file's bytes, or the names inside a directory: without the latter a power cut may undo a rename."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(path: Path) -> None:
    """Create `path` and its missing parents, each made durable in its own parent."""
    missing = []
    existing = path
    while not existing.exists():
        missing.append(existing)
        existing = existing.parent
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        fsync(folder.parent)
    with contextlib.suppress(PermissionError):  # another user's, so not created by an interrupted call
        fsync(existing.parent)  # the process that created `existing` may have been killed before this


def write_bytes(path: Path, data: bytes, *, replace: bool = False) -> None:
    """Write `data` to `path` atomically. Without `replace`, an existing file raises FileExistsError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        try:
            _write_all(descriptor, data)
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
    fsync(path.parent)


def write_blocks(path: Path, blocks: Iterable[memoryview]) -> str:
    """Write a new file of the blocks, sync it and return its BLAKE3 (hexadecimal), which is computed meanwhile.

    A block is not read any more once the next one is asked for. The file's name is not synced.
    """
    hasher = blake3_hasher()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        with ThreadPoolExecutor(1) as pool:
            for block in blocks:
                hashed = pool.submit(hasher.update, block)
                _write_all(descriptor, block)
                hashed.result()
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return hasher.hexdigest()


def write_json(path: Path, value: Any, *, replace: bool = False) -> None:
    """`write_bytes` of readable JSON (sorted keys, two spaces, a final newline)."""
    text = json.dumps(value, sort_keys=True, indent=2, allow_nan=False, ensure_ascii=False, default=fields_of)
    write_bytes(path, f"{text}\n".encode(errors="backslashreplace"), replace=replace)


def write_sealed(path: Path, value: Mapping[str, Any], *, replace: bool = False) -> None:
    """`write_json` of an object with its own digest, see `seal`."""
    write_json(path, seal(value), replace=replace)


def append_json_line(path: Path, value: Any, *, sync: bool = True) -> None:
    """Append one JSON object as one line. A crash can truncate the last line only, and the next append drops it.

    When the line cannot be written completely (OSError), the file ends as it did before.
    """
    line = canonical_json(value) + b"\n"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # a truncated line must not be one that another process is writing
        end = _drop_truncated_line(descriptor)
        try:
            _write_all(descriptor, line)
            if sync:
                os.fsync(descriptor)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, end)
            raise
    finally:
        os.close(descriptor)
    if sync and end == 0:
        fsync(path.parent)


def _write_all(descriptor: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _drop_truncated_line(descriptor: int) -> int:
    """Cut off what a crash left after the last complete line; returns the byte at which that line ends."""
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
    """Every complete line of `path`, without a truncated last one; DataError that names the first damaged line."""
    if not path.exists():
        return []
    values = []
    for number, line in enumerate(read_bytes(path).split(b"\n")[:-1], 1):
        if line:
            try:
                value = parse_json(line)
                if not isinstance(value, dict):
                    raise ValueError("it is not an object")
            except ValueError as error:
                raise line_error(path, number, str(error)) from None
            values.append(value)
    return values


def line_error(path: Path, number: int, reason: str) -> DataError:
    """The error for a line that is not what was written."""
    return DataError(
        f"`{path}` is damaged in line {number:,}: {reason}",
        hint=f"restore the file from a copy, or move {path} away: the same command then starts another",
    )


def sync_tree(folder: Path) -> None:
    """fsync every file below `folder`, then every directory, innermost first."""
    for root, _, files in os.walk(folder, topdown=False):
        for name in files:
            fsync(Path(root, name))
        fsync(Path(root))


def check_writable(folder: Path) -> None:
    """OSError when nothing can be created in the folder."""
    probe = folder / f".tmp-{os.urandom(8).hex()}"
    probe.mkdir()
    probe.rmdir()


def remove(path: Path) -> None:
    """Delete the file or directory at `path`, if there is one; of a symbolic link the link, not its target."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def read_blocks(path: Path, size: int = _CHUNK) -> Iterator[bytes]:
    """The file's bytes in blocks of `size`, the last one shorter."""
    with open_file(path) as file:
        while block := file.read(size):
            yield block

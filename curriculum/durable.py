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
import math
import os
import secrets
import shutil
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from curriculum.errors import Busy, DataError

_CHUNK = 1 << 20
SEAL = "sha256"
ASIDE = ".aside-"
REMOVED = ".removed-"


def canonical_json(value: Any) -> bytes:
    """The one spelling of `value` that digests are taken of: sorted keys, no spaces, no NaN."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True
    ).encode()


def digest(value: Any) -> str:
    """SHA-256 (hexadecimal) of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def sha256_file(path: Path, *, follow: bool = True) -> str:
    """SHA-256 (hexadecimal) of a file's bytes; without `follow` a symbolic link is an OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW))
    with open(descriptor, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def opened(path: Path) -> BinaryIO:
    """A file to read; DataError for a symbolic link: what lies below a run may be a stranger's."""
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


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """`value` with the digest of all of it under `SEAL`, so that no part can change unseen."""
    plain: dict[str, Any] = json.loads(canonical_json(value))
    return {**plain, SEAL: digest(plain)}


def parsed(data: bytes | str) -> Any:
    """JSON that somebody else may have written; ValueError for what is none, also for what nests without end."""
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("it nests without end") from None


def unsealed(value: Any, without_seal: Iterable[str]) -> dict[str, Any]:
    """What `sealed` was given. ValueError when a part was changed.

    Written before seals were, a value has none: then its keys are exactly `without_seal`.
    """
    if not isinstance(value, dict):
        raise ValueError("it is not an object")
    if SEAL not in value:
        if value.keys() != set(without_seal):
            raise ValueError("its seal is missing")
        return value
    plain = {key: entry for key, entry in value.items() if key != SEAL}
    if digest(plain) != value[SEAL]:
        raise ValueError("it was changed after it was written: it does not match its seal")
    return plain


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
    text = json.dumps(value, sort_keys=True, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    write_bytes(path, text.encode(), replace=replace)


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
        hint=f"bring the file back from a copy, or move {path} away: the same command then goes on and begins another",
    )


def finite(value: Any) -> Any:
    """`value` as JSON can hold it: numbers that are not finite become their names, as texts."""
    if isinstance(value, Mapping):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


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


def publish(temporary: Path, final: Path) -> None:
    """Give a finished directory its name: sync all of it, rename, sync the parent.

    Raises FileExistsError when `final` exists: what was published is never written again.
    """
    if final.exists():
        raise FileExistsError(f"{final} is already published")
    sync_tree(temporary)
    os.rename(temporary, final)
    sync_directory(final.parent)


@contextlib.contextmanager
def building(final: Path) -> Iterator[Path]:
    """An empty folder beside `final` to build it in, published when the block ends; removed when it fails.

    Killed in between, it stays behind under a name nobody reads, and whoever builds `final` next empties it.
    Busy when another process is building `final`, FileExistsError when it is there.
    """
    temporary = final.with_name(f".tmp-{final.name}")
    make_directory(final.parent)
    while True:
        temporary.mkdir(exist_ok=True)
        # The lock lies on the folder itself: it needs no file of its own and goes on with the rename.
        descriptor = os.open(temporary, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), os.stat(temporary, follow_symlinks=False)):
                break
        except BlockingIOError:
            os.close(descriptor)
            raise Busy(f"`{final}` is being written by another process", hint="wait for it to end") from None
        except FileNotFoundError:
            pass
        os.close(descriptor)  # what was locked has been published or removed meanwhile
    try:
        for path in temporary.iterdir():
            remove(path)
        yield temporary
        publish(temporary, final)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    finally:
        os.close(descriptor)


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


def set_aside(folder: Path, prefix: str = ASIDE) -> Path:
    """Take a directory's name away, durably, by one rename; returns the new name, which nobody reads."""
    aside = folder.with_name(f"{prefix}{folder.name}-{secrets.token_hex(4)}")
    os.rename(folder, aside)
    sync_directory(folder.parent)
    return aside


def remove_tree(folder: Path) -> None:
    """Delete a directory so that a crash half-way leaves a name nobody reads: rename first, then delete."""
    remove(set_aside(folder, REMOVED))


class Lock:
    """A kernel lock on a file: it dies with its holder, so no stale lock ever needs removing by hand.

    The file remembers who holds it (process id, host, command, since when) for the loser's message.
    """

    def __init__(self, path: Path, purpose: str) -> None:
        self.path = path
        self.purpose = purpose
        self._descriptor: int | None = None

    def acquire(self, *, wait_seconds: float = 0.0) -> None:
        """Take the lock, or raise Busy naming the holder once `wait_seconds` have passed."""
        # no link is followed: the file is emptied below
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            self._take(descriptor, wait_seconds)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor

    def _take(self, descriptor: int, wait_seconds: float) -> None:
        deadline = time.monotonic() + wait_seconds
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                holder = os.pread(descriptor, 4096, 0).decode(errors="replace")
                # a holder that has just won needs a moment to write its name
                if time.monotonic() >= deadline + (0.0 if holder else 0.5):
                    raise Busy(
                        f"{self.purpose} is held by another process: {_holder_sentence(holder)}",
                        hint="wait for it to end, or stop it (`curriculum stop NAME`); it needs no unlocking by hand",
                    ) from None
                time.sleep(0.05)
        owner = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        }
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, canonical_json(owner), 0)

    def release(self) -> None:
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            try:
                os.ftruncate(descriptor, 0)
            finally:
                os.close(descriptor)

    def __enter__(self) -> Lock:
        if self._descriptor is None:
            self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def holder_of(path: Path) -> Mapping[str, Any] | None:
    """Who holds the lock at `path` now, or None when nobody does."""
    if not path.exists():
        return None
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except PermissionError:  # another person's run: reading is enough to look
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        try:
            owner: Mapping[str, Any] = json.loads(os.pread(descriptor, 4096, 0) or b"{}")
        except ValueError:
            owner = {}
        return owner
    finally:
        os.close(descriptor)
    return None


def _holder_sentence(text: str) -> str:
    try:
        owner = json.loads(text)
        return f"pid {owner['pid']} on {owner['host']}, since {owner['since']}"
    except (ValueError, KeyError, TypeError):
        return "its name is not readable"


def blocks(path: Path, size: int = _CHUNK) -> Iterator[bytes]:
    """The file's bytes in blocks of `size`, the last one shorter."""
    with opened(path) as file:
        while block := file.read(size):
            yield block

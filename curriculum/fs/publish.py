"""Atomic publication of directories: built under a temporary name, synced, renamed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from curriculum.errors import Busy
from curriculum.fs.files import fsync, make_directory, remove, sync_tree

ASIDE, REMOVED = ".aside-", ".removed-"


def publish(temporary: Path, final: Path) -> None:
    """Sync the finished directory `temporary` and rename it to `final`; FileExistsError when that exists."""
    if final.exists():
        raise FileExistsError(f"{final} is already published")
    sync_tree(temporary)
    os.rename(temporary, final)
    fsync(final.parent)


@contextlib.contextmanager
def build_directory(final: Path) -> Iterator[Path]:
    """A temporary directory next to `final`, published when the block ends and removed when it fails.

    A killed process leaves it under a hidden name; the next one that builds `final` empties it.
    Raises Busy while another process builds `final`, FileExistsError when `final` exists.
    """
    temporary = final.with_name(f".tmp-{final.name}")
    make_directory(final.parent)
    while True:
        temporary.mkdir(exist_ok=True)
        # The lock is on the directory itself: it needs no further file and survives the rename.
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
        os.close(descriptor)  # the locked directory was published or removed meanwhile
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


def set_aside(folder: Path, prefix: str = ASIDE) -> Path:
    """Rename a directory durably to a hidden name next to it, and return that."""
    aside = folder.with_name(f"{prefix}{folder.name}-{os.urandom(4).hex()}")
    os.rename(folder, aside)
    fsync(folder.parent)
    return aside


def move(folder: Path, target: Path) -> None:
    """Rename a directory durably to `target`, whose own folder is made; FileExistsError when it exists."""
    make_directory(target.parent)
    if target.exists():
        raise FileExistsError(f"{target} exists")
    os.rename(folder, target)
    fsync(target.parent)
    fsync(folder.parent)


def remove_tree(folder: Path) -> None:
    """Delete a directory after renaming it, so that a crash leaves no incomplete directory under its name."""
    remove(set_aside(folder, REMOVED))

"""Directories that appear whole or not at all: built under a temporary name, synced, renamed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from curriculum.errors import Busy
from curriculum.fs.files import make_directory, remove, sync_directory, sync_tree

ASIDE = ".aside-"


REMOVED = ".removed-"


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


def set_aside(folder: Path, prefix: str = ASIDE) -> Path:
    """Take a directory's name away, durably, by one rename; returns the new name, which nobody reads."""
    aside = folder.with_name(f"{prefix}{folder.name}-{secrets.token_hex(4)}")
    os.rename(folder, aside)
    sync_directory(folder.parent)
    return aside


def remove_tree(folder: Path) -> None:
    """Delete a directory so that a crash half-way leaves a name nobody reads: rename first, then delete."""
    remove(set_aside(folder, REMOVED))

"""Kernel locks on files, which end with the process that holds them."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from curriculum.errors import Busy
from curriculum.fs.digests import canonical_json


class Lock:
    """A kernel lock on a file. It ends with the process that holds it, so no stale lock is left to remove.

    The file records its holder (process id, host, time) for the message of Busy.
    """

    def __init__(self, path: Path, purpose: str) -> None:
        self.path = path
        self.purpose = purpose
        self._descriptor: int | None = None

    def acquire(self, *, wait_seconds: float = 0.0) -> None:
        """Take the lock, or raise Busy naming the holder once `wait_seconds` have passed."""
        # O_NOFOLLOW: the file is truncated below
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
                # a new holder needs a moment to record itself
                if time.monotonic() >= deadline + (0.0 if holder else 0.5):
                    raise Busy(
                        f"{self.purpose} is held by another process: {_holder_sentence(holder)}",
                        hint="wait for it to end, or stop it (`curriculum stop NAME`); it needs no unlocking by hand",
                    ) from None
                time.sleep(0.05)
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, canonical_json({"pid": os.getpid(), "host": os.uname().nodename, "since": since}), 0)

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


def lock_holder(path: Path) -> Mapping[str, Any] | None:
    """The process that holds the lock at `path` now, as it recorded itself; None when the lock is free."""
    if not path.exists():
        return None
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except PermissionError:  # another user's run; reading is enough
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        try:
            holder: Mapping[str, Any] = json.loads(os.pread(descriptor, 4096, 0) or b"{}")
        except ValueError:
            holder = {}
        return holder
    finally:
        os.close(descriptor)
    return None


def _holder_sentence(text: str) -> str:
    try:
        owner = json.loads(text)
        return f"pid {owner['pid']} on {owner['host']}, since {owner['since']}"
    except (ValueError, KeyError, TypeError):
        return "its name is not readable"

"""The process of a job: the signals that stop it, its end with its parent's.

Shared by the commands that start jobs and by the runner, which installs its flag before it imports torch.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""Ctrl-C, the end of a grace period, a batch system's warning: each asks a job to save and end."""

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)  # loaded here: loading is not safe between fork and exec


def terminate_with_parent() -> None:
    """Have the kernel send this process SIGTERM when the thread that started it ends (Linux only)."""
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _interrupt() -> NoReturn:
    raise KeyboardInterrupt


class StopFlag:
    """True once one of STOP_SIGNALS arrived; at the second SIGINT `interrupt` is called."""

    def __init__(self, interrupt: Callable[[], NoReturn] = _interrupt) -> None:
        self.requested = False
        self._interrupt = interrupt
        self._interrupts = 0
        self._terminated: float | None = None

    def __bool__(self) -> bool:
        return self.requested

    @property
    def urgent(self) -> bool:
        """Whether SIGTERM arrived: its sender may send SIGKILL after a grace period."""
        return self._terminated is not None

    def seconds_ago(self) -> float | None:
        """Seconds since the first SIGTERM; None without one, as no other signal announces a SIGKILL."""
        return None if self._terminated is None else time.monotonic() - self._terminated

    def receive(self, number: int, frame: FrameType | None = None) -> None:
        """The handler of STOP_SIGNALS."""
        self._interrupts += number == signal.SIGINT
        if self._interrupts > 1:
            self._interrupt()
        if number == signal.SIGTERM and self._terminated is None:
            self._terminated = time.monotonic()
        self.requested = True


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopFlag]:
    """Turn STOP_SIGNALS into a flag for the time of the block."""
    flag = StopFlag()
    handlers = {number: signal.signal(number, flag.receive) for number in STOP_SIGNALS}
    try:
        yield flag
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def install_stop_flag() -> StopFlag:
    """A flag that STOP_SIGNALS set from now on, and the death of the parent; a second SIGINT exits with 130 at once.

    The kernel reports the death of the parent's thread: a job is started from a thread that outlives it. Call it before
    torch is imported, so that no signal comes too early.
    """
    flag = StopFlag(interrupt=lambda: os._exit(130))
    for number in STOP_SIGNALS:
        signal.signal(number, flag.receive)
    parent = os.getppid()
    terminate_with_parent()
    if os.getppid() != parent:  # it died before the kernel was asked, and no signal will come
        flag.receive(signal.SIGTERM)
    return flag

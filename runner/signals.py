"""Turns signals into a flag that the loop looks at; importable before torch, so that none comes too early."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from types import FrameType

_PR_SET_PDEATHSIG = 1


class StopFlag:
    """True once SIGTERM, SIGINT or SIGUSR1 arrived. A second SIGINT ends the process at once."""

    def __init__(self) -> None:
        self.asked = False
        self._since: float | None = None
        self._interrupted = False

    def __bool__(self) -> bool:
        return self.asked

    def seconds_ago(self) -> float | None:
        """How long ago the first SIGTERM came; None without one. (After any other signal nothing kills us.)"""
        return None if self._since is None else time.monotonic() - self._since

    def install(self) -> StopFlag:
        """Listen from now on; also ask the kernel for SIGTERM when the process that started us dies.

        (The kernel means the thread: whoever starts a runner must start it from a thread that outlives it.)
        """
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, self._ask)
        if sys.platform == "linux":
            parent = os.getppid()
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:  # it died before the kernel was asked, and no signal will come
                self._ask(signal.SIGTERM, None)
        return self

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            if self._interrupted:
                os._exit(130)
            self._interrupted = True
        if number == signal.SIGTERM and self._since is None:
            self._since = time.monotonic()
        self.asked = True

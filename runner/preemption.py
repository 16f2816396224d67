"""A signal becomes a flag that the loop looks at. Importable before torch, so that no signal finds us unprepared."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from types import FrameType

_PR_SET_PDEATHSIG = 1


class StopFlag:
    """True once SIGTERM, SIGINT or SIGUSR1 arrived. A second SIGINT ends the process at once."""

    def __init__(self) -> None:
        self.asked = False
        self._interrupted = False

    def __bool__(self) -> bool:
        return self.asked

    def install(self) -> StopFlag:
        """Listen from now on; also ask the kernel for SIGTERM when the process that started us dies."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, self._ask)
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        return self

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            if self._interrupted:
                os._exit(130)
            self._interrupted = True
        self.asked = True

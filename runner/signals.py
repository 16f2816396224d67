"""The stop flag of a job's process, installed before torch is imported so that no signal comes too early."""

from __future__ import annotations

import os
import signal

from curriculum.artifacts.job_process import STOP_SIGNALS, StopFlag, terminate_with_parent


def install_stop_flag() -> StopFlag:
    """A flag that STOP_SIGNALS set from now on, and the death of the parent; a second SIGINT exits with 130 at once.

    The kernel reports the death of the parent's thread: a runner is started from a thread that outlives it.
    """
    flag = StopFlag(interrupt=lambda: os._exit(130))
    for number in STOP_SIGNALS:
        signal.signal(number, flag.receive)
    parent = os.getppid()
    terminate_with_parent()
    if os.getppid() != parent:  # it died before the kernel was asked, and no signal will come
        flag.receive(signal.SIGTERM)
    return flag

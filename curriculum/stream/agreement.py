"""How the ranks of a stage act as one: by a flag on which they agree."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait

Agree = Callable[[bool], bool]
"""Whether a flag is true on any rank: the same answer on all of them. Every rank calls it equally often."""

POLL_SECONDS = 0.05


def wait_until(done: Callable[[], bool], agree: Agree, *, alone: bool) -> None:
    """Until it is done on every rank; `alone` says that there is one.

    The ranks ask each other again and again: a collective that waits for a slow disk would pass its timeout.
    """
    while agree(not done()):
        if not alone:
            time.sleep(POLL_SECONDS)


def first_does(work: Callable[[], object], agree: Agree, *, first: bool, alone: bool) -> None:
    """Have rank 0, which is `first`, do the work while the others wait, however long it takes; it raises its error."""
    if alone:
        work()
    elif not first:
        wait_until(lambda: True, agree, alone=False)
    else:
        with ThreadPoolExecutor(1) as pool:
            working = pool.submit(work)
            wait_until(lambda: bool(wait([working], POLL_SECONDS).done), agree, alone=False)
        working.result()

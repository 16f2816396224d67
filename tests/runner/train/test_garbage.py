"""Garbage is collected at fixed steps and at no other time, and the interpreter is left as it was."""

from __future__ import annotations

import gc
import weakref

from runner.train.garbage import EVERY, GarbageCollection


class Node:
    """Part of a cycle, which only a collection frees."""

    def __init__(self) -> None:
        self.itself = self


def test_cycles_are_freed_at_the_steps_where_a_collection_is_due_and_before_none_is() -> None:
    assert gc.isenabled()
    with GarbageCollection() as garbage:
        assert not gc.isenabled()
        assert gc.get_freeze_count() > 0
        for first in (EVERY, 2 * EVERY):
            gone = weakref.ref(Node())
            for step in range(first - EVERY + 1, first):
                garbage.after(step)
            assert gone() is not None
            garbage.after(first)
            assert gone() is None
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0

"""Python's garbage collection at fixed steps, the same on every rank.

A collection stops a rank for as long as it looks at all objects, some tenths of a second with a compiler loaded, and
when each rank collects by its own count of objects all wait for one after the other. Reference counts free what a step
makes; only cycles wait for a collection.
"""

from __future__ import annotations

import gc
from types import TracebackType
from typing import Self

EVERY = 50
"""Steps between two collections."""


class GarbageCollection:
    """As a context manager the interpreter's own collections are off; what is there then is never looked at again."""

    def __init__(self) -> None:
        self._settled = False

    def __enter__(self) -> Self:
        self._freeze()
        gc.disable()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        gc.unfreeze()
        gc.enable()

    def after(self, step: int) -> None:
        """Collect where it is due; the first time what the first steps made, such as compiled code, is left out too."""
        if step % EVERY:
            return
        if self._settled:
            gc.collect()
        else:
            self._freeze()
            self._settled = True

    def _freeze(self) -> None:
        gc.collect()
        gc.freeze()

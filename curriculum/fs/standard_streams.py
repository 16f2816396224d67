"""Standard output and standard error that never end a process: what cannot be written is dropped."""

from __future__ import annotations

import io
import os
import select
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class LossyFile(io.FileIO):
    """A descriptor for writing; from its first error on (a reader that is gone, a full disk) it drops what it gets."""

    failure: OSError | None = None

    def write(self, data: ReadableBuffer, /) -> int:
        rest = memoryview(data)
        size = len(rest)
        while rest and self.failure is None:
            try:
                written = super().write(rest)
                if written is None:  # it was made non-blocking by another process, and is full
                    select.select([], [self], [])
                rest = rest[written or 0 :]
            except OSError as error:
                self.failure = error
        return size


def protect() -> None:
    """Make writing to the standard streams unable to fail, for the rest of this process.

    A character that the stream's encoding lacks is written as an escape sequence. A descriptor that is closed leads to
    `/dev/null`: the next file to be opened would get its number, and whatever native code prints.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdout, sys.stderr = _protected(sys.stdout, 1), _protected(sys.stderr, 2)


def failure(stream: TextIO) -> OSError | None:
    """What a protected `stream` has failed with, if anything was lost."""
    stream.flush()
    file = getattr(stream, "buffer", None)
    return file.failure if isinstance(file, LossyFile) else None


def _protected(stream: TextIO | None, number: int) -> TextIO:
    if stream is not None:  # None where the interpreter found it closed
        stream.flush()
    return io.TextIOWrapper(
        LossyFile(number, "w", closefd=False),
        encoding=getattr(stream, "encoding", "utf-8"),
        errors="backslashreplace",
        line_buffering=getattr(stream, "line_buffering", False),
        write_through=getattr(stream, "write_through", False),
    )

"""The exceptions: everything that a user can correct, with a message, a place in a file and a hint."""

from __future__ import annotations

import difflib
import errno
import os
import re
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass

LINES_AT_MOST = 24


@dataclass(frozen=True, slots=True)
class Place:
    """A position in a file; `line` and `column` count from 1, `text` is the line itself."""

    file: str
    line: int
    column: int = 1
    text: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


class CurriculumError(Exception):
    """An error with `what` is wrong, in one sentence, and a `hint` that corrects it.

    `entry` are the keys of sources.yaml at fault, for a process that has no file to find the place in.
    """

    exit_code = 2

    def __init__(
        self, what: str, *, place: Place | None = None, hint: str | None = None, entry: tuple[str, ...] = ()
    ) -> None:
        super().__init__(what)
        self.what = what
        self.place = place
        self.hint = hint
        self.entry = entry
        for note in (f"{place}: {place.text.strip()}" if place else None, f"hint: {hint}" if hint else None):
            if note:
                self.add_note(note)  # for tracebacks in notebooks and logs, which do not `render`

    def __str__(self) -> str:
        return self.what if self.place is None else f"{self.what} ({self.place})"

    def render(self, width: int = 100) -> str:
        """The complete message as plain text, at most `LINES_AT_MOST` lines of `width` columns."""
        lines = _wrapped("error: ", "  ", self.what, width)
        if self.place is not None:
            lines.append(f"  {self.place}")
            if self.place.text:
                number = str(self.place.line)
                text, column = _around(_printable(self.place.text), self.place.column, width - len(f"  {number} │ "))
                lines.append(f"  {number} │ {text}")
                lines.append(f"  {' ' * len(number)} │ {' ' * (column - 1)}^")
        hint = _wrapped("hint: ", "      ", self.hint, width) if self.hint else []
        most = LINES_AT_MOST - len(hint)
        if len(lines) > most:
            lines = [*lines[: most - 1], f"  … and {len(lines) - most + 1} lines more"]
        lines += hint
        return "\n".join(line if len(line) <= width else line[: width - 1] + "…" for line in lines)


class ConfigError(CurriculumError):
    """A YAML file has an invalid value."""


class NotFound(CurriculumError):
    """An unknown name: of a stage, mixture, source, size, machine or project."""


class PlanError(CurriculumError):
    """Valid files that contradict each other."""


class DataError(CurriculumError):
    """Prepared text is missing, damaged, or made with another tokenizer."""


class CheckpointError(CurriculumError):
    """A checkpoint is missing, incomplete or damaged."""


class Drift(CurriculumError):
    """The files differ from those of a started run."""


class Busy(CurriculumError):
    """Another process holds a lock."""


class RunFailed(CurriculumError):
    """A job was started and failed."""

    exit_code = 1


_STORAGE_REASONS = {
    errno.ENOSPC: "no space is left on the device",
    errno.EDQUOT: "the quota is used up",
    errno.EFBIG: "the file would be larger than is allowed here",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "it may not be written by this user",
    errno.EPERM: "it may not be changed by this user",
    errno.EIO: "the device reports an error",
    errno.ELOOP: "it is a symbolic link, and none is followed here",
}


def storage_error(error: OSError) -> RunFailed | None:
    """The error for a failed write to a disk; None for an OSError of another kind."""
    reason = _STORAGE_REASONS.get(error.errno or 0)
    if reason is None:
        return None
    file = f"`{os.fsdecode(error.filename)}`" if error.filename else "a file"
    return RunFailed(
        f"{file} cannot be written: {reason}",
        hint="everything saved before is intact; correct that (`curriculum prune` deletes unneeded checkpoints), "
        "then the same command resumes",
    )


def chain_of(error: BaseException) -> list[BaseException]:
    """`error`, its cause or context, the cause of that, and so on, each once."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    return chain


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """A hint for an unknown `word`: the most similar name or one with that word, then all, or of many the first 20."""
    names = sorted(choices)
    if not names:
        return "there are none yet"
    cutoff = 0.7 if len(word) < 4 else 0.6  # `gpu` is no misspelled `cpu`
    similar = difflib.get_close_matches(word, names, n=1, cutoff=cutoff)
    similar = similar or [name for name in names if len(word) > 3 and word in re.split("[_.-]", name)]
    most = len(names) if len(names) < 25 else 20
    shown = ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
    return (f"did you mean `{similar[0]}`? " if similar else "") + f"there are: {shown}"


def shortened(text: str, most: int = 40) -> str:
    """`text` on one line of at most `most` characters."""
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1] + "…"


def _wrapped(first: str, then: str, text: str, width: int) -> list[str]:
    lines: list[str] = []
    for line in text.splitlines():
        lines += textwrap.wrap(
            line, width, initial_indent=then if lines else first, subsequent_indent=then, break_on_hyphens=False
        ) or [""]
    return lines


def _around(text: str, column: int, room: int) -> tuple[str, int]:
    """`text` without so much of its beginning that `column` is not cut off after `room` columns; the column in it."""
    if column < room or column == room >= len(text):
        return text, column
    start = min(column - room // 2, len(text) - room + 1)
    return f"…{text[start:]}", column - start + 1


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "�" for c in text.replace("\t", " "))

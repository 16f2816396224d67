"""The error family: what is wrong, where it stands, and the way out.

CurriculumError          everything a person can put right; shown on one screen, exit code 2
├── ConfigError          a YAML file says something that cannot be meant
├── NotFound             a name that nothing bears (stage, mixture, source, size, machine, project)
├── PlanError            every file is well-formed, but together they cannot be carried out
├── DataError            prepared text is missing, damaged, or made with another tokenizer
├── CheckpointError      a checkpoint is missing, incomplete or damaged
├── Drift                files and a begun run have parted
├── Busy                 another process holds what this one needs
└── RunFailed            a job was started and did not end well (exit code 1)
"""

from __future__ import annotations

import difflib
import errno
import os
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass

LINES_AT_MOST = 24


@dataclass(frozen=True, slots=True)
class Place:
    """Where in a file a person should look; `line` and `column` count from 1, `text` is the line itself."""

    file: str
    line: int
    column: int = 1
    text: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


class CurriculumError(Exception):
    """A refusal with its reason: `what` is one sentence, `hint` the way out.

    `entry` are keys of sources.yaml, for a process that knows what is at fault and has no file to look it up in.
    """

    exit_code = 2

    def __init__(
        self,
        what: str,
        *,
        place: Place | None = None,
        hint: str | None = None,
        entry: tuple[str, ...] = (),
    ) -> None:
        super().__init__(what)
        self.what = what
        self.place = place
        self.hint = hint
        self.entry = entry
        for note in (f"{place}: {place.text.strip()}" if place else None, f"hint: {hint}" if hint else None):
            if note:
                self.add_note(note)  # seen where it is not `render`ed: in a notebook, in a log

    def render(self, width: int = 100) -> str:
        """The whole refusal as plain text, never more than `LINES_AT_MOST` lines of `width` columns."""
        lines = _wrapped("error: ", "  ", self.what, width)
        if self.place is not None:
            lines.append(f"  {self.place}")
            if self.place.text:
                number = str(self.place.line)
                lines.append(f"  {number} │ {_printable(self.place.text)}")
                lines.append(f"  {' ' * len(number)} │ {' ' * (self.place.column - 1)}^")
        hint = _wrapped("hint: ", "      ", self.hint, width) if self.hint else []
        room = LINES_AT_MOST - len(hint)
        if len(lines) > room:
            lines = [*lines[: room - 1], f"  … and {len(lines) - room + 1} lines more"]
        lines += hint
        return "\n".join(line if len(line) <= width else line[: width - 1] + "…" for line in lines)


class ConfigError(CurriculumError):
    """A YAML file says something that cannot be meant."""


class NotFound(CurriculumError):
    """A name that nothing bears."""


class PlanError(CurriculumError):
    """Well-formed files that cannot be carried out together."""


class DataError(CurriculumError):
    """Prepared text is missing, damaged, or made with another tokenizer."""


class CheckpointError(CurriculumError):
    """A checkpoint is missing, incomplete or damaged."""


class Drift(CurriculumError):
    """Files and a begun run have parted."""


class Busy(CurriculumError):
    """Another process holds what this one needs."""


class RunFailed(CurriculumError):
    """A job was started and did not end well."""

    exit_code = 1


_OF_STORAGE = {
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
    """What a disk's refusal is answered with, None for an error of another kind."""
    reason = _OF_STORAGE.get(error.errno or 0)
    if reason is None:
        return None
    where = (
        f"`{os.fsdecode(error.filename)}` cannot be written" if error.filename else "a file cannot be written"
    )
    return RunFailed(
        f"{where}: {reason}",
        hint="what was saved before is whole; mend that (`curriculum prune` frees checkpoints nobody needs), "
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
    """A hint for an unknown `word`: the nearest name if one is near, then all the names there are."""
    names = sorted(choices)
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    known = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
    if near:
        return f"did you mean `{near[0]}`? there are: {known}"
    return f"there are: {known}" if names else "there are none yet"


def _wrapped(first: str, then: str, text: str, width: int) -> list[str]:
    lines: list[str] = []
    for line in text.splitlines():
        lines += textwrap.wrap(
            line,
            width,
            initial_indent=then if lines else first,
            subsequent_indent=then,
            break_on_hyphens=False,
        ) or [""]
    return lines


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "�" for c in text.replace("\t", " "))

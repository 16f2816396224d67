"""Foreign YAML and JSON files of one run: values by path, read from all of them, and what no reader has taken."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from curriculum.config.fields import describe
from curriculum.config.recipes.recipe import Statement
from curriculum.config.yaml import Document, Key, KeyPath
from curriculum.errors import ConfigError, shortened


class Values:
    """The values of several documents, in the order of their stages; `notes` say where a later one overrules another.

    It keeps what was read; `left_out` lists the rest.
    """

    def __init__(self, documents: Sequence[Document]) -> None:
        self.documents = documents
        self.notes: list[str] = []
        self._read: set[KeyPath] = set()

    def get(self, *path: Key) -> Statement | None:
        """The value at `path`, from the last file that states it; None where none does, or says `null`.

        ConfigError where two files state different values.
        """
        statements = [stated for document in self.documents if (stated := self.of(document, *path)) is not None]
        for stated in statements[:-1]:
            if stated.value != statements[-1].value:
                raise statements[-1].refused(
                    f"is {describe(statements[-1].value)} here, but {describe(stated.value)} in {stated.place}",
                    "the files must be of one run; where a later file repeats all of an earlier one, give it alone",
                )
        return statements[-1] if statements else None

    def latest(self, *path: Key) -> Statement | None:
        """The value at `path` in the last file that states it, with a note for each other value."""
        statements = [stated for document in self.documents if (stated := self.of(document, *path)) is not None]
        for stated in statements[:-1]:
            later = statements[-1]
            note = f"{stated.origin}: {stated.value}, where {later.where} of the later file has {later.value}"
            if stated.value != later.value and note not in self.notes:
                self.notes.append(note)
        return statements[-1] if statements else None

    def need(self, *path: Key, latest: bool = False) -> Statement:
        """The value at `path`, which all files must agree in, or the `latest`; ConfigError where no file states it."""
        stated = self.latest(*path) if latest else self.get(*path)
        if stated is None:
            last = self.documents[-1]
            raise ConfigError(
                f"{last.file} lacks `{dotted(path)}`", place=last.place(()), hint="give the file that states it, too"
            )
        return stated

    def of(self, document: Document, *path: Key) -> Statement | None:
        """The value at `path` in one of the documents."""
        self._read.add(path)
        value = document.value
        for key in path:
            present = key in value if isinstance(value, dict) else isinstance(value, list) and isinstance(key, int)
            if not present:
                return None
            value = value[key]
        return None if value is None else Statement(dotted(path), value, document.place(path))

    def left_out(self) -> list[str]:
        """A line for each value that was not read, a list of plain values in one; equal ones of several files once."""
        lines: dict[str, str] = {}
        for document in self.documents:
            for path, value in self._unread((), document.value):
                shown = f"{dotted(path)}: {shortened(value)}"
                lines[shown] = f"{document.file}:{document.key_place(path).line} {shown}"
        return list(lines.values())

    def _unread(self, path: KeyPath, value: Any) -> Iterator[tuple[KeyPath, str]]:
        if path in self._read and not (isinstance(value, dict) or _nested(value)):
            return
        if isinstance(value, dict):
            for key, item in value.items():
                yield from self._unread((*path, key), item)
        elif _nested(value):
            for number, item in enumerate(value):
                yield from self._unread((*path, number), item)
        elif isinstance(value, list) and any((*path, number) in self._read for number in range(len(value))):
            return
        elif value is not None and value != []:
            yield path, f"a list of {len(value)}" if isinstance(value, list) else str(value)


def _nested(value: object) -> bool:
    return isinstance(value, list) and any(isinstance(item, dict | list) for item in value)


def dotted(path: KeyPath) -> str:
    """`tokens.sequence_length`, `data_stages[0].name`."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).removeprefix(".")

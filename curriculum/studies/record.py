"""The record of a decision: a sealed file with the question, the evidence and the answer, which can be recomputed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from curriculum import fs
from curriculum.errors import DataError
from curriculum.studies.decision import Decision, Question
from curriculum.studies.evidence import Evidence, Row

FORMAT = 1
METHOD = 4
"""Raised when a version answers differently from the same evidence: that is no fault of an earlier record.

2: intervals of shares allow for the ridge of the laws. 3: they are symmetric; losses outside the goal are named.
4: the exponent of a cooldown's batch has an interval; candidates are compared without what their trunk adds.
"""
DECISIONS = "decisions"
CURVE = "curve"
"""The role of a training curve among the arms of a record."""
_NAME = re.compile(r"(\d{4})\.json")
_RUN = re.compile(r"seed (\d+), replicate (\d+)")
Kept = TypeVar("Kept", Question, Decision)
_SAME = ("format", "study", "text", "question", "evidence", "files", "decision")
"""Keys that must agree for a decision to be the one that is on disk already."""


@dataclass(frozen=True)
class Record:
    """A decision on disk; `content` is what the file holds without its seal."""

    number: int
    path: Path
    content: Mapping[str, Any]

    @property
    def address(self) -> str:
        """How a mixture names it: `domains@0001`."""
        return f"{self.content['study']}@{self.number:04}"

    @property
    def method(self) -> int:
        """By which method the answer was computed; records from before there was a second one do not say it."""
        return int(self.content.get("method", 1))

    @property
    def question(self) -> Question:
        """The question as it was asked. Raises DataError where the record has another form."""
        return self._as(Question, "question")

    @property
    def decision(self) -> Decision:
        """The answer as it was given. Raises DataError where the record has another form."""
        return self._as(Decision, "decision")

    @property
    def evidence(self) -> Evidence:
        """The losses of all runs, without those of their windows and training curves, of which it holds a digest."""
        rows = []
        for arm, entry in self.content["evidence"]["arms"].items():
            if entry["role"] == CURVE:
                continue
            for run, losses in entry["runs"].items():
                match = _RUN.fullmatch(run)
                if match is None:
                    raise self._damaged(f"{arm} has no run `{run}`")
                seed, replicate = map(int, match.groups())
                rows += [
                    Row(arm, replicate, seed, entry["role"], entry["settings"], source, loss)
                    for source, loss in losses.items()
                ]
        return Evidence(tuple(rows))

    def _as(self, kind: type[Kept], key: str) -> Kept:
        from pydantic import TypeAdapter, ValidationError

        try:
            return TypeAdapter(kind).validate_python(self.content[key])
        except (KeyError, ValidationError):
            raise self._damaged(f"its `{key}` has another form") from None

    def _damaged(self, what: str) -> DataError:
        return DataError(
            f"the record `{self.path}` cannot be read: {what}", hint="`curriculum decide` writes the next one"
        )


def content(
    study: str, text: str | None, question: Question, evidence: Evidence, decision: Decision, files: Mapping[str, str]
) -> dict[str, Any]:
    """What a record holds. `text` is the study's file as it was, `files` the digests of what was read, by path."""
    return {
        "format": FORMAT,
        "method": METHOD,
        "study": study,
        "text": text,
        "question": plain(question),
        "evidence": {"digest": digest(evidence), "arms": _arms(evidence)},
        "files": dict(files),
        "decision": {**plain(decision), "word": decision.word},
        "versions": {name: metadata.version(name) for name in ("numpy", "scipy")},
    }


def digest(evidence: Evidence) -> str:
    """SHA-256 of all rows, those of windows included, and of all training curves."""
    return fs.digest([evidence.rows, evidence.curves] if evidence.curves else evidence.rows)


def write(folder: Path, record: Mapping[str, Any]) -> Record:
    """The record in `folder`/decisions, under the next number; the newest one where it says the same already."""
    last = newest(folder)
    if last is not None and all(last.content.get(key) == record[key] for key in _SAME):
        return last
    directory = folder / DECISIONS
    fs.make_directory(directory)
    number = last.number + 1 if last else 1
    path = directory / f"{number:04}.json"
    sealed = fs.seal(record)
    fs.write_json(path, sealed)
    return Record(number, path, {key: value for key, value in sealed.items() if key != fs.SEAL})


def newest(folder: Path) -> Record | None:
    """The record with the highest number, None where there is none. Raises DataError for a damaged one."""
    present = numbers(folder)
    return read(folder, present[-1]) if present else None


def numbers(folder: Path) -> list[int]:
    """The numbers of the records in `folder`/decisions, in order."""
    return sorted(int(match[1]) for match in map(_NAME.fullmatch, _names(folder / DECISIONS)) if match)


def read(folder: Path, number: int) -> Record:
    """A record by its number.

    Raises DataError where it is missing, was changed after it was written, or has a format that this version does not
    read.
    """
    path = folder / DECISIONS / f"{number:04}.json"
    try:
        value = fs.read_sealed(path)
    except (OSError, ValueError) as error:
        raise DataError(
            f"the record `{path}` cannot be used: {error}", hint="`curriculum decide` writes the next one"
        ) from None
    if value.get("format", FORMAT) != FORMAT:
        raise DataError(
            f"the record `{path}` has format {value['format']!r}; this version reads {FORMAT}",
            hint="read it with the version that wrote it, or newer; `curriculum decide` writes the next one",
        )
    return Record(number, path, value)


def differences(record: Record, again: Mapping[str, Any]) -> list[str]:
    """The keys in which a record differs from what was computed again; empty where all agree."""
    plain = fs.unseal(fs.seal(again), ())
    return [key for key in _SAME if record.content.get(key) != plain.get(key)]


def _names(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()] if directory.is_dir() else []


def plain(value: Any) -> Any:
    """A dataclass as JSON reads it, infinities as texts."""
    return fs.finite_json(fs.unseal(fs.seal(fs.finite_json(_mapping(value))), ()))


def _mapping(value: Any) -> Any:
    if hasattr(value, "__dataclass_fields__"):
        return {name: _mapping(entry) for name, entry in fs.fields_of(value).items()}
    if isinstance(value, Mapping):
        return {str(key): _mapping(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_mapping(entry) for entry in value]
    return value


def _arms(evidence: Evidence) -> dict[str, Any]:
    """Each arm with its role, settings, and losses by run; of a training curve its mean, by where it ends."""
    arms: dict[str, Any] = {}
    for curve in evidence.curves:
        losses = {"training": sum(curve.losses) / max(1, len(curve.losses))}
        arms[curve.arm] = {"role": CURVE, "settings": {}, "runs": {f"to {curve.position} tokens": losses}}
    for arm in evidence.arms():
        runs: dict[str, dict[str, float]] = {}
        for row in evidence.rows:
            if row.arm == arm:
                runs.setdefault(f"seed {row.seed}, replicate {row.replicate}", {})[row.source] = row.loss
        arms[arm] = {"role": evidence.role(arm), "settings": dict(evidence.settings(arm)), "runs": runs}
    return arms

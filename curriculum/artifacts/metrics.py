"""The metrics of a stage, read while a job writes them: `metrics.jsonl`, one record a step, by rising position.

A kill may leave the last line incomplete; a restart cuts the file back and appends again. Reading changes nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from curriculum import fs
from curriculum.artifacts import checkpoints
from curriculum.artifacts.evaluations import read_evaluations
from curriculum.artifacts.stage_folder import Attempt, StageFolder
from curriculum.errors import CurriculumError, DataError

TAIL_BYTES = 1 << 16


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """Every record, streamed, so that a million of them need no memory; DataError names the first damaged line."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(_complete_lines(file), 1):
            if not line.strip():
                continue
            try:
                record = _record(line)
                float(record["seconds"]), float(record["tokens_per_second"]), record["loss"]
            except (ValueError, TypeError, KeyError) as error:
                raise DataError(
                    f"`{path.name}` line {number:,} of {path.parent} is not a record of training: {error}",
                    hint="it was damaged or edited; restore the file, or move it away to report without it",
                ) from None
            yield record


def last_record(path: Path) -> dict[str, Any] | None:
    """The last record, found from the end of the file; None when there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            return next(reversed(_records(_complete_lines(file))), None)
    except OSError:
        return None


@dataclass(slots=True)
class MetricsTail:
    """Reads the records that were appended since the last call; `restarted` is true once the file was cut back."""

    path: Path
    restarted: bool = False
    _offset: int = 0
    _last: bytes = b""

    def read_new(self) -> list[dict[str, Any]]:
        """The records since the last call; all of them again, with `restarted`, where the file was cut back."""
        self.restarted = False
        try:
            with self.path.open("rb") as file:
                # the line that was read last is not at its offset any more
                if os.pread(file.fileno(), len(self._last), self._offset - len(self._last)) != self._last:
                    self._offset, self._last, self.restarted = 0, b"", True
                file.seek(self._offset)
                lines = list(_complete_lines(file))
        except FileNotFoundError:
            self.restarted = self._offset > 0
            self._offset, self._last = 0, b""
            return []
        self._offset += sum(map(len, lines))
        self._last = lines[-1] if lines else self._last
        return _records(lines)


def _complete_lines(file: IO[bytes]) -> Iterator[bytes]:
    return (line for line in file if line.endswith(b"\n"))


def _records(lines: Iterable[bytes]) -> list[dict[str, Any]]:
    """The records among some lines; others are left out: an empty line, or the end of one."""
    records = []
    for line in lines:
        with contextlib.suppress(ValueError):
            records.append(_record(line))
    return records


def _record(line: bytes) -> dict[str, Any]:
    value = json.loads(line)
    if not isinstance(value, dict) or type(value.get("position")) is not int:
        raise ValueError("a position is a whole number")
    return value


@dataclass(slots=True)
class LiveMetrics:
    """The newest figures of a stage in training; records up to `resumed_at` are an earlier attempt's.

    `losses` are nats a token by source, `rate` is a running mean in tokens a second, `pace` one in seconds a token
    without saves. `evaluation` and `save` are the seconds that the last one took, 0 before the first.
    """

    folder: StageFolder
    resumed_at: int = -1
    last: dict[str, Any] = field(default_factory=dict)
    losses: dict[str, float] = field(default_factory=dict)
    rate: float = 0.0
    pace: float = 0.0
    evaluation: float = 0.0
    save: float = 0.0
    _tail: MetricsTail = field(init=False)

    def __post_init__(self) -> None:
        self._tail = MetricsTail(self.folder.metrics)

    def update(self) -> bool:
        """Read the new records; whether there were any."""
        records = self._tail.read_new()
        if self._tail.restarted:
            self.last, self.losses, self.rate, self.pace = {}, {}, 0.0, 0.0
        for record in records:
            self.evaluation = record.get("evaluation_seconds", self.evaluation)
            self.save = record.get("checkpoint_seconds", self.save)
        records = [record for record in records if record["position"] > self.resumed_at]
        for record in records:
            self.last = record
            rate = record.get("tokens_per_second", 0.0)
            self.rate = rate if self.rate == 0 else 0.9 * self.rate + 0.1 * rate
            seconds = record.get("seconds", 0.0)
            if rate and seconds:
                pace = (1 - record.get("checkpoint_seconds", 0.0) / seconds) / rate
                self.pace = pace if self.pace == 0 else 0.9 * self.pace + 0.1 * pace
            for name, entry in record.get("sources", {}).items():
                if entry["tokens"]:
                    self.losses[name] = entry["loss"]
        return bool(records)

    @property
    def position(self) -> int | None:
        return self.last.get("position")

    def seconds_left(self, stop: int, evaluations: int, saves: int) -> float | None:
        """At the present pace to position `stop`, with so many more evaluations and saves; None while there is none."""
        if self.position is None or self.pace <= 0:
            return None
        return (stop - self.position) * self.pace + evaluations * self.evaluation + saves * self.save

    def is_evaluated(self, position: int) -> bool:
        """Whether the held-out losses at `position` are on record."""
        return self.folder.evaluation(self.last.get("generation", 0), position).exists()


@dataclass(frozen=True, slots=True)
class StageActivity:
    """What the other files of a running stage say; positions in tokens, ages in seconds."""

    holder: Mapping[str, Any] | None
    attempt: Attempt | None
    saved_at: int | None
    saved_age: float | None
    held_out_at: int | None
    held_out: dict[str, float]


def stage_activity(folder: StageFolder) -> StageActivity:
    """Who holds the stage, its newest attempt and checkpoint, and the held-out loss measured last."""
    saved = checkpoints.latest(folder)
    age = None
    if saved is not None:
        try:
            age = max(0.0, time.time() - (saved.path / checkpoints.MANIFEST).stat().st_mtime)
        except OSError:  # retired since it was listed
            saved = None
    evaluations: Mapping[int, Mapping[str, Any]] = {}
    with contextlib.suppress(OSError, CurriculumError):
        evaluations = read_evaluations(folder)
    at = max(evaluations, default=None)
    return StageActivity(
        holder=fs.lock_holder(folder.lock),
        attempt=folder.newest_attempt(),
        saved_at=saved.position if saved else None,
        saved_age=age,
        held_out_at=at,
        held_out={name: e["loss"] for name, e in evaluations[at].items()} if at is not None else {},
    )

"""Follows the files that a running job writes, from any process, without touching them: reading can harm nothing.

A job appends to `metrics.jsonl`; a kill may tear the last line; a restart cuts the file back and writes it anew.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from curriculum import fs
from curriculum.artifacts import checkpoints
from curriculum.artifacts.evaluations import read_evaluations
from curriculum.artifacts.stage_folder import Attempt, StageFolder
from curriculum.errors import CurriculumError

TAIL_BYTES = 1 << 16


class Lines:
    """The whole lines of a JSON-lines file as they come; `restarted` is true once the file was cut back."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.restarted = False
        self._offset = 0
        self._last = b""

    def new(self) -> list[dict[str, Any]]:
        """The lines since the last call; all of them again, with `restarted`, where the file is another now."""
        self.restarted = False
        try:
            with self.path.open("rb") as file:
                if self._offset and not self._goes_on(file.fileno()):
                    self._offset, self._last, self.restarted = 0, b"", True
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            self.restarted = self._offset > 0
            self._offset, self._last = 0, b""
            return []
        whole, newline, _ = data.rpartition(b"\n")
        if not newline:
            return []
        self._offset += len(whole) + 1
        raw = whole.split(b"\n")
        self._last = raw[-1] + b"\n"
        return [line for line in map(_line, raw) if line is not None]

    def _goes_on(self, descriptor: int) -> bool:
        """Whether what was read last still stands where it stood."""
        begin = self._offset - len(self._last)
        return os.pread(descriptor, len(self._last), begin) == self._last


def last_line(path: Path) -> dict[str, Any] | None:
    """The last whole line of a JSON-lines file, without reading all of it; None when there is none."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL_BYTES))
            data = file.read()
    except OSError:
        return None
    for raw in reversed(data.split(b"\n")[:-1]):
        if (line := _line(raw)) is not None:
            return line
    return None


def _line(raw: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(raw)
    except ValueError:  # an empty or a torn line, or the middle of one
        return None
    return value if isinstance(value, dict) and isinstance(value.get("position"), int) else None


@dataclass(slots=True)
class Training:
    """The figures of a stage in training, as its metrics tell them; lines up to `begun_at` are an earlier launch's."""

    folder: StageFolder
    begun_at: int = -1
    last: dict[str, Any] = field(default_factory=dict)
    losses: dict[str, float] = field(default_factory=dict)
    rate: float = 0.0
    _lines: Lines = field(init=False)

    def __post_init__(self) -> None:
        self._lines = Lines(self.folder.metrics)

    def update(self) -> bool:
        """Read what is new; whether there was anything."""
        lines = self._lines.new()
        if self._lines.restarted:
            self.last, self.losses, self.rate = {}, {}, 0.0
        fresh = [line for line in lines if line["position"] > self.begun_at]
        for line in fresh:
            self.last = line
            speed = line.get("tokens_per_second", 0.0)
            self.rate = speed if self.rate == 0 else 0.9 * self.rate + 0.1 * speed
            for name, entry in line.get("sources", {}).items():
                if entry["tokens"]:
                    self.losses[name] = entry["loss"]
        return bool(fresh)

    @property
    def position(self) -> int | None:
        return self.last.get("position")

    def seconds_left(self, stop: int) -> float | None:
        """At the present rate, None while there is none."""
        if self.position is None or self.rate <= 0:
            return None
        return (stop - self.position) / self.rate


@dataclass(frozen=True, slots=True)
class Beside:
    """What lies beside the metrics of a running stage; ages in seconds."""

    holder: dict[str, Any] | None
    attempt: Attempt | None
    saved_at: int | None
    saved_age: float | None
    held_out_at: int | None
    held_out: dict[str, float]


def beside(folder: StageFolder) -> Beside:
    """Who holds the stage, its newest attempt and checkpoint, and the held-out loss measured last."""
    saved = checkpoints.latest(folder)
    age = None
    if saved is not None:
        try:
            age = max(0.0, time.time() - (saved.path / checkpoints.MANIFEST).stat().st_mtime)
        except OSError:  # retired since it was listed
            saved = None
    try:
        measured = read_evaluations(folder)
    except (OSError, CurriculumError):
        measured = {}
    at = max(measured, default=None)
    holder = fs.lock_holder(folder.lock)
    return Beside(
        holder=dict(holder) if holder is not None else None,
        attempt=folder.newest_attempt(),
        saved_at=saved.position if saved else None,
        saved_age=age,
        held_out_at=at,
        held_out={name: e["loss"] for name, e in measured[at].items()} if at is not None else {},
    )

"""Time things in turns, so that what else the machine does falls on all alike; show medians with their spread."""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]


@dataclass(slots=True)
class Row:
    """One thing measured: its name, its values, one a turn, and whatever kept it from being measured."""

    name: str
    values: list[float] = field(default_factory=list)
    more: dict[str, Any] = field(default_factory=dict)
    absent: str | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.values) if self.values else float("nan")

    @property
    def spread(self) -> str:
        return f"{show(min(self.values))} to {show(max(self.values))}" if self.values else ""


def in_turns(rows: Mapping[str, Callable[[], float]], turns: int) -> dict[str, Row]:
    """Each measured `turns` times, A B … A B …, with every other turn from the other end."""
    results = {name: Row(name) for name in rows}
    for turn in range(turns):
        for name in list(rows) if turn % 2 == 0 else list(rows)[::-1]:
            results[name].values.append(rows[name]())
    return results


class Started:
    """A clock that was started: of wall, and of this process with the children that have ended."""

    def __init__(self) -> None:
        self._wall, self._used = time.perf_counter(), _used()

    def seconds(self) -> tuple[float, float]:
        return time.perf_counter() - self._wall, _used() - self._used


def _used() -> float:
    """Seconds of processors so far; `os.times` counts them in hundredths."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


@dataclass(frozen=True, slots=True)
class Process:
    """A finished process: wall and CPU seconds, peak resident memory in bytes, what it printed."""

    wall: float
    cpu: float
    peak: int
    output: str


def process(*words: str, cwd: Path = ROOT) -> Process:
    """Run `python WORDS`; RuntimeError, with what it printed, when it fails."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    env.pop("PYTHONDONTWRITEBYTECODE", None)  # as installed: compiled once, at the first turn
    with tempfile.TemporaryFile("w+") as out:
        started = time.perf_counter()
        child = subprocess.Popen([sys.executable, *words], cwd=cwd, env=env, stdout=out, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(child.pid, 0)
        wall = time.perf_counter() - started
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        output = out.read()
    if child.returncode:
        raise RuntimeError(f"python {' '.join(words)[:200]} ended with {child.returncode}\n{output[-2000:]}")
    return Process(wall, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024, output)


def peak() -> int:
    """Peak resident memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def show(value: float) -> str:
    """Three digits, with a word for the magnitude."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1, ""), (1e-3, "m"), (1e-6, "µ")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def table(title: str, rows: Sequence[Row], unit: str, against: str | None = None) -> None:
    """Print medians with their spread and, where there is something to compare with, the ratio to it."""
    by_name = {row.name: row for row in rows}
    base = by_name[against].median if against in by_name and by_name[against].values else None
    print(f"\n{title}")
    for row in rows:
        if row.absent:
            print(f"  {row.name:<44} not measured: {row.absent}")
            continue
        ratio = f"{row.median / base:8.3f} of {against}" if base and row.name != against else ""
        more = "".join(f"  {name} {value}" for name, value in row.more.items())
        print(f"  {row.name:<44} {show(row.median):>7}{unit:<9} ({row.spread}){more}  {ratio}".rstrip())


def goal(what: str, value: float, bound: float, *, at_most: bool = False, unit: str = "") -> None:
    """Print a goal with what was found; nothing fails, for the machine may be busy."""
    kept = value <= bound if at_most else value >= bound
    words = "at most" if at_most else "at least"
    print(f"  goal: {what}: {words} {show(bound)}{unit}; found {show(value)}{unit}: {'kept' if kept else 'NOT KEPT'}")


def machine(*packages: str) -> None:
    """Print what a figure depends on: processor, load, versions."""
    versions = {"python": platform.python_version(), "numpy": np.__version__}
    for name in packages:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "absent"
    model = next(
        (line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.machine(),
    )
    load = ", ".join(f"{value:.2f}" for value in os.getloadavg())
    print(f"{time.strftime('%Y-%m-%d %H:%M')}  {os.cpu_count()} x {model}, load {load}")
    print("  ".join(f"{name} {version}" for name, version in versions.items()))


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def arguments(about: str, **more: Any) -> argparse.Namespace:
    """`--toy` for seconds instead of minutes, `--turns N`, `--json FILE`, and what a command adds."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--toy", action="store_true", help="tiny sizes, to see that it still runs")
    parser.add_argument("--turns", type=int, default=5, help="how often each thing is measured")
    parser.add_argument("--json", type=Path, help="also write all values there")
    for name, options in more.items():
        parser.add_argument(f"--{name}", **options)
    given = parser.parse_args()
    if given.toy:
        given.turns = 1
    return given


def save(path: Path | None, tables: Mapping[str, Sequence[Row]]) -> None:
    if path is not None:
        value = {
            title: [{"name": r.name, "values": r.values, "more": r.more, "absent": r.absent} for r in rows]
            for title, rows in tables.items()
        }
        path.write_text(json.dumps(value, indent=1, default=str))

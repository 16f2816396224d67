"""What a figure is: a number of trials of one kind of fault, each printed with its seed, and those that failed."""

from __future__ import annotations

import contextlib
import importlib
import random
import sys
import tempfile
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SIZES = ("smoke", "gate", "long")


@dataclass
class Tally:
    """Counts the trials of a figure; `failures` says of each failed one what and with which seed."""

    trials: int = 0
    failures: list[str] = field(default_factory=list)
    notes: dict[str, object] = field(default_factory=dict)

    def trial(self, what: str, ok: bool) -> bool:
        self.trials += 1
        if not ok:
            self.failures.append(what)
        return ok

    def wrong(self, what: str) -> None:
        self.trials += 1
        self.failures.append(what)

    def right(self) -> None:
        self.trials += 1


@dataclass(frozen=True)
class Case:
    """One run of one figure."""

    size: str
    seed: int
    folder: Path

    def draw(self, *what: object) -> random.Random:
        """A source of chance of its own for every named thing, so that one trial can be replayed alone."""
        return random.Random(f"{self.seed}/{what}")

    def count(self, smoke: int, gate: int, long: int) -> int:
        return {"smoke": smoke, "gate": gate, "long": long}[self.size]


@dataclass(frozen=True)
class Figure:
    name: str
    title: str
    run: Callable[[Case, Tally], None]
    needs: str = ""


FIGURES: dict[str, Figure] = {}


def figure(name: str, title: str) -> Callable[[Callable[[Case, Tally], None]], Callable[[Case, Tally], None]]:
    """Register a function as the figure `name`."""

    def register(run: Callable[[Case, Tally], None]) -> Callable[[Case, Tally], None]:
        assert name not in FIGURES, f"two figures are called {name}"
        FIGURES[name] = Figure(name, title, run)
        return run

    return register


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder in memory where there is one: a disk's own fsync is not what is tested here."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="torture-", dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder).resolve()


@contextlib.contextmanager
def mutated(module: str, *changes: tuple[str, str]) -> Iterator[None]:
    """Run with a module made from a changed copy of its source, each old text standing there exactly once."""
    found = importlib.import_module(module)
    assert found.__file__
    source = Path(found.__file__).read_text()
    text = source
    for old, new in changes:
        assert text.count(old) == 1, f"{module}: {text.count(old)} times:\n{old}"
        text = text.replace(old, new)
    before = dict(found.__dict__)
    try:
        exec(compile(text, found.__file__, "exec"), found.__dict__)
        yield
    finally:
        found.__dict__.clear()
        found.__dict__.update(before)


def modules_named(prefix: str) -> list[types.ModuleType]:
    return [module for name, module in sys.modules.items() if name.startswith(prefix)]

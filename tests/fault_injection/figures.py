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
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SIZES = ("smoke", "gate", "long")
PEERS = {
    "R1": "readable after a SIGKILL while saving: torch.save 39/100, DCP overwrite 48/100, OLMo-core overwrite 7/100",
    "R2": "bad states: safetensors 11 of 24, OLMo-core's file write 2 of 14",
    "R2m": "-",
    "R3": "noticed: torch.save 0/200, safetensors 0/200, DCP 2/200, OLMo-core 4/200, raw .bin 0/200, MDS 1/110",
    "R4": "noticed: zeroed page 0 to 7 of 60, swapped 0 to 10 of 60, cut 100/100 (raw tokens 45/100)",
    "R5": "old checkpoint lost by 3 of 5 writers (file size limit while saving)",
    "R6": "Hugging Face shuffled 0/10; MosaicML 4/4, litdata 4/4; torchtitan refuses other ranks",
    "R7": "torchrun alone: again in 3.2 to 8.7 s, from wherever the script begins",
    "R8": "gloo's and NCCL's own limit: 30 and 10 minutes",
    "R9": "nanotron's check is off by default",
    "R10": "DVC names line and column; most trainers show a traceback",
    "R11": "PyYAML's safe_load misreads 11 of 14",
    "R12": "OLMo-core misses other bytes of the same size; litdata compares about 8 fields",
    "R13": "torchtune overwrites",
    "R14": "goodfire spd 0 of 6 saved",
    "R15": "OLMo-core and Megatron skip the step; nothing stops such a checkpoint becoming the newest",
    "R16": "Marin lost 8,000 steps",
    "R17": "-",
    "R18": "none has it",
    "R19": "-",
    "R20": "-",
    "R21": "torch 2.13's DCP runs planted code; weights_only bypassed in two CVEs",
    "R22": "keys found in stored run configurations and logs (rslearn #687, labs-molt #128)",
    "R23": "-",
}
"""The same test on others, as measured or read; docs/reliability.md says how and with which versions."""


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
    times: float = 1.0

    def draw(self, *what: object) -> random.Random:
        """A source of chance of its own for every named thing, so that one trial can be replayed alone."""
        return random.Random(f"{self.seed}/{what}")

    def count(self, smoke: int, gate: int, long: int) -> int:
        """How many trials this size asks for, times what was asked for beside it; one at least."""
        return max(1, round(self.times * {"smoke": smoke, "gate": gate, "long": long}[self.size]))


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
    with tempfile.TemporaryDirectory(prefix="fault-injection-", dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder).resolve()


@contextlib.contextmanager
def mutated(module: str, *changes: tuple[str, str]) -> Iterator[None]:
    """Run with a module made from a changed copy of its source, each old text standing there exactly once.

    Functions and classes that other modules took out of it are changed there too.
    """
    found = importlib.import_module(module)
    assert found.__file__
    source = Path(found.__file__).read_text()
    text = source
    for old, new in changes:
        assert text.count(old) == 1, f"{module}: {text.count(old)} times:\n{old}"
        text = text.replace(old, new)
    before = dict(found.__dict__)
    elsewhere: list[tuple[types.ModuleType, str, Any]] = []
    try:
        exec(compile(text, found.__file__, "exec"), found.__dict__)
        for other in [*modules_named("curriculum"), *modules_named("runner")]:
            for name, value in list(vars(other).items()):  # modules that imported the name get the new one
                new = found.__dict__.get(name)
                if other is not found and value is before.get(name) and new is not value and callable(new):
                    elsewhere.append((other, name, value))
                    setattr(other, name, new)
        yield
    finally:
        found.__dict__.clear()
        found.__dict__.update(before)
        for other, name, value in elsewhere:
            setattr(other, name, value)


def modules_named(prefix: str) -> list[types.ModuleType]:
    return [module for name, module in sys.modules.items() if name.startswith(prefix)]

"""A stage's run folder `runs/<size>/<curriculum>/<stage>` and the attempts in it: every path below, defined once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curriculum import fs
from curriculum.errors import ConfigError


def checkpoint_name(generation: int, position: int) -> str:
    """The name of a checkpoint at `position` (tokens), and the stem of its evaluation: names sort as positions."""
    return f"g{generation}-{position:016d}"


class _Entry:
    """The path of a file or directory in the folder that it is read from."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, folder: Attempt | StageFolder, kind: type) -> Path:
        return folder.path / self._name


@dataclass(frozen=True, slots=True)
class Attempt:
    """One launch of a job: a numbered directory that its processes and its supervisor write to."""

    path: Path

    job = _Entry("job.json")
    environment = _Entry("environment.json")  # versions and hardware, as rank 0 found them
    timing = _Entry("timing.json")  # seconds of a step and of a save, from the first save on
    outcome = _Entry("outcome.json")  # how the job ended: torchrun hides exit codes
    log = _Entry("rank0.log")
    stop = _Entry("stop")  # appears when a trainer with `stop: file` is asked to save and end
    announcement = _Entry("nodes.json")  # by the first of several nodes, for the others to join
    processes = _Entry("processes.txt")  # of an attempt that hung: what the system reports of its processes
    doctor_report = _Entry("doctor.json")

    def __str__(self) -> str:
        return str(self.path)

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def number(self) -> int:
        return int(self.path.name)

    def node_log(self, node: int) -> Path:
        """The log of node `node` (from 1); it exists from the moment at which that node joined."""
        return self.path / f"node{node}.log"

    def stacks(self, rank: int) -> Path:
        """Touched by a rank while it makes progress; not empty once a step exceeded its time limit."""
        return self.path / f"stacks-rank{rank}.txt"

    def all_stacks(self) -> list[Path]:
        return list(self.path.glob("stacks-rank*.txt"))

    def nccl_operations(self, rank: int | str) -> Path:
        """The last collectives by NCCL of a rank that hung, as torch's `torchfrtrace` reads them."""
        return self.path / f"flight-nccl-rank{rank}"

    def gloo_operations(self, rank: int) -> Path:
        """The last collectives by gloo of a rank that hung: torch's own JSON."""
        return self.path / f"flight-gloo-rank{rank}.json"

    def read_outcome(self) -> dict[str, Any] | None:
        """How the job ended; None where that was not written, or only in part."""
        try:
            outcome: dict[str, Any] = fs.parse_json(fs.read_bytes(self.outcome))
        except (OSError, ValueError):
            return None
        return outcome

    def previous(self) -> list[Attempt]:
        """The attempts before this one, newest first."""
        return [other for other in reversed(attempts_in(self.path.parent)) if other.number < self.number]


def attempts_in(directory: Path) -> list[Attempt]:
    """The attempts below a directory, oldest first."""
    paths = directory.iterdir() if directory.is_dir() else ()
    return sorted((Attempt(path) for path in paths if path.name.isdigit()), key=lambda a: a.number)


def next_attempt(directory: Path) -> Attempt:
    """The attempt that `new_attempt` would create."""
    number = max((attempt.number for attempt in attempts_in(directory)), default=0) + 1
    return Attempt(directory / f"{number:04d}")


def new_attempt(directory: Path) -> Attempt:
    """Create the next attempt, durably; two processes never get the same one."""
    fs.make_directory(directory)
    while True:
        attempt = next_attempt(directory)
        try:
            attempt.path.mkdir()
        except FileExistsError:
            continue
        fs.fsync(directory)
        return attempt


@dataclass(frozen=True, slots=True)
class StageFolder:
    """The run folder of a stage at a size."""

    path: Path

    plan = _Entry("plan.json")
    checkpoints = _Entry("checkpoints")
    evaluations = _Entry("evaluations")  # held-out losses
    benchmarks = _Entry("benchmarks")  # records of lm-evaluation-harness
    parent = _Entry("parent")  # the checkpoint that it starts from, in the form that its trainer reads
    pins = _Entry("pins")
    attempts = _Entry("attempts")
    measuring = _Entry("measuring")  # Slurm's record of the stage's benchmarks; that of its training is here
    ledger = _Entry("ledger.jsonl")
    metrics = _Entry("metrics.jsonl")
    events = _Entry("events.jsonl")  # loss spikes and non-finite steps
    held_out_picture = _Entry("held-out.svg")
    lock = _Entry("lock")  # held by rank 0 while it trains
    supervised = _Entry("supervised")  # the lock of the process that supervises the trainer
    pinning = _Entry("pinning")  # the lock under which pins are written and released
    done = _Entry("DONE")  # written once the stage's end is saved, with the digest of its weights

    @staticmethod
    def open(path: Path) -> StageFolder:
        """The folder at `path`, which need not exist; ConfigError where a symbolic link would lead out of `runs`."""
        folder = StageFolder(path)
        inside = (folder.checkpoints, folder.pins, folder.evaluations, folder.attempts, folder.plan)
        for link in (path.parents[1], path.parent, path, *inside):
            if link.is_symlink():
                raise ConfigError(
                    f"`{link}` is a symbolic link; what is inside `runs` is opened without following any",
                    hint="put the folder itself there; `runs` as a whole may be a link to another disk",
                )
        return folder

    def __str__(self) -> str:
        return str(self.path)

    @property
    def curriculum(self) -> str:
        return self.path.parent.name

    @property
    def stage(self) -> str:
        return self.path.name

    @property
    def name(self) -> str:
        """`<curriculum>/<stage>`."""
        return f"{self.curriculum}/{self.stage}"

    def holder(self) -> Mapping[str, Any] | None:
        """The process that trains the stage, or supervises a trainer that starts; None when neither runs."""
        holders = map(fs.lock_holder, (self.lock, self.supervised))
        return next((holder for holder in holders if holder is not None), None)

    def plans(self) -> list[Path]:
        """The plan, where there is one, and those that it replaced."""
        return [*([self.plan] if self.plan.exists() else []), *self.replaced_plans()]

    def replaced_plans(self) -> list[Path]:
        """Plans that an accepted change replaced, oldest first."""
        return sorted(self.path.glob("plan-*.json"))

    def replaced_plan(self, number: int) -> Path:
        return self.path / f"plan-{number:03d}.json"

    def checkpoint(self, generation: int, position: int) -> Path:
        return self.checkpoints / checkpoint_name(generation, position)

    def evaluation(self, generation: int, position: int) -> Path:
        return self.evaluations / f"{checkpoint_name(generation, position)}.json"

    def evaluation_files(self, generation: int | None = None) -> list[Path]:
        """Evaluations of one generation or of all, by name."""
        return sorted(self.evaluations.glob("g*.json" if generation is None else f"g{generation}-*.json"))

    def pins_at(self, position: int) -> Path:
        return self.pins / f"{position:016d}"

    def newest_attempt(self) -> Attempt | None:
        return next(reversed(attempts_in(self.attempts)), None)


def stage_folders(directory: Path) -> list[StageFolder]:
    """The stages that left something in `runs/<size>`, by name."""
    return sorted((StageFolder(path) for path in directory.glob("*/*") if path.is_dir()), key=lambda f: f.name)

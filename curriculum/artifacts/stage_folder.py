"""A stage's run folder and the attempts in it: the path of everything that a run writes, defined once.

```
runs/<size>/<curriculum>/<stage>/
  plan.json  plan-000.json …      the compiled plan, and the ones that it replaced
  checkpoints/g0-<position>/      complete checkpoints, by position in tokens
  evaluations/g0-<position>.json  held-out losses at a position
  benchmarks/g0-<position>/       lm-evaluation-harness records of a checkpoint
  ledger.jsonl metrics.jsonl events.jsonl
  pins/<position>/<curriculum>.json
  attempts/0001/                  one launch: job.json, environment.json, rank0.log, outcome.json, timing.json …
  slurm/ measuring/slurm/         submissions of the stage's training and of its benchmarks to Slurm
  lock supervised pinning
  DONE
```
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from curriculum import fs
from curriculum.errors import ConfigError


def position_name(position: int) -> str:
    """A position (tokens) in a file name, padded so that sorting names sorts positions."""
    return f"{position:016d}"


def checkpoint_name(generation: int, position: int) -> str:
    """The directory name of the checkpoint at `position` (tokens) of `generation`, and the stem of its evaluation."""
    return f"g{generation}-{position_name(position)}"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One launch of a job: a numbered directory that its processes and its supervisor write to."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def number(self) -> int:
        return int(self.path.name)

    @property
    def job(self) -> Path:
        return self.path / "job.json"

    @property
    def environment(self) -> Path:
        """Versions and hardware, as rank 0 found them."""
        return self.path / "environment.json"

    @property
    def timing(self) -> Path:
        """Seconds of a step and of a save, from the first save on."""
        return self.path / "timing.json"

    @property
    def outcome(self) -> Path:
        """How the job ended: torchrun hides exit codes."""
        return self.path / "outcome.json"

    @property
    def log(self) -> Path:
        return self.path / "rank0.log"

    @property
    def announcement(self) -> Path:
        """Written by the first of several nodes for the others to join."""
        return self.path / "nodes.json"

    @property
    def processes(self) -> Path:
        """What the operating system reported of the processes of an attempt that hung."""
        return self.path / "processes.txt"

    @property
    def doctor_report(self) -> Path:
        return self.path / "doctor.json"

    def node_log(self, node: int) -> Path:
        """The log of node `node` (from 1); it exists from the moment at which that node joined."""
        return self.path / f"node{node}.log"

    def stacks(self, rank: int) -> Path:
        """Touched by a rank while it makes progress; not empty once a step exceeded its time limit."""
        return self.path / f"stacks-rank{rank}.txt"

    def all_stacks(self) -> list[Path]:
        return list(self.path.glob("stacks-rank*.txt"))

    def previous(self) -> list[Attempt]:
        """The attempts before this one, newest first."""
        return [other for other in reversed(attempts_in(self.path.parent)) if other.number < self.number]


def attempts_in(directory: Path) -> list[Attempt]:
    """The attempts below a directory, oldest first."""
    paths = directory.iterdir() if directory.is_dir() else ()
    return sorted(
        (Attempt(path) for path in paths if path.name.isdigit()), key=lambda attempt: attempt.number
    )


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

    @staticmethod
    def open(path: Path) -> StageFolder:
        """The folder at `path`, which need not exist; ConfigError where a symbolic link would lead out of `runs`."""
        folder = StageFolder(path)
        inside = (folder.checkpoints, folder.pins, folder.evaluations, folder.attempts, folder.plan)
        for link in (path.parents[1], path.parent, path, *inside):
            if link.is_symlink():
                raise ConfigError(
                    f"`{link}` is a symbolic link; what lies inside `runs` is opened without following any",
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

    @property
    def plan(self) -> Path:
        return self.path / "plan.json"

    def plans(self) -> list[Path]:
        """The plan, where there is one, and those that it replaced."""
        return [*([self.plan] if self.plan.exists() else []), *self.replaced_plans()]

    def replaced_plans(self) -> list[Path]:
        """Plans that an accepted change replaced, oldest first."""
        return sorted(self.path.glob("plan-*.json"))

    def replaced_plan(self, number: int) -> Path:
        return self.path / f"plan-{number:03d}.json"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def checkpoint(self, generation: int, position: int) -> Path:
        return self.checkpoints / checkpoint_name(generation, position)

    @property
    def evaluations(self) -> Path:
        return self.path / "evaluations"

    def evaluation(self, generation: int, position: int) -> Path:
        return self.evaluations / f"{checkpoint_name(generation, position)}.json"

    def evaluation_files(self, generation: int | None = None) -> list[Path]:
        """Evaluations of one generation or of all, by name."""
        return sorted(self.evaluations.glob("g*.json" if generation is None else f"g{generation}-*.json"))

    @property
    def benchmarks(self) -> Path:
        return self.path / "benchmarks"

    @property
    def ledger(self) -> Path:
        return self.path / "ledger.jsonl"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def events(self) -> Path:
        """Loss spikes and non-finite steps."""
        return self.path / "events.jsonl"

    @property
    def held_out_picture(self) -> Path:
        return self.path / "held-out.svg"

    @property
    def pins(self) -> Path:
        return self.path / "pins"

    def pins_at(self, position: int) -> Path:
        return self.pins / position_name(position)

    @property
    def attempts(self) -> Path:
        return self.path / "attempts"

    def newest_attempt(self) -> Attempt | None:
        return next(reversed(attempts_in(self.attempts)), None)

    @property
    def measuring(self) -> Path:
        """Slurm's record and submissions of the stage's benchmarks, laid out as those of its training are here."""
        return self.path / "measuring"

    @property
    def lock(self) -> Path:
        """Held by rank 0 while it trains the stage."""
        return self.path / "lock"

    @property
    def supervised(self) -> Path:
        """The lock of the process that supervises the stage's trainer."""
        return self.path / "supervised"

    @property
    def pinning(self) -> Path:
        """The lock under which pins are written and released."""
        return self.path / "pinning"

    @property
    def done(self) -> Path:
        """Written when the stage's end is saved, with the digest of its weights."""
        return self.path / "DONE"


def stage_folders(directory: Path) -> list[StageFolder]:
    """The stages that left something in `runs/<size>`, by name."""
    return sorted(
        (StageFolder(path) for path in directory.glob("*/*") if path.is_dir()), key=lambda folder: folder.name
    )

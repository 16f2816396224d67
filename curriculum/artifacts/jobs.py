"""Job files, the input of the runner: where and how one task is done. What is trained is in the plan alone.

A job file is JSON with a `kind`. Paths are absolute. A training job may be launched again at any time, as
a new attempt that says what it resumes from.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from curriculum import fs
from curriculum.artifacts.checkpoints import KEEP_LAST
from curriculum.artifacts.stage_folder import Attempt
from curriculum.data.requests import PrepareRequest, TokenizerRequest
from curriculum.errors import CurriculumError, RunFailed, storage_error

FORMAT = 2
READS = (1, 2)
"""Of format 1 are the jobs that 0.1.0 queued."""

SLOW_TIMES = 6
"""How many times a step's limit a start or a save may take."""
DONE, STOPPED, REFUSED, FAILED = "done", "stopped", "refused", "failed"
TAKEN = "taken"
"""A trainer whose machine was taken away: launched again, and no failure."""
TAKEN_CODE = 75
"""The exit code that says so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """How a training job runs; any of it may change at every restart. `host_memory` is of each node, in bytes.

    `profile` is `{from_step, steps}`; `peak_flops` what one device can do in a second, for the MFU;
    `hang_limit` the seconds that a micro-batch may take; `grace` those from the request to stop to the kill, if known.
    """

    device: str = "auto"
    precision: str = "auto"
    sharding: str = "auto"
    micro_batch: int | None = None
    host_memory: int | None = None
    attention: str = "auto"
    compile: bool | None = None
    activation_checkpointing: str = "none"
    reshard: str = "never"
    exchange: str = "last-micro-batch"
    deterministic: bool = False
    exactness: str = "native"
    threads: int | None = None
    layer_norms: int | None = None
    trackers: tuple[str, ...] = ()
    profile: Mapping[str, int] | None = None
    peak_flops: float | None = None
    hang_limit: float = 600.0
    grace: float | None = None

    @property
    def slow_limit(self) -> float:
        """Seconds that a start, a save and whatever waits for one may take."""
        return self.hang_limit * SLOW_TIMES


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """A held-out set to evaluate on: `windows` windows, spread evenly over the held-out split of the data folder."""

    folder: str
    windows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Trainer:
    """Another program that trains stages: `run` is its command, executed in `folder`; the rest as in machines.yaml."""

    name: str
    run: tuple[str, ...]
    folder: str
    ranks: str = "ours"
    stop: str = "signal"
    does: tuple[str, ...] = ("train",)
    layout: str = "opaque"


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """What a launch resumes from: a checkpoint of the stage's `own`, that of its `parent`, or `nothing`.

    `step` is the first to take, counted from the root; `optimizer` whether the optimizer's state is taken along.
    """

    origin: Literal["own", "parent", "nothing"]
    folder: str | None
    step: int
    optimizer: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainJob:
    """Train one stage to its end, from its last checkpoint or, when it has none, from its parent's.

    `data` maps each source of the plan to its prepared folder. `checkpoint_every` and `evaluate_every` are in
    tokens on the curriculum's clock; `keep` are positions at which a checkpoint is taken and kept;
    `keep_last` is how many of the cadence's checkpoints are retained. `lineage` names the stages from the root to this
    one, for trackers. `accept_environment` continues with other versions or another processor. Each launch adds its
    attempt, the steps in [first_step, last_step) and what it resumes from. `trainer` is None for our own.
    `averages` are the checkpoints that an average is of, in the order of its plan.
    """

    plan: str
    stage_folder: str
    attempt_folder: str
    data: Mapping[str, str]
    held_out: Mapping[str, HeldOut]
    parent_checkpoint: str | None
    generation: int
    checkpoint_every: int
    evaluate_every: int
    keep: tuple[int, ...] = ()
    keep_last: int = KEEP_LAST
    machine: Machine = field(default_factory=Machine)
    stop_at: int | None = None
    lineage: tuple[str, ...] = ()
    accept_environment: bool = False
    first_step: int = 0
    last_step: int = 0
    resume: Resume | None = None
    trainer: Trainer | None = None
    averages: tuple[str, ...] = field(default=(), metadata=fs.ADDED_LATER)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateJob:
    """Measure the held-out loss of a kept checkpoint on the sets that are not on record.

    With another `trainer`, `resume` is the checkpoint, `data` the prepared text, and no step is taken.
    """

    plan: str
    stage_folder: str
    attempt_folder: str
    checkpoint: str
    held_out: Mapping[str, HeldOut]
    machine: Machine = field(default_factory=Machine)
    data: Mapping[str, str] = field(default_factory=dict)
    generation: int = 0
    evaluate_every: int = 0
    resume: Resume | None = None
    trainer: Trainer | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareJob:
    """Tokenise one source; see `PrepareRequest`. With `help`, only do tasks of it, along with other processes.

    With `sample` only measure what it takes, on a part of the source.
    """

    attempt_folder: str
    request: PrepareRequest
    help: bool = False
    sample: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerJob:
    """Train one tokenizer; see `TokenizerRequest`."""

    attempt_folder: str
    request: TokenizerRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorJob:
    """Report on this machine and whether it can serve `machine`; writes `doctor.json`."""

    attempt_folder: str
    machine: Machine


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportJob:
    """Convert a Hugging Face directory into a checkpoint `<imported>/<first 16 digits of its digest>`, once.

    The digests of its files are cached in `memory`, so that compiling a plan need not read them again.
    """

    attempt_folder: str
    source: str
    imported: str
    memory: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportJob:
    """Write the weights of `checkpoint` as the Hugging Face directory `output`, which appears complete or not at all.

    `dtype` holds for every tensor but those in `dtypes` (Hugging Face's names). `texts` are files to write
    (name to content), `copies` files to copy (name to path). No weights are converted where `copies` has them, which
    an empty `model` says. With `sealed` the directory is a checkpoint: it gets a manifest.
    """

    attempt_folder: str
    checkpoint: str
    output: str
    model: Mapping[str, Any]
    dtype: str
    dtypes: Mapping[str, str] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    copies: Mapping[str, str] = field(default_factory=dict)
    shard_bytes: int = 5_000_000_000
    sealed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class HarnessJob:
    """Measure the exported model in the directory `model` with lm-evaluation-harness, on one device.

    `outputs` maps each task or group of tasks to the file that its record goes to; existing files are
    kept. `folders` hold task files of the project's own in addition to the harness's, the last one first; data that
    they name by a relative path is looked for in the last. `identity` is written into every record as it is.
    `num_fewshot` and `limit` (documents of each task) are None where the task says.
    """

    attempt_folder: str
    model: str
    outputs: Mapping[str, str]
    identity: Mapping[str, Any]
    folders: tuple[str, ...] = ()
    num_fewshot: int | None = None
    limit: int | None = None
    batch_size: int = 8
    device: str = "auto"
    confirm_run_unsafe_code: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskItemsJob:
    """Write the items of a task or group of lm-evaluation-harness to `output`: JSON lines of `id` and `texts`.

    `folders` are as in a HarnessJob.
    """

    attempt_folder: str
    task: str
    output: str
    folders: tuple[str, ...] = ()


Job = TrainJob | EvaluateJob | PrepareJob | TokenizerJob | ImportJob | ExportJob | DoctorJob | HarnessJob | TaskItemsJob

_KINDS: dict[str, type[Job]] = {
    "train": TrainJob,
    "evaluate": EvaluateJob,
    "prepare": PrepareJob,
    "tokenizer": TokenizerJob,
    "import": ImportJob,
    "export": ExportJob,
    "doctor": DoctorJob,
    "harness": HarnessJob,
    "task-items": TaskItemsJob,
}


def save(job: Job, path: Path) -> None:
    """Write the job file, durably."""
    kind = next(name for name, cls in _KINDS.items() if cls is type(job))
    fs.write_json(path, {"format": FORMAT, "kind": kind, **fs.fields_of(job)})


def load(path: Path) -> Job:
    """Read a job file; RunFailed when this version does not know its format, its kind or one of its keys."""
    value: dict[str, Any] = json.loads(fs.read_bytes(path))
    cls = _KINDS.get(value.pop("kind"))
    if value.pop("format") not in READS or cls is None:
        raise RunFailed(f"`{path}` is not a job this version knows")
    try:
        return fs.from_json(cls, value)
    except ValueError as error:
        raise RunFailed(f"`{path}` is not a job this version knows: {error}") from None


# --- how a job ended ----------------------------------------------------------------------------------------


def outcome_of(error: BaseException) -> dict[str, Any]:
    """What `outcome.json` says of an error: refused where a restart would end in the same way, else failed."""
    cause = storage_error(error) if isinstance(error, OSError) else error
    if not isinstance(cause, CurriculumError):
        return {"outcome": FAILED, "message": f"{type(error).__name__}: {error}"}
    outcome: dict[str, Any] = {"outcome": REFUSED, "message": str(cause), "hint": cause.hint}
    return outcome | ({"entry": list(cause.entry)} if cause.entry else {})


def write_outcome(attempt: Attempt, outcome: Mapping[str, Any]) -> None:
    """Write `outcome.json`. The ranks that lose a peer to its refusal fail, too: the refusal stays on record."""
    if outcome["outcome"] != FAILED or (attempt.read_outcome() or {}).get("outcome") != REFUSED:
        fs.write_json(attempt.outcome, outcome, replace=True)


def due(before: int, now: int, every: int) -> bool:
    """Whether a multiple of `every` tokens is in (before, now]."""
    return every > 0 and now // every > before // every

"""Runs several lineages with few workers: the stages that they share first, each once, then the rest.

A stage that all share is trained as `run` trains it. Everything else is trained by the next worker that is free, a
thread that supervises one training process at a time: a stage that some lineages share before theirs, and beside those
of others. A lineage that fails is set aside and the others go on.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from curriculum.artifacts import jobs
from curriculum.artifacts.job_process import StopFlag, stop_on_signals
from curriculum.artifacts.metrics import last_record
from curriculum.artifacts.stage_folder import StageFolder
from curriculum.compiler.compile import Compiled, CompiledStage
from curriculum.compiler.lineage_tree import TreeStage, stage_tree
from curriculum.compiler.prepared_text import PreparedText
from curriculum.errors import CurriculumError, Drift, RunFailed, storage_error
from curriculum.execution import benchmark
from curriculum.execution.attempts import reached, run_each
from curriculum.execution.machine import launcher_for
from curriculum.execution.request import Listener, RunRequest
from curriculum.execution.run import (
    checked,
    prepare_members,
    prepared,
    prepared_job,
    run_stage,
    supervising,
    train_members,
)
from curriculum.execution.slurm import array, benchmark as slurm_benchmark
from curriculum.execution.slurm.submission import QueuedJob
from curriculum.execution.train_job import is_ended_arm
from curriculum.execution.workers import Worker, workers
from curriculum.launchers.process import ProcessLauncher
from curriculum.runs.folders import checkpoint_at, is_finished, is_reached, stage_folder

REFRESH_SECONDS: Final = 0.2
NAMED: Final = 6
"""Of more lineages than these that share a stage, the first are named."""
BUSY_SECONDS: Final = 60.0
"""Stages that take less at the rate of the stage before are trained in one process, together as long as this."""

State = Literal["done", "stopped", "failed"]
DONE: Final = "done"
STOPPED: Final = "stopped"
FAILED: Final = "failed"


@dataclass(frozen=True, slots=True)
class LineageResult:
    """How far a lineage of several came: `position` of its end in tokens, and why it was set aside.

    `unmeasured` is as in `RunResult`.
    """

    name: str
    compiled: Compiled
    state: State
    position: int
    error: CurriculumError | None = None
    unmeasured: tuple[str, ...] = ()


def run_many(requests: Sequence[RunRequest]) -> tuple[LineageResult, ...]:
    """Bring every lineage of `requests`, which are of one machine and size, to its end; one result each, in order.

    Any fault of the files is raised before a process starts. What fails in training is in the results.
    """
    machine = workers(requests[0])
    before = [checked(request).compiled for request in requests]
    with stop_on_signals() as stop:
        lineages: list[_Lineage] = []
        for request in requests:
            # opened again: what was prepared for one lineage is there for the next
            texts = PreparedText.open(request.project, request.curriculum, request.size)
            try:
                ready = prepared(request, texts, stop)
            except Drift as error:  # of this lineage alone: it was trained by another plan
                if request.arm is None:
                    raise
                lineages.append(_Lineage(request, texts, FAILED, error))
                continue
            if ready is None:
                return tuple(_result(each, compiled, STOPPED) for each, compiled in zip(requests, before, strict=True))
            lineages.append(_Lineage(request, ready))
        if all(lineage.error is not None for lineage in lineages) and lineages[0].error is not None:
            raise lineages[0].error
        _Pool(lineages, stop).run(machine)
        return tuple(_measured(lineage, stop) for lineage in lineages)


def not_started(requests: Sequence[RunRequest]) -> tuple[LineageResult, ...]:
    """What `run_many` returns where it was stopped before any text was there."""
    return tuple(_result(request, checked(request).compiled, STOPPED) for request in requests)


def submit_many(requests: Sequence[RunRequest]) -> tuple[list[QueuedJob], list[str]] | None:
    """Submit every lineage of `requests` to Slurm; the jobs of all, and a line for each task that is not measured.

    None when it was stopped while text was prepared, and no jobs where every stage is done.
    """
    for request in requests:
        checked(request)
    lineages: list[array.LineageToQueue] = []
    with stop_on_signals() as stop:
        for request in requests:
            texts = prepared(request, PreparedText.open(request.project, request.curriculum, request.size), stop)
            if texts is None or not prepare_members(request, texts.compiled, stop):
                return None
            lineages.append(array.LineageToQueue(request, texts.compiled, texts))
    queued = array.submit(lineages)
    jobs_by_stage = {job.label: job for of_lineage in queued.values() for job in of_lineage}
    lines: list[str] = []
    for lineage in lineages:
        training = tuple(queued[lineage.request.name])
        measuring, unmeasured = slurm_benchmark.submit(lineage.request, lineage.compiled, training)
        jobs_by_stage |= {job.label: job for job in measuring}
        lines += [line for line in unmeasured if line not in lines]
    return list(jobs_by_stage.values()), lines


def outline(requests: Sequence[RunRequest]) -> Iterator[str]:
    """What `run_many` or `submit_many` would do now, as lines."""
    if requests[0].machine_entry.launcher == "slurm":
        texts = [PreparedText.open(request.project, request.curriculum, request.size) for request in requests]
        yield from array.outline([array.LineageToQueue(r, t.compiled, t) for r, t in zip(requests, texts, strict=True)])
        return
    machine = workers(requests[0])
    lineages = {request.name: (request, checked(request).compiled) for request in requests}
    tree = stage_tree([compiled for _, compiled in lineages.values()], list(lineages))
    shared = {name: node for name, node in tree.items() if len(node.left_at) > 1}
    alone = {name for name, node in shared.items() if _is_alone(node, len(lineages), machine)}

    def once(name: str) -> str:
        node = shared[name]
        through = node.left_at if len(node.left_at) <= NAMED else [*[*node.left_at][: NAMED - 1], "…"]
        return f"{_remaining(requests[0], node.lineage, node.stage)}, once for {', '.join(through)}"

    yield from (once(name) for name in shared if name in alone)
    threads = f"{machine[0].threads} thread{'' if machine[0].threads == 1 else 's'}"
    yield f"then {len(machine)} at a time, each with {threads}" + (" and a GPU" if machine[0].devices else "") + ":"
    yield from (f"  {once(name)}" for name in shared if name not in alone)
    for name, (request, compiled) in lineages.items():
        own = [_remaining(request, compiled, stage) for stage in compiled.stages if stage.name not in shared]
        yield f"  {name}: {'; '.join(own) or 'nothing of its own'}"


def _remaining(request: RunRequest, compiled: Compiled, stage: CompiledStage) -> str:
    folder = stage_folder(request.project, compiled, stage)
    if is_finished(folder, stage) or (is_ended_arm(request, compiled) and stage is compiled.stages[-1]):
        return f"{stage.name} is done at {stage.stop:,} tokens"
    return f"{stage.name} {reached(folder, stage.plan.start):,} -> {stage.stop:,} tokens"


@dataclass(slots=True, eq=False)
class _Lineage:
    """A lineage of the pool, and how it ended: `state` is None while it goes on."""

    request: RunRequest
    texts: PreparedText
    state: State | None = None
    error: CurriculumError | None = None

    @property
    def compiled(self) -> Compiled:
        return self.texts.compiled

    def folder(self, stage: CompiledStage) -> StageFolder:
        return stage_folder(self.request.project, self.compiled, stage)

    def unfinished(self) -> list[CompiledStage]:
        """The stages that need training, in order; none of an arm that ended, whose weights may be pruned."""
        if is_ended_arm(self.request, self.compiled):
            return []
        return [stage for stage in self.compiled.stages if not is_finished(self.folder(stage), stage)]

    def ended(self, state: State, error: CurriculumError | None = None) -> None:
        self.state, self.error = state, error


class _Pool:
    """`stop` asks every training to save and end; `abandoned` ends them at once."""

    def __init__(self, lineages: Sequence[_Lineage], stop: StopFlag) -> None:
        self.lineages = {lineage.request.name: lineage for lineage in lineages}
        self.stop = stop
        self.abandoned = threading.Event()
        self.listener = lineages[0].request.listener
        self.shown, self.taking, self.averaging = threading.Lock(), threading.Lock(), threading.Lock()
        self.waiting: list[_Lineage] = []
        self.waiting_shared: list[TreeStage] = []
        self.training: list[TreeStage] = []
        self.workers = 1
        tree = stage_tree([lineage.compiled for lineage in lineages], list(self.lineages)).values()
        self.shared = [node for node in tree if len(node.left_at) > 1]

    def run(self, machine: Sequence[Worker]) -> None:
        for node in self.shared:
            if _is_alone(node, len(self.lineages), machine):
                self._train_shared(node)
            else:
                self.waiting_shared.append(node)
        self.waiting.extend(lineage for lineage in self.lineages.values() if lineage.state is None)
        self.workers = len(machine)
        with ThreadPoolExecutor(len(machine), thread_name_prefix="worker") as executor:
            working = [executor.submit(self._work, worker) for worker in machine]
            with self._ending_all():
                while wait(working, REFRESH_SECONDS).not_done:
                    with self.shown:
                        self.listener.tick()
        for future in working:
            future.result()

    @contextlib.contextmanager
    def _ending_all(self) -> Iterator[None]:
        """At an error here, a second Ctrl-C among them, no training goes on unwatched."""
        try:
            yield
        except BaseException:
            self.abandoned.set()
            self.stop.requested = True
            raise

    def _train_shared(self, node: TreeStage, worker: Worker | None = None, listener: Listener | None = None) -> None:
        """Train a stage for all that go through it: a worker's, or by the whole machine."""
        # those that were set aside, here or by an earlier stage that failed, need it no more
        through = [one for one in map(self.lineages.__getitem__, node.left_at) if one.state is None]
        if not through or all(is_ended_arm(lineage.request, lineage.compiled) for lineage in through):
            return
        stages = {id(one): next(s for s in one.compiled.stages if s.name == node.stage.name) for one in through}
        furthest = max(through, key=lambda one: stages[id(one)].stop)
        request = furthest.request
        if worker is not None and listener is not None:
            request = replace(request, threads=worker.threads, devices=worker.devices, listener=listener)
        with _set_aside(through, request.listener):
            stage = stages[id(furthest)]
            if not self._train_stage(furthest, request, stage):
                for each in through:
                    each.ended(STOPPED)

    def _work(self, worker: Worker) -> None:
        """Train what remains of one lineage after another; lineages of seconds begin together, in one process.

        Stages that some lineages share come first, since these wait for them.
        """
        listener = _FromThread(self.listener, self.shown, self.abandoned)
        try:
            while taken := self._take():
                if isinstance(taken, TreeStage):
                    self._train_shared(taken, worker, listener)
                    with self.taking:
                        self.training.remove(taken)
                    continue
                requests = [
                    replace(each.request, threads=worker.threads, devices=worker.devices, listener=listener)
                    for each in taken
                ]
                together = list(zip(taken, requests, strict=True))
                while len(together) > 1:
                    together = self._train_together(together)
                for lineage, request in zip(taken, requests, strict=True):
                    if lineage.state is None:
                        self._train_rest(lineage, request)
        except BaseException:
            self.stop.requested = True
            raise

    def _take(self) -> TreeStage | list[_Lineage]:
        """The next for a worker: a shared stage, or lineages, as many as keep it busy for `BUSY_SECONDS`.

        It gets at most half of its share of them. Those that go through a shared stage come once that is trained, and
        those that average checkpoints once these are; while all that remain wait, this does.
        """
        while not self.stop:
            with self.taking:
                untrained = {node.stage.name for node in (*self.waiting_shared, *self.training)}
                for node in self.waiting_shared:
                    if not untrained & {
                        stage.name for stage in node.lineage.stages[: node.lineage.stages.index(node.stage)]
                    }:
                        self.waiting_shared.remove(node)
                        self.training.append(node)
                        return node
                self.waiting = [lineage for lineage in self.waiting if lineage.state is None]
                ready = [
                    lineage
                    for lineage in self.waiting
                    if not untrained & {stage.name for stage in lineage.compiled.stages}
                    and not self._awaits_members(lineage)
                ]
                if ready:
                    first, *others = ready
                    share = -(-(len(self.waiting) - 1) // (2 * self.workers))
                    seconds = _seconds(first, self._own(first))
                    count = min(share, math.ceil(BUSY_SECONDS / seconds) - 1) if seconds else 0
                    plain = [lineage for lineage in others if not any(s.members for s in self._own(lineage))]
                    taken = [first, *plain[:count]]
                    self.waiting = [lineage for lineage in self.waiting if lineage not in taken]
                    return taken
                if not self.waiting:
                    return []
            time.sleep(REFRESH_SECONDS)
        return []

    def _awaits_members(self, lineage: _Lineage) -> bool:
        """Whether it averages a checkpoint that another lineage of the pool is still to reach."""
        missing = {
            member.stage.name
            for stage in self._own(lineage)
            for member in stage.members
            if checkpoint_at(stage_folder(lineage.request.project, member.compiled, member.stage), member.stage.stop)
            is None
        }
        others = [other for other in self.lineages.values() if other is not lineage and other.state is None]
        return any(stage.name in missing for other in others for stage in other.compiled.stages)

    def _own(self, lineage: _Lineage) -> list[CompiledStage]:
        """The stages that no other lineage goes through and that are not finished."""
        shared = {node.stage.name for node in self.shared}
        return [stage for stage in lineage.unfinished() if stage.name not in shared]

    def _train_together(self, lineages: Sequence[tuple[_Lineage, RunRequest]]) -> list[tuple[_Lineage, RunRequest]]:
        """Train the next stage of each in one process; those whose stage is finished.

        What that leaves undone is trained as any stage.
        """
        started: list[tuple[_Lineage, RunRequest, CompiledStage, jobs.TrainJob]] = []
        listener = lineages[0][1].listener
        with contextlib.ExitStack() as locks:
            for lineage, request in lineages:
                if not (own := self._own(lineage)) or self.stop:
                    continue
                stage, folder = own[0], lineage.folder(own[0])
                with _set_aside([lineage], listener):
                    locks.enter_context(supervising(folder, stage))
                    job = prepared_job(request, lineage.compiled, stage, lineage.texts)
                    listener.stage_started(stage, folder, reached(folder, stage.plan.start))
                    started.append((lineage, request, stage, job))
            if not started:
                return []
            launcher = launcher_for(lineages[0][1])
            assert isinstance(launcher, ProcessLauncher)
            with _set_aside([lineage for lineage, *_ in started], listener):
                try:
                    outcomes = run_each([job for *_, job in started], launcher, self.stop, tick=listener.tick)
                finally:
                    for _, _, stage, _ in started:
                        listener.stage_ended(stage)
                for (lineage, _, stage, _), outcome in zip(started, outcomes, strict=True):
                    stopped = outcome is not None and outcome["outcome"] == jobs.STOPPED
                    if stopped and not is_reached(lineage.folder(stage), stage):
                        lineage.ended(STOPPED)
        return [(one, request) for one, request, stage, _ in started if is_finished(one.folder(stage), stage)]

    def _train_rest(self, lineage: _Lineage, request: RunRequest) -> None:
        with _set_aside([lineage], request.listener):
            for stage in self._own(lineage):
                if self.stop or not self._train_stage(lineage, request, stage):
                    lineage.ended(STOPPED)
                    return
            lineage.ended(DONE)

    def _train_stage(self, lineage: _Lineage, request: RunRequest, stage: CompiledStage) -> bool:
        """Train a stage, and first what it averages and no lineage of the pool trains; false if stopped."""
        with self.averaging if stage.members else contextlib.nullcontext():  # two may average the same
            if not train_members(request, stage, self.stop):
                return False
        return run_stage(request, lineage.compiled, stage, lineage.texts, self.stop)


def _is_alone(node: TreeStage, lineages: int, machine: Sequence[Worker]) -> bool:
    """Whether a shared stage is trained by the whole machine, since no lineage can be trained beside it.

    That depends on no progress: with other threads its weights would have other bits after an interruption.
    """
    return len(node.left_at) == lineages or len(machine) == 1


def _seconds(lineage: _Lineage, own: Sequence[CompiledStage]) -> float | None:
    """What the next stage of a lineage takes at the rate of the stage before; None where no process may train several.

    That is only our own trainer, as a single process that traces nothing.
    """
    request = lineage.request
    entry = request.machine_entry
    if not own or own[0].parent is None or own[0].members or entry.trainer:
        return None
    if entry.profile or request.profile or request.world > 1:
        return None
    record = last_record(lineage.folder(own[0].parent).metrics)
    rate = record.get("tokens_per_second", 0.0) if record else 0.0
    return (own[0].stop - own[0].plan.start) / rate if rate else None


@contextlib.contextmanager
def _set_aside(lineages: Sequence[_Lineage], listener: Listener) -> Iterator[None]:
    """An error sets these lineages aside, and the listener is told."""
    try:
        yield
    except (CurriculumError, OSError) as error:
        known = storage_error(error) or RunFailed(str(error)) if isinstance(error, OSError) else error
        for lineage in lineages:
            lineage.ended(FAILED, known)
            listener.note(f"{lineage.request.name}: set aside, the others go on: {known.what}")


@dataclass(frozen=True)
class _FromThread(Listener):
    """Passes the events of a worker's thread on, one at a time; what is shown is refreshed by the main thread."""

    to: Listener
    shown: threading.Lock
    abandoned: threading.Event = field(repr=False)

    def stage_skipped(self, stage: CompiledStage) -> None:
        with self.shown:
            self.to.stage_skipped(stage)

    def stage_started(self, stage: CompiledStage, folder: StageFolder, start: int) -> None:
        with self.shown:
            self.to.stage_started(stage, folder, start)

    def stage_ended(self, stage: CompiledStage) -> None:
        with self.shown:
            self.to.stage_ended(stage)

    def note(self, line: str) -> None:
        with self.shown:
            self.to.note(line)

    def tick(self) -> None:
        if self.abandoned.is_set():
            raise KeyboardInterrupt


def _measured(lineage: _Lineage, stop: StopFlag) -> LineageResult:
    """The result of a lineage, with the benchmarks that its stages ask for measured once it is trained."""
    if lineage.state != DONE or stop:
        return _result(lineage.request, lineage.compiled, lineage.state or STOPPED, lineage.error)
    missing = benchmark.catch_up(lineage.request, lineage.compiled, stop)
    state: State = STOPPED if missing.stopped else DONE
    return replace(_result(lineage.request, lineage.compiled, state), unmeasured=missing.unmeasured)


def _result(
    request: RunRequest, compiled: Compiled, state: State, error: CurriculumError | None = None
) -> LineageResult:
    position = compiled.stages[0].plan.start
    for stage in compiled.stages:
        position = max(position, min(stage.stop, reached(stage_folder(request.project, compiled, stage), position)))
    if is_ended_arm(request, compiled):
        position = compiled.stop
    return LineageResult(request.name, compiled, state, position, error)

"""Walks a lineage from its root: prepares what is missing, skips what is done, starts what is not, waits.

It decides nothing about training: it compiles plans, compares them with what has begun, writes job files and
hands them to the supervisor.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from curriculum import checkpoints, corpora, durable, schema
from curriculum import job as jobs
from curriculum.diff import first_difference
from curriculum.errors import CurriculumError, Drift, NotFound, PlanError, did_you_mean
from curriculum.launchers import local
from curriculum.plan import StagePlan, share_of_rank
from curriculum.planner import Compiled, CompiledStage, compile_curriculum, kept_positions
from curriculum.project import Project
from curriculum.supervisor import Launch, StopRequested, stop_on_signals, supervise

PLAN = "plan.json"
DONE = "DONE"
LOCK = "lock"


class Listener(Protocol):
    """Whoever shows what happens; every call is a fact, none asks for a decision."""

    def preparing(self, what: str, progress: Path | None) -> None: ...
    def prepared(self, what: str) -> None: ...
    def compiled(self, compiled: Compiled) -> None: ...
    def skipped(self, stage: CompiledStage) -> None: ...
    def begun(self, stage: CompiledStage, folder: Path, resumed_at: int) -> None: ...
    def tick(self) -> None: ...
    def ended(self, stage: CompiledStage, outcome: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Run:
    """What is asked for: a curriculum at a size on a machine."""

    project: Project
    curriculum: str
    size: str = "rehearsal"
    machine: str = "local"
    processes: int | None = None
    accept_change: bool = False
    listener: Listener = field(repr=False)

    @property
    def machine_entry(self) -> schema.MachineEntry:
        return self.project.machine(self.machine)


@dataclass(frozen=True, slots=True)
class Result:
    """How a run ended. `stopped` means saved, and the same command goes on."""

    compiled: Compiled
    stopped: bool
    trained: tuple[str, ...]


def run(request: Run) -> Result:
    """Bring every stage of the lineage to its end, each as a process of its own."""
    project = request.project
    # Faulty files, and a machine that does not fit them, are refused before any process starts.
    declared, _ = corpora.compile_with_texts(project, request.curriculum, request.size)
    processes = processes_for(request, declared)
    with stop_on_signals() as stop:
        texts = prepare(request, stop)
        if texts is None:
            return Result(declared, True, ())
        compiled = compile_curriculum(
            project, request.curriculum, request.size, facts=texts.facts, tokenizer=texts.tokenizer
        )
        request.listener.compiled(compiled)
        check_begun(project, compiled, accept=request.accept_change)
        trained: list[str] = []
        for stage in compiled.stages:
            folder = stage_folder(project, compiled, stage)
            if is_reached(folder, stage):
                request.listener.skipped(stage)
                continue
            outcome = _train(request, compiled, stage, texts, processes, stop)
            request.listener.ended(stage, outcome)
            trained.append(stage.name)
            if outcome["outcome"] == jobs.STOPPED and not is_reached(folder, stage):
                return Result(compiled, True, tuple(trained))
        return Result(compiled, False, tuple(trained))


def processes_for(request: Run, compiled: Compiled) -> int:
    """How many processes train each stage; PlanError when a batch still to be trained cannot be dealt to them."""
    project, machine = request.project, request.machine_entry
    document = project.machines_document
    if machine.launcher == "slurm":
        raise PlanError(
            f"machine `{request.machine}` is started by Slurm, which `curriculum run` cannot do",
            place=document.place((request.machine, "launcher")),
            hint="`curriculum plan --machine` shows what it would take; `launcher: torchrun` runs on one machine",
        )
    processes = request.processes or machine.processes
    for stage in compiled.stages:
        if is_reached(stage_folder(project, compiled, stage), stage):
            continue
        try:
            share_of_rank(stage.plan.batch_sequences, processes, machine.micro_batch)
        except PlanError as error:
            stated = [
                key
                for key in ("micro_batch", "processes", "gpus_per_node")
                if (request.machine, key) in document
            ]
            asked = request.processes is not None and stage.plan.batch_sequences % processes
            place = document.place((request.machine, stated[0])) if stated and not asked else None
            raise PlanError(f"stage `{stage.name}`: {error.what}", place=place, hint=error.hint) from None
    return processes


def prepare(request: Run, stop: StopRequested, only: str | None = None) -> corpora.Texts | None:
    """Tokenise whatever the lineage reads and is not yet prepared; None when it was asked to stop."""
    project = request.project
    compiled = compile_curriculum(project, request.curriculum, request.size)
    attempts = project.data / "attempts"
    texts = corpora.Texts(project, compiled)
    if only is not None and only not in {*compiled.sources, *texts.datasets()}:
        raise NotFound(
            f"`{request.curriculum}` reads no source `{only}` at size `{request.size}`",
            hint=did_you_mean(only, {*compiled.sources, *texts.datasets()}),
        )
    corpora.check_installed(texts)
    tokenizer = corpora.tokenizer_request(project, compiled.tokenizer)
    if tokenizer is not None:
        job = jobs.TokenizerJob(attempt_folder=str(_attempt(attempts)), request=tokenizer)
        if not _prepare_one(request, job, f"tokenizer {compiled.tokenizer}", None, stop):
            return None
    for dataset in texts.missing(only):
        asked = texts.request(dataset)
        prepare_job = jobs.PrepareJob(attempt_folder=str(_attempt(attempts)), request=asked)
        if not _prepare_one(request, prepare_job, dataset, Path(asked.progress), stop):
            return None
    return corpora.Texts(project, compiled)  # one that has seen what was just prepared


def stage_folder(project: Project, compiled: Compiled, stage: CompiledStage) -> Path:
    return project.stage_folder(compiled.size_name, stage.setting.curriculum, stage.setting.stage)


def is_reached(folder: Path, stage: CompiledStage) -> bool:
    """Whether the stage's checkpoint at the position where this lineage leaves it is there."""
    return any(c.position == stage.stop for c in checkpoints.found(folder / "checkpoints"))


def checkpoint_at(folder: Path, position: int) -> checkpoints.Checkpoint | None:
    """The checkpoint at exactly `position`, of the newest generation that has one."""
    exact = [c for c in checkpoints.found(folder / "checkpoints") if c.position == position]
    return exact[-1] if exact else None


def check_begun(project: Project, compiled: Compiled, *, accept: bool = False) -> None:
    """Compare every begun stage's stored plan with the files; Drift shows the difference and the way out."""
    for stage in compiled.stages:
        folder = stage_folder(project, compiled, stage)
        path = folder / PLAN
        if not path.exists():
            continue
        stored = StagePlan.load(path)
        if stored.fingerprint == stage.plan.fingerprint:
            continue
        last = checkpoints.latest(folder / "checkpoints")
        if last is None:
            _replace_plan(folder, stored)  # nothing was saved under the old plan: nothing is lost with it
            continue
        if _same_until(stored, stage.plan, min(last.position, stage.stop)) and stage.stop <= last.position:
            continue  # this lineage leaves the stage before the change
        difference = first_difference(stored, stage.plan)
        assert difference is not None
        ahead = _same_until(stored, stage.plan, last.position) and not (folder / DONE).exists()
        if ahead and accept:
            _replace_plan(folder, stored)
            continue
        raise Drift(
            f"`{stage.name}` has begun with another plan: {', '.join(difference.what)} would change from "
            f"step {difference.step:,} on ({difference.position:,} tokens); it is saved up to {last.position:,}",
            place=stage.setting.place("mixture"),
            hint=(
                "the change lies ahead of the last checkpoint: `--accept-change` goes on with it and keeps the old plan"
                if ahead
                else "put the files back, give the curriculum a new name, or branch from a checkpoint before the change"
            ),
        )


def _same_until(stored: StagePlan, new: StagePlan, position: int) -> bool:
    try:
        return stored.history(position) == new.history(position)
    except PlanError:  # one of the two has no step boundary there
        return False


def _replace_plan(folder: Path, stored: StagePlan) -> None:
    number = len(list(folder.glob("plan-*.json")))
    durable.write_bytes(folder / f"plan-{number:03d}.json", (folder / PLAN).read_bytes())
    (folder / PLAN).unlink()


def _train(
    request: Run,
    compiled: Compiled,
    stage: CompiledStage,
    texts: corpora.Texts,
    processes: int,
    stop: StopRequested,
) -> Mapping[str, Any]:
    project = request.project
    folder = stage_folder(project, compiled, stage)
    durable.make_directory(folder)
    if not (folder / PLAN).exists():
        stage.plan.save(folder / PLAN)
    parent = None
    if stage.parent is not None:
        parent_folder = stage_folder(project, compiled, stage.parent)
        parent = checkpoint_at(parent_folder, stage.parent.stop)
        assert parent is not None, "the lineage is walked from its root"
    machine = request.machine_entry
    threads = local.default_threads(machine.model_dump(), processes)

    def launch() -> Launch:
        attempt = _attempt(folder / "attempts")
        job = jobs.TrainJob(
            plan=str(folder / PLAN),
            stage_folder=str(folder),
            attempt_folder=str(attempt),
            data={name: str(texts.folder(source.dataset)) for name, source in stage.plan.sources.items()},
            held_out={
                name: jobs.HeldOut(folder=str(texts.folder(choice.dataset)), windows=texts.held_out_windows)
                for name, choice in compiled.sources.items()
            },
            parent_checkpoint=str(parent.path) if parent else None,
            generation=0,
            checkpoint_every=stage.checkpoint_every,
            evaluate_every=stage.evaluate_every,
            keep=kept_positions(project, stage, compiled.scale),
            machine=_machine(machine, threads),
            stop_at=stage.stop if stage.stop < stage.plan.end else None,
        )
        jobs.save(job, attempt / "job.json")
        process = local.start(
            attempt / "job.json", processes=processes, threads=threads, log=attempt / "rank0.log"
        )
        return Launch(process, attempt)

    def reached() -> int:
        last = checkpoints.latest(folder / "checkpoints")
        return last.position if last else stage.plan.start

    request.listener.begun(stage, folder, reached())
    return supervise(
        launch,
        stop=stop,
        ask_to_stop=local.stop,
        kill=local.kill,
        progress=reached,
        tick=request.listener.tick,
    )


def _machine(entry: schema.MachineEntry, threads: int) -> jobs.Machine:
    return jobs.Machine(
        device=entry.device,
        precision=entry.precision,
        sharding=entry.sharding,
        micro_batch=entry.micro_batch,
        attention=entry.attention,
        compile=entry.compile,
        activation_checkpointing=entry.activation_checkpointing,
        deterministic=entry.deterministic,
        threads=threads,
    )


def _prepare_one(
    request: Run,
    job: jobs.PrepareJob | jobs.TokenizerJob,
    what: str,
    progress: Path | None,
    stop: StopRequested,
) -> bool:
    attempt = Path(job.attempt_folder)
    jobs.save(job, attempt / "job.json")
    request.listener.preparing(what, progress)
    cores = local.default_threads({}, 1)

    def launch() -> Launch:
        process = local.start(attempt / "job.json", processes=1, threads=cores, log=attempt / "rank0.log")
        return Launch(process, attempt)

    outcome = supervise(
        launch,
        stop=stop,
        ask_to_stop=local.stop,
        kill=local.kill,
        progress=lambda: 0,
        tick=request.listener.tick,
    )
    if outcome["outcome"] == jobs.DONE:
        request.listener.prepared(what)
        return True
    return False


def _attempt(folder: Path) -> Path:
    """A fresh numbered attempt folder; two processes never get the same one."""
    durable.make_directory(folder)
    number = max((int(p.name) for p in folder.iterdir() if p.name.isdigit()), default=0) + 1
    while True:
        path = folder / f"{number:04d}"
        try:
            path.mkdir()
        except FileExistsError:
            number += 1
            continue
        durable.sync_directory(folder)
        return path


def outline(request: Run, compiled: Compiled) -> list[str]:
    """What `run` would do now, a line a job, without doing it."""
    lines = []
    processes = processes_for(request, compiled)
    for stage in compiled.stages:
        folder = stage_folder(request.project, compiled, stage)
        if is_reached(folder, stage):
            lines.append(f"{stage.name}: done at {stage.stop:,} tokens")
            continue
        last = checkpoints.latest(folder / "checkpoints")
        begin = last.position if last else stage.plan.start
        command = " ".join(local.command(folder / "attempts" / "NEXT" / "job.json", processes))
        lines.append(f"{stage.name}: {begin:,} -> {stage.stop:,} tokens\n  {command}")
    return lines


def stop(project: Project, name: str, size: str) -> str | None:
    """Ask the process that trains a stage of `name`'s lineage to save and end; which stage, or None."""
    compiled = compile_curriculum(project, name, size)
    for stage in compiled.stages:
        holder = durable.holder_of(stage_folder(project, compiled, stage) / LOCK)
        if holder is not None:
            os.kill(int(holder["pid"]), signal.SIGTERM)
            return stage.name
    return None


def status(project: Project, size: str, name: str | None = None) -> list[dict[str, Any]]:
    """Every stage of the project's curricula (or of one lineage) at a size: planned, how far, running or done."""
    rows: list[dict[str, Any]] = []
    seen: set[str] = set()
    for curriculum in [name] if name else project.names("stages"):
        try:
            compiled, _ = corpora.compile_with_texts(project, curriculum, size)
        except CurriculumError as error:
            if name:
                raise
            rows.append({"stage": curriculum, "state": "refused", "why": error.what})
            continue
        for stage in compiled.stages:
            if stage.name in seen:
                continue
            seen.add(stage.name)
            folder = stage_folder(project, compiled, stage)
            found = checkpoints.found(folder / "checkpoints")
            position = found[-1].position if found else stage.plan.start
            running = durable.holder_of(folder / LOCK) is not None
            done = (folder / DONE).exists()
            rows.append(
                {
                    "stage": stage.name,
                    "from": stage.parent.name if stage.parent else None,
                    "state": "running" if running else "done" if done else "begun" if found else "planned",
                    "starts_at": stage.plan.start,
                    "position": position,
                    "ends_at": stage.plan.end,
                    "checkpoints": [checkpoint.name for checkpoint in found],
                }
            )
    return rows

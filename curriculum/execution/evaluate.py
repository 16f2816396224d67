"""Fills what a comparison lacks: measures kept checkpoints on held-out text that their own run did not measure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from curriculum.analysis.compare import Comparison, Point
from curriculum.artifacts import jobs
from curriculum.artifacts.job_process import StopFlag
from curriculum.artifacts.stage_folder import StageFolder, new_attempt
from curriculum.compiler.compile import Compiled, CompiledStage
from curriculum.compiler.prepared_text import PreparedText
from curriculum.config.project import Project
from curriculum.errors import RunFailed
from curriculum.execution.attempts import run_job
from curriculum.execution.request import RunRequest, job_machine
from curriculum.launchers import process as subprocess_launcher
from curriculum.runs import folders


@dataclass(frozen=True, slots=True)
class Gap:
    """Sources not measured at a point of a lineage; `checkpoint` is None when none was kept there."""

    lineage: int
    stage: CompiledStage
    point: Point
    folder: StageFolder
    checkpoint: Path | None
    sources: tuple[str, ...]

    def __str__(self) -> str:
        return f"{', '.join(self.sources)} at {self.point}"


def gaps(request: RunRequest, comparison: Comparison) -> list[Gap]:
    """What is not measured at the trunk's end and at the variants' ends, each point once."""
    found: dict[Point, Gap] = {}
    for row in comparison.rows:
        if row.ends is None:
            continue
        for number, point in enumerate(row.points):
            if point is None or point in found:
                continue
            lacking = tuple(s for s in comparison.sources if comparison.entry(point, s) is None)
            if not lacking:
                continue
            compiled = comparison.lineages[number]
            stage = next(stage for stage in compiled.stages if stage.name == point.stage)
            folder = folders.stage_folder(request.project, compiled, stage)
            kept = folders.checkpoint_at(folder, point.position)
            found[point] = Gap(number, stage, point, folder, kept.path if kept else None, lacking)
    return list(found.values())


@dataclass(frozen=True, slots=True)
class FillResult:
    """How the filling ended; `left` says, a line each, what stays unmeasured and why."""

    stopped: bool
    left: tuple[str, ...]


def fill(
    request: RunRequest, comparison: Comparison, texts: Sequence[PreparedText], stop: StopFlag
) -> FillResult:
    """Measure every gap that a kept checkpoint and prepared text allow, a process for each checkpoint.

    Safe to stop and to start again: each set is written as soon as it is measured.
    """
    left: list[str] = []
    for gap in gaps(request, comparison):
        if gap.checkpoint is None:
            left.append(f"{gap}: {_no_checkpoint(request.project, comparison.lineages[gap.lineage], gap)}")
            continue
        held_out = {}
        for source in gap.sources:
            folder = _held_out_text(comparison, texts, gap, source)
            if folder is None:
                lacking = replace(gap, sources=(source,))
                left.append(f"{lacking}: no held-out text is prepared for its tokenizer and sequence length")
                continue
            held_out[source] = jobs.HeldOut(
                folder=str(folder), windows=texts[comparison.against].held_out_windows
            )
        if not held_out:
            continue
        machine = request.machine_entry
        job = jobs.EvaluateJob(
            plan=str(gap.folder.plan),
            stage_folder=str(gap.folder),
            attempt_folder=str(new_attempt(gap.folder.attempts)),
            checkpoint=str(gap.checkpoint),
            held_out=held_out,
            machine=job_machine(machine, subprocess_launcher.default_threads(machine.model_dump(), 1)),
        )
        try:
            done = run_job(request, job, f"the held-out loss of {gap}", None, stop)
        except RunFailed as error:
            left.append(f"{gap}: {error.what}")
            continue
        if not done:
            return FillResult(True, tuple(left))
    return FillResult(False, tuple(left))


def _no_checkpoint(project: Project, compiled: Compiled, gap: Gap) -> str:
    if not gap.folder.plan.exists():
        return f"not trained yet; `curriculum run {compiled.curriculum}{project.options(compiled.size_name)}` does it"
    if not gap.folder.done.exists():
        return f"not reached; `curriculum run {compiled.curriculum}{project.options(compiled.size_name)}` resumes it"
    return "no checkpoint is kept there"


def _held_out_text(
    comparison: Comparison, texts: Sequence[PreparedText], gap: Gap, source: str
) -> Path | None:
    """The folder of the prepared text that some variant reads as `source`, if this point's model can read it."""
    wanted = gap.stage.plan
    for compiled, text in zip(comparison.lineages, texts, strict=True):
        choice = compiled.sources.get(source)
        if choice is None or text.manifest(choice.dataset) is None:
            continue
        plan = compiled.stages[-1].plan
        if (plan.tokenizer, plan.sequence_length) == (wanted.tokenizer, wanted.sequence_length):
            return text.folder(choice.dataset)
    return None

"""Measures the held-out losses that a comparison lacks, at kept checkpoints whose own run did not measure them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from curriculum.analysis.compare import Comparison, missing_losses
from curriculum.artifacts import jobs
from curriculum.artifacts.job_process import StopFlag
from curriculum.artifacts.stage_folder import new_attempt
from curriculum.compiler.prepared_text import PreparedText
from curriculum.config.project import Project
from curriculum.errors import CheckpointError, DataError
from curriculum.execution import trainers
from curriculum.execution.attempts import run_job
from curriculum.execution.fill import FillResult, fill_gaps
from curriculum.execution.machine import job_machine
from curriculum.execution.request import RunRequest
from curriculum.launchers.process import default_threads
from curriculum.runs.folders import stage_folder
from curriculum.runs.measurements import Gap


def fill(request: RunRequest, comparison: Comparison, texts: Sequence[PreparedText], stop: StopFlag) -> FillResult:
    """Measure every gap that a kept checkpoint and prepared text allow, a process for each checkpoint.

    Safe to stop and to start again: each set is written as soon as it is measured.
    """

    def measure(gap: Gap) -> bool:
        if gap.checkpoint is None:
            raise CheckpointError(_no_checkpoint(request.project, gap))
        folders = [_held_out_text(comparison, texts, gap, source) for source in gap.names]
        held_out = {
            source: jobs.HeldOut(folder=str(folder), windows=gap.stage.held_out_windows)
            for source, folder in zip(gap.names, folders, strict=True)
            if folder is not None
        }
        if not held_out:
            raise DataError("no held-out text is prepared for its tokenizer and sequence length")
        machine = request.machine_entry
        trainer = trainers.evaluator(request, gap.checkpoint)
        folder = stage_folder(request.project, gap.compiled, gap.stage)
        job = jobs.EvaluateJob(
            plan=str(folder.plan),
            stage_folder=str(folder),
            attempt_folder=str(new_attempt(folder.attempts)),
            checkpoint=str(gap.checkpoint.path),
            held_out=held_out,
            machine=job_machine(machine, default_threads(machine.threads, 1)),
            trainer=trainer,
        )
        if trainer is not None:
            step = gap.stage.plan.step_at(gap.position)
            checkpoint = jobs.Resume(origin="own", folder=job.checkpoint, step=step, optimizer=False)
            text = texts[comparison.lineages.index(gap.compiled)]
            data = {name: str(text.folder(source.dataset)) for name, source in gap.stage.plan.sources.items()}
            job = replace(job, resume=checkpoint, generation=gap.checkpoint.generation, data=data)
        return run_job(request, job, f"the held-out loss of {gap}", stop)

    gaps = missing_losses(request.project, comparison)
    return fill_gaps((part for gap in gaps for part in _by_text(comparison, texts, gap)), measure)


def _by_text(comparison: Comparison, texts: Sequence[PreparedText], gap: Gap) -> Iterator[Gap]:
    """A gap as those of its sources without prepared text, each alone, and the others together."""
    if gap.checkpoint is None:
        yield gap
        return
    prepared = tuple(s for s in gap.names if _held_out_text(comparison, texts, gap, s) is not None)
    yield from (replace(gap, names=(source,)) for source in gap.names if source not in prepared)
    if prepared:
        yield replace(gap, names=prepared)


def _no_checkpoint(project: Project, gap: Gap) -> str:
    folder = stage_folder(project, gap.compiled, gap.stage)
    command = f"`curriculum run {gap.compiled.curriculum}{project.options(gap.compiled.size_name)}`"
    if not folder.plan.exists():
        return f"not trained yet; {command} does it"
    if not folder.done.exists():
        return f"not reached; {command} resumes it"
    return "no checkpoint is kept there"


def _held_out_text(comparison: Comparison, texts: Sequence[PreparedText], gap: Gap, source: str) -> Path | None:
    """The folder of the prepared text that some variant reads as `source`, if this point's model can read it."""
    required = gap.stage.plan
    for compiled, text in zip(comparison.lineages, texts, strict=True):
        choice = compiled.sources.get(source)
        if choice is None or text.manifest(choice.dataset) is None:
            continue
        plan = compiled.stages[-1].plan
        if (plan.tokenizer, plan.sequence_length) == (required.tokenizer, required.sequence_length):
            return text.folder(choice.dataset)
    return None

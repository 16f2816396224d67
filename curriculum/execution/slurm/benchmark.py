"""Tasks of a cadence on Slurm: behind each stage that asks for some, a small job that measures what waits.

It takes one process of one node, so that nothing as large as a training waits for it, and runs beside the stages
that follow. `python -m curriculum.execution.slurm.benchmark FOLDER` is that job: what is measured is never measured
again, so it may be taken away, queued again or submitted anew at any time.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from curriculum import fs
from curriculum.artifacts import jobs
from curriculum.artifacts.job_process import stop_on_signals
from curriculum.artifacts.stage_folder import Attempt, StageFolder, new_attempt, next_attempt
from curriculum.compiler import prepared_text
from curriculum.compiler.compile import Compiled, CompiledStage
from curriculum.config.project import Project
from curriculum.errors import CurriculumError, PlanError, RunFailed
from curriculum.execution import benchmark, lm_eval
from curriculum.execution.request import RunRequest
from curriculum.execution.slurm.batch import NOT_DONE, queue_again, write_outcome
from curriculum.execution.slurm.train import SubmittedStage, placed
from curriculum.launchers import slurm, slurm_record
from curriculum.runs.folders import stage_folder
from curriculum.runs.measurements import due_benchmarks

ASKED = "asked.json"


def submit(
    request: RunRequest, compiled: Compiled, handed: tuple[SubmittedStage, ...]
) -> tuple[tuple[SubmittedStage, ...], list[str]]:
    """Queue the measuring of every stage that asks for tasks, behind its training (`handed`) where that is queued.

    All such jobs that wait or run, and a line for what cannot be measured here.
    """
    training = {each.stage: each for each in handed}
    asking = [stage for stage in compiled.stages if _waits(request, compiled, stage, training)]
    if asking and not lm_eval.installed():
        stages = ", ".join(stage.name for stage in asking)
        return (), [f"the tasks of {stages}: {lm_eval.NOT_INSTALLED}"]
    return tuple(_submit_stage(request, compiled, stage, training.get(stage.name)) for stage in asking), []


def _waits(
    request: RunRequest,
    compiled: Compiled,
    stage: CompiledStage,
    training: dict[str, SubmittedStage] | set[str],
) -> bool:
    """Whether the stage asks for tasks that are not all measured."""
    if not stage.task_every:
        return False
    return stage.name in training or bool(due_benchmarks(request.project, compiled, stage.name))


def _submit_stage(
    request: RunRequest, compiled: Compiled, stage: CompiledStage, training: SubmittedStage | None
) -> SubmittedStage:
    folder = stage_folder(request.project, compiled, stage).measuring
    fs.make_directory(folder)
    name = label(stage.name)
    with fs.Lock(folder / "submit.lock", f"handing {name} to Slurm"):
        found = slurm_record.status_of(folder)
        if found is not None and found.live:
            if found.state != slurm_record.QUEUED or training is None or not training.fresh:
                return SubmittedStage(name, found.submitted.job, found.words, fresh=False)
            slurm.cancel(found.submitted.job)  # it waits for a training that was submitted anew
        place = new_attempt(folder / slurm_record.FOLDER).path
        after = (training.job,) if training else ()
        fs.write_json(place / ASKED, _asked(request, stage))
        fs.write_bytes(place / "submit.sh", _script(request, stage, place, after))
        try:
            number = slurm.submit(place / "submit.sh")
        except PlanError as error:
            raise placed(error, request) from None
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        relative = f"{slurm_record.FOLDER}/{place.name}"
        slurm_record.write(
            folder, slurm_record.Submission(job=number, machine=request.machine, since=since, folder=relative)
        )
    waits = f", after job {after[0]}" if after else ""
    return SubmittedStage(name, number, f"Slurm job {number}{waits}", fresh=True)


def label(stage: str) -> str:
    return f"{stage}, its tasks"


def _asked(request: RunRequest, stage: CompiledStage) -> dict[str, str]:
    return {
        "project": str(request.project.root),
        "curriculum": request.curriculum,
        "size": request.size,
        "machine": request.machine,
        "stage": stage.name,
    }


def _script(request: RunRequest, stage: CompiledStage, place: Path, after: tuple[str, ...]) -> bytes:
    entry = request.machine_entry
    batch = slurm.BatchJob(
        name=f"curriculum:{stage.name}:tasks",
        command=(sys.executable, "-m", "curriculum.execution.slurm.benchmark", str(place)),
        log=place / "%j.log",
        gpus_per_node=min(1, entry.gpus_per_node),
        threads=entry.threads,
        after=after,
    )
    return slurm.script(batch, entry).encode()


def outline(request: RunRequest, compiled: Compiled, trained: set[str]) -> Iterator[str]:
    """What `submit` would write and say behind the stages that are not in `trained`, without doing it."""
    for stage in compiled.stages:
        ahead = {stage.name} - trained
        if not _waits(request, compiled, stage, ahead):
            continue
        folder = stage_folder(request.project, compiled, stage)
        name = label(stage.name)
        found = slurm_record.status_of(folder.measuring)
        if found is not None and found.live:
            yield f"{name}: {found.words}"
            continue
        if not lm_eval.installed():
            yield f"{name}: not measured: {lm_eval.NOT_INSTALLED}"
            continue
        place = next_attempt(folder.measuring / slurm_record.FOLDER).path
        before = slurm_record.status_of(folder.path) if ahead else None
        running = before.submitted.job if before is not None and before.live else f"JOB-OF-{stage.name}"
        yield f"{name}: as one batch job of one process"
        yield f"  writes {place / ASKED}\n  writes {place / 'submit.sh'}:"
        text = _script(request, stage, place, (running,) if ahead else ()).decode()
        yield "\n".join(f"    {line}" for line in text.splitlines())
        yield f"  sbatch --parsable {place / 'submit.sh'}"


class _Log:
    """A listener whose words are lines of the job's log."""

    def preparing(self, what: str, progress: Path | None) -> None:
        print(f"started: {what}", flush=True)

    def prepared(self, what: str) -> None:
        print(f"done: {what}", flush=True)

    def compiled(self, compiled: Compiled) -> None: ...
    def skipped(self, stage: CompiledStage) -> None: ...
    def begun(self, stage: CompiledStage, folder: StageFolder, resumed_at: int) -> None: ...
    def tick(self) -> None: ...
    def noted(self, line: str) -> None: ...
    def ended(self, stage: CompiledStage, outcome: Mapping[str, Any]) -> None: ...


def main() -> int:
    """The exit code: 0 all is measured, 3 taken away before the end, 1 or 2 something is left."""
    place = Path(sys.argv[1])
    asked: dict[str, Any] = json.loads((place / ASKED).read_bytes())
    stage = asked["stage"]
    try:
        request = RunRequest(
            project=Project(Path(asked["project"])),
            curriculum=asked["curriculum"],
            size=asked["size"],
            machine=asked["machine"],
            listener=_Log(),
        )
        compiled, _ = prepared_text.compile_with_texts(request.project, request.curriculum, request.size)
        with stop_on_signals() as stop:
            ended = benchmark.catch_up(request, compiled, stop, only=stage)
    except CurriculumError as error:
        print(error.render(), file=sys.stderr, flush=True)
        kind = jobs.FAILED if isinstance(error, RunFailed) else jobs.REFUSED
        write_outcome(Attempt(place), {"outcome": kind, "message": error.what, "hint": error.hint})
        return error.exit_code
    if ended.stopped:
        submitted = slurm_record.read(place.parent.parent)
        if submitted is not None and submitted.stopping:
            write_outcome(Attempt(place), {"outcome": jobs.STOPPED})
        else:
            queue_again(os.environ["SLURM_JOB_ID"])
        return NOT_DONE
    for line in ended.unmeasured:
        print(f"not measured: {line}", flush=True)
    if ended.unmeasured:
        write_outcome(Attempt(place), {"outcome": jobs.FAILED, "message": "; ".join(ended.unmeasured)})
        return 1
    write_outcome(Attempt(place), {"outcome": jobs.DONE})
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""A study on the machine: its arms are trained, stopped and verified as lineages of the pool."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from curriculum.artifacts import jobs
from curriculum.artifacts.job_process import stop_on_signals
from curriculum.artifacts.metrics import read_metrics
from curriculum.artifacts.stage_folder import Attempt
from curriculum.config.project import Project
from curriculum.errors import CurriculumError, RunFailed
from curriculum.execution import pool, stop
from curriculum.execution.prepare import prepare
from curriculum.execution.request import RunRequest
from curriculum.execution.run import checked
from curriculum.execution.slurm.study import StudySubmission, folder_of, request_of
from curriculum.execution.slurm.submission import QueuedJob
from curriculum.launchers import slurm_record
from curriculum.runs.folders import stage_folder
from curriculum.runs.verify import Findings, verify
from curriculum.studies import design
from curriculum.studies.arm_evidence import measure
from curriculum.studies.arms import CompiledStudy, compile_study, fix_design
from curriculum.studies.halving import drop_arms, measure_forks
from curriculum.studies.propose import propose
from curriculum.studies.verify import check_record, newest_record
from curriculum.units import counted


def arm_requests(request: RunRequest, study: CompiledStudy) -> list[RunRequest]:
    """The request of a study as one for each arm that is to be trained now: first the forks that may drop arms."""
    return [
        replace(request, project=arm.project, curriculum=arm.study, arm=arm.address, size=study.study.size)
        for arm in (study.forks if study.awaits_forks else study.arms)
    ]


def run_study(request: RunRequest, study: CompiledStudy) -> Sequence[pool.LineageResult]:
    """Bring every arm to its end, then the runs of what the law proposes; what is done stays, also without weights."""
    settled = _settled(request, study)
    if settled is None:
        return pool.not_started(arm_requests(request, study))
    study = settled
    while True:
        results = pool.run_many(arm_requests(request, study))
        following = None if any(result.state != pool.DONE for result in results) else next_runs(study)
        if following is None:
            return results
        request.listener.note(f"{study.name}: {_follows(following)}")
        study = following


def next_runs(study: CompiledStudy) -> CompiledStudy | None:
    """The study with the runs that follow those that ended: of the arms that no fork drops, else of a proposal.

    None where nothing follows. What is decided here is fixed.
    """
    following = drop_arms(study) if study.awaits_forks else propose(study)
    return None if following is study else following


def _follows(study: CompiledStudy) -> str:
    """What `next_runs` decided, in words."""
    if (drops := study.drops) is not None:
        shown = ", ".join(drops.dropped) or "none"
        on = f"{counted(len(study.arms), 'run')} {'goes' if len(study.arms) == 1 else 'go'} on"
        return f"worse than the best by more than the noise, and dropped: {shown}; {on}"
    runs = study.of_role("proposal")
    shares = ", ".join(f"{float(100 * share):.4g}% {name}" for name, share in runs[0].point.mixture.shares.items())
    return f"the law proposes {shares}; its {counted(len(runs), 'run')} follow{'s' * (len(runs) == 1)}"


def _settled(request: RunRequest, study: CompiledStudy) -> CompiledStudy | None:
    """The study with the mixtures that it keeps, which are drafted from prepared text; None when it was stopped."""
    if not design.is_kept(study.study):
        first = arm_requests(request, study)[0]
        with stop_on_signals() as stop:
            if prepare(first, checked(first), stop) is None:
                return None
        study = compile_study(study.study.project, study.name, study.study.size)
        fix_design(study)
    return study


def submit_study(request: RunRequest, study: CompiledStudy) -> tuple[list[QueuedJob], list[str]] | None:
    """Submit the arms to Slurm, and behind them a job that submits what follows; see `pool.submit_many`.

    Where all arms have ended, what follows is submitted now.
    """
    fix_design(study)
    submitted = pool.submit_many(arm_requests(request, study))
    if submitted is None:
        return None
    queued, lines = submitted
    if not queued and (following := next_runs(study)) is not None:
        return submit_study(request, following)
    if queued and _is_followed(study):
        arms = dict.fromkeys(job.job.partition("_")[0] for job in queued)
        queued.append(StudySubmission(request=request, study=study.name, arms=tuple(arms)).submit())
    return queued, lines


def _is_followed(study: CompiledStudy) -> bool:
    return study.awaits_forks or (study.has_proposal and not study.of_role("proposal"))


def submit_next(submission: Attempt) -> dict[str, Any]:
    """The work of the job behind the arms: submit what follows them; its outcome. RunFailed while an arm is missing."""
    request, name = request_of(submission)
    study = compile_study(request.project, name, request.size)
    measured = measure_forks(study) if study.awaits_forks else measure(study)
    missing = [*measured.missing, *(aside.arm for aside in measured.set_aside)]
    if missing:
        options = request.project.options(request.size)
        raise RunFailed(
            f"{len(missing)} arm{'s' * (len(missing) > 1)} of `{name}` did not end, as `{missing[0]}`: nothing follows",
            hint=f"`curriculum status {name}{options}` shows them; the command that submitted them resumes",
        )
    if (following := next_runs(study)) is None:
        return {"outcome": jobs.DONE, "message": "nothing follows"}
    print(f"{name}: {_follows(following)}", flush=True)
    submitted = pool.submit_many(arm_requests(request, following))
    queued = submitted[0] if submitted is not None else []
    for job in queued:
        print(job, flush=True)
    return {"outcome": jobs.DONE, "message": f"submitted {counted(len(queued), 'run')}"}


def outline(request: RunRequest, study: CompiledStudy) -> Iterator[str]:
    """What `run_study` or `submit_study` would do now, as lines."""
    yield from pool.outline(arm_requests(request, study))
    if request.machine_entry.launcher == "slurm" and _is_followed(study):
        behind = StudySubmission(request=request, study=study.name, arms=("JOBS-OF-ARMS",))
        yield from behind.outline("submits what follows, once the arms have ended")


def following_job(study: CompiledStudy) -> str | None:
    """What the queue says of the job behind the arms; None where there is none, or where it has done its work."""
    project, name, size = study.study.project, study.name, study.study.size
    status = slurm_record.status_of(folder_of(project, name, size))
    return None if status is None else status.message


def stop_study(study: CompiledStudy) -> list[str]:
    """Ask whatever trains an arm, or what the arms share, to save and end; a line for each."""
    behind = slurm_record.stop(folder_of(study.study.project, study.name, study.study.size))
    lines = stop.stop_many([(arm.project, arm.compiled) for arm in (*study.forks, *study.arms)])
    return [*([f"what follows in {study.name}: {behind}"] if behind is not None else []), *lines]


def verify_study(project: Project, name: str, size: str) -> Findings:
    """Check every file of every arm, what they share once, and compute the newest decision again."""
    findings = Findings()
    checked: set[str] = set()
    trained = project.study(name)[0].subject not in ("arms", "table")  # those of others are no arms of this study
    study = compile_study(project, name, size) if trained else None
    for arm in (*study.forks, *study.arms) if study is not None else ():
        findings.add(verify(arm.project, arm.compiled, arm.texts, skip=checked))
        checked |= {stage.name for stage in arm.compiled.stages}
    try:
        newest = newest_record(project, name, size)
    except CurriculumError as error:
        findings.wrong.append(error)
    else:
        if newest is not None:
            findings.check(f"decision {newest.address}", partial(check_record, project, name, size, newest))
    return findings


def training_seconds(study: CompiledStudy) -> tuple[float, float]:
    """The seconds of all steps of training: of stages that all arms share, and of the others, also of dropped arms.

    The first are trained alone, the others by all workers at once.
    """
    own = study.study.project.runs / study.study.size / study.name
    arms = Counter(
        stage_folder(arm.project, arm.compiled, stage).metrics for arm in study.arms for stage in arm.compiled.stages
    )
    shared = {path for path, count in arms.items() if count == len(study.arms)}
    single = {*arms, *own.glob("*/metrics.jsonl")} - shared

    def seconds(paths: set[Path]) -> float:
        return float(sum(line["seconds"] for path in paths for line in read_metrics(path)))

    return seconds(shared), seconds(single)

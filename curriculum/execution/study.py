"""A study on the machine: its arms are trained, stopped and verified as lineages of the pool."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from curriculum.artifacts.job_process import stop_on_signals
from curriculum.config.project import Project
from curriculum.errors import CurriculumError
from curriculum.execution import pool, stop
from curriculum.execution.prepare import prepare
from curriculum.execution.request import RunRequest
from curriculum.execution.run import checked
from curriculum.execution.slurm.submission import QueuedJob
from curriculum.runs.verify import Findings, verify
from curriculum.studies import design
from curriculum.studies.arms import CompiledStudy, compile_study, fix_design
from curriculum.studies.propose import propose
from curriculum.studies.verify import check_record, newest_record


def arm_requests(request: RunRequest, study: CompiledStudy) -> list[RunRequest]:
    """The request of a study as one for each arm."""
    return [
        replace(request, project=arm.project, curriculum=arm.study, arm=arm.address, size=study.study.size)
        for arm in study.arms
    ]


def run_study(request: RunRequest, study: CompiledStudy) -> Sequence[pool.LineageResult]:
    """Bring every arm to its end, then the runs of what the law proposes; what is done stays, also without weights."""
    settled = _settled(request, study)
    if settled is None:
        return pool.not_started(arm_requests(request, study))
    study = settled
    results = pool.run_many(arm_requests(request, study))
    if any(result.state != pool.DONE for result in results):
        return results
    proposed = propose(study)
    if proposed is study:
        return results
    runs = proposed.of_role("proposal")
    shares = ", ".join(f"{float(100 * share):.4g}% {name}" for name, share in runs[0].point.mixture.shares.items())
    request.listener.note(f"{study.name}: the law proposes {shares}; its {len(runs)} runs follow")
    return pool.run_many(arm_requests(request, proposed))


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
    """Submit the arms to Slurm, and once they ended the runs of what the law proposes; see `pool.submit_many`."""
    fix_design(study)
    submitted = pool.submit_many(arm_requests(request, study))
    proposed = propose(study) if submitted == ([], []) else study
    return submitted if proposed is study else pool.submit_many(arm_requests(request, proposed))


def stop_study(study: CompiledStudy) -> list[str]:
    """Ask whatever trains an arm, or what the arms share, to save and end; a line for each."""
    return stop.stop_many([(arm.project, arm.compiled) for arm in study.arms])


def verify_study(project: Project, name: str, size: str) -> Findings:
    """Check every file of every arm, what they share once, and compute the newest decision again."""
    found = Findings()
    checked: set[str] = set()
    trained = project.study(name)[0].subject not in ("arms", "table")  # those of others are no arms of this study
    for arm in compile_study(project, name, size).arms if trained else ():
        of_arm = verify(arm.project, arm.compiled, arm.texts, skip=checked)
        found.checked.extend(of_arm.checked)
        found.absent.extend(of_arm.absent)
        found.wrong.extend(of_arm.wrong)
        checked |= {stage.name for stage in arm.compiled.stages}
    try:
        newest = newest_record(project, name, size)
    except CurriculumError as error:
        found.wrong.append(error)
    else:
        if newest is not None:
            found.check(f"decision {newest.address}", partial(check_record, project, name, size, newest))
    return found

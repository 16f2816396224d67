"""How far the arms of a study are: a row for each, read from its run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from curriculum.artifacts import checkpoints
from curriculum.artifacts.evaluations import read_evaluations
from curriculum.artifacts.metrics import last_record
from curriculum.errors import CurriculumError
from curriculum.runs.drift import find_drift
from curriculum.runs.folders import stage_folder
from curriculum.runs.status import DONE, PLANNED, RUNNING, STARTED, state_of
from curriculum.studies.arm import Arm
from curriculum.studies.arms import CompiledStudy
from curriculum.units import counted

FORMAT: Final = 1
"""Of the JSON object of `status STUDY`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmStatus:
    """An arm, and the stages before it that are trained for the study alone; positions in tokens at this size.

    `losses` are the held-out losses (nats a token) at its end, by source; empty before. `job` is of Slurm.
    """

    address: str
    role: str
    replicate: int
    trunk: int
    state: str
    starts_at: int
    position: int
    ends_at: int
    losses: Mapping[str, float]
    job: str | None = None

    @property
    def share(self) -> float:
        return (self.position - self.starts_at) / max(1, self.ends_at - self.starts_at)


def arm_statuses(study: CompiledStudy) -> tuple[ArmStatus, ...]:
    """Every arm of a study, in its order; before that the forks by which arms may be dropped."""
    return tuple(map(_status, (*study.forks, *study.arms)))


def _status(arm: Arm) -> ArmStatus:
    stage = arm.stage
    for own in reversed(arm.own_stages):  # the last that has started
        folder = stage_folder(arm.project, arm.compiled, own)
        state, job = state_of(folder)
        if state != PLANNED:
            break
    if own is not stage and state == DONE:
        state = STARTED
    kept = checkpoints.latest(folder)
    position = stage.stop if state == DONE else kept.position if kept else own.plan.start
    if state == RUNNING and (record := last_record(folder.metrics)) is not None:
        position = max(position, record["position"])
    ended = read_evaluations(stage_folder(arm.project, arm.compiled, stage)).get(stage.stop, {})
    return ArmStatus(
        address=arm.address,
        role=arm.role,
        replicate=arm.replicate,
        trunk=arm.seed,
        state=state,
        starts_at=arm.start,
        position=position,
        ends_at=stage.stop,
        losses={name: entry["loss"] for name, entry in ended.items()},
        job=job.message if job else None,
    )


def changed_arms(study: CompiledStudy) -> list[str]:
    """The addresses of arms of which a stage was trained with another plan than the files describe now."""
    return [arm.address for arm in study.arms if _is_changed(arm)]


def _is_changed(arm: Arm) -> bool:
    try:
        return next(find_drift(arm.project, arm.compiled), None) is not None
    except CurriculumError:  # a plan that cannot be read is that of no arm, as the decision says
        return True


def changed_line(study: str, changed: Sequence[str], arms: int, options: str) -> str:
    """What a person reads of `changed`, of so many arms."""
    names = [address.partition("/")[2] for address in changed[:6]]
    more = f" and {len(changed) - 6} more" if len(changed) > 6 else ""
    return (
        f"{len(changed)} of {counted(arms, 'run')} {'was' if len(changed) == 1 else 'were'} trained with another plan "
        f"than the files describe now, and no decision counts them: {', '.join(names)}{more}; "
        f"put the files back, or `curriculum run {study}{options} --accept-change` trains them again"
    )

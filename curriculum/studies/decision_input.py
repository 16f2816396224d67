"""A study as a decision takes it: its question, its evidence, and what both were read from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from curriculum.config.project import Project
from curriculum.errors import PlanError
from curriculum.studies import proposal, table_question
from curriculum.studies.arm_evidence import ArmEvidence, measure, read_digests
from curriculum.studies.arms import CompiledStudy, compile_study
from curriculum.studies.decision import Decision, Question
from curriculum.studies.evidence import Evidence
from curriculum.studies.forecast import question_of_schedules
from curriculum.studies.halving import lines as dropping_lines, measure_forks
from curriculum.studies.question import question_of
from curriculum.units import counted


@dataclass(frozen=True, kw_only=True)
class DecisionInput:
    """`earlier` is the evidence at positions before the arms' end, `files` the digests of what was read, by name.

    `remarks` are on runs that do not count, `notes` what else is said with a decision. `compiled` and `measured` are
    None where no arm is trained for the study.
    """

    question: Question
    evidence: Evidence
    earlier: tuple[tuple[int, Evidence], ...] = ()
    files: Mapping[str, str]
    compiled: CompiledStudy | None = field(default=None, repr=False)
    measured: ArmEvidence | None = field(default=None, repr=False)
    remarks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def incomplete(self) -> list[str]:
        """A line for the arms that are missing, and one for each that is set aside."""
        if self.measured is None or self.compiled is None:
            return list(self.remarks)
        lines = list(self.remarks)
        if missing := self.measured.missing:
            lines.append(
                f"{len(missing)} of {len(self.compiled.arms)} arms have not ended: {named(missing)}; until then every "
                "verdict is `suggested` at most"
            )
        lines += [f"{entry.arm} is set aside: {entry.reason}" for entry in self.measured.set_aside]
        return lines

    def so_far(self, decision: Decision) -> Decision:
        """The decision as far as the arms that ended allow: while some are missing, nothing is shown."""
        decision = replace(decision, notes=(*self.notes, *decision.notes))
        lines = self.incomplete
        if not lines:
            return decision
        verdicts = tuple(
            replace(verdict, word="suggested") if verdict.word == "shown" else verdict for verdict in decision.verdicts
        )
        return replace(decision, verdicts=verdicts, notes=(*lines, *decision.notes))


def named(addresses: Sequence[str], most: int = 6) -> str:
    """The first of these addresses, and how many more there are."""
    return ", ".join(addresses[:most]) + (f" and {len(addresses) - most} more" if len(addresses) > most else "")


def read_input(project: Project, name: str, size: str) -> DecisionInput:
    """The question of study `name` and its evidence; PlanError where nothing was measured yet."""
    file, document = project.study(name)
    if file.table is not None:
        question, runs = table_question.of_study(project, name, file, document)
        return DecisionInput(
            question=question, evidence=runs.evidence, files=table_question.digests(runs.files, project.root)
        )
    if file.subject == "arms":
        schedules, evidence, files, remarks = question_of_schedules(project, name, size, file, document)
        return DecisionInput(question=schedules, evidence=evidence, files=files, remarks=remarks)
    compiled = compile_study(project, name, size)
    measured = measure(compiled)
    if compiled.awaits_forks and (forks := measure_forks(compiled)).missing:
        raise PlanError(
            f"{len(forks.missing)} of {len(compiled.forks)} arms of study `{name}` have no first end yet, as "
            f"{forks.missing[0]}",
            place=document.place(("drop",)),
            hint=f"`curriculum run {name}{project.options(size)}` trains them, drops some and continues the others",
        )
    if not measured.plans:
        aside = f"; {measured.set_aside[0].arm}: {measured.set_aside[0].reason}" if measured.set_aside else ""
        raise PlanError(
            f"no arm of study `{name}` has ended at size {size}{aside}",
            place=document.place((file.subject,)),
            hint=f"`curriculum run {name}{project.options(size)}` trains its {counted(len(compiled.arms), 'arm')}",
        )
    return DecisionInput(
        question=question_of(compiled),
        evidence=measured.evidence,
        earlier=measured.earlier,
        files=read_digests(compiled, measured),
        compiled=compiled,
        measured=measured,
        notes=(*_replaced_proposal(compiled), *dropping_lines(compiled, measured.evidence)),
    )


def _replaced_proposal(compiled: CompiledStudy) -> tuple[str, ...]:
    """A line where a proposal was fixed and rests on other arms than the study has now, so that its runs count no more.

    It names these arms.
    """
    if not compiled.has_proposal or compiled.of_role("proposal"):
        return ()
    study = compiled.study
    others = proposal.other_arms(study.project, study.name, study.size, compiled.plans)
    if not others:
        return ()
    return (
        f"the proposal that was fixed does not apply, and its runs do not count: it rests on other arms than those of "
        f"now, {named(others)}",
    )

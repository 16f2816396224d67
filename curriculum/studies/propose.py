"""The step from the arms of a study to the runs of its proposal: the mixture is fixed once all arms ended."""

from __future__ import annotations

from curriculum.studies import proposal
from curriculum.studies.arm_evidence import ArmEvidence, measure
from curriculum.studies.arms import CompiledStudy, compile_study
from curriculum.studies.decide import decide
from curriculum.studies.decision import Decision, Undecidable
from curriculum.studies.question import question_of


def propose(study: CompiledStudy) -> CompiledStudy:
    """The study with the runs of its proposal, which is fixed now; the same study where none follows.

    None follows while an arm is missing, where the evidence does not suffice, and where an arm has what is proposed.
    """
    if not study.has_proposal or study.of_role("proposal"):
        return study
    measured = measure(study)
    if not measured.complete:
        return study
    try:
        decision = decide(question_of(study), measured.evidence, measured.earlier)
    except Undecidable:
        return study
    if not fix_proposal(study, measured, decision):
        return study
    return compile_study(study.study.project, study.name, study.study.size)


def fix_proposal(study: CompiledStudy, measured: ArmEvidence, decision: Decision) -> bool:
    """Fix the mixture that a decision proposes, once all other arms have ended; whether it has runs to come."""
    if not study.has_proposal or study.of_role("proposal") or not measured.complete:
        return False
    proposed = decision.proposal
    if proposed is None or proposed.arm is not None or not proposed.shares:
        return False
    opened = study.study
    # of the plans that trained the arms: those of the files are others while text is missing
    plans = {address: measured.plans[address] for address in study.plans}
    proposal.write(opened.project, opened.name, opened.size, proposed.shares, plans, least=study.limits.least)
    return True

"""From evidence to a decision: which module answers which kind of question."""

from __future__ import annotations

from collections.abc import Sequence

from curriculum.studies import decide_candidates, decide_mixture, decide_schedules, decide_share
from curriculum.studies.decision import Decision, Question, Undecidable
from curriculum.studies.evidence import Evidence


def decide(question: Question, evidence: Evidence, earlier: Sequence[tuple[int, Evidence]] = ()) -> Decision:
    """The decision, a pure function of its arguments.

    `earlier` is the evidence of the same arms at earlier positions (tokens) of their training, in order. Raises
    Undecidable with too little evidence, or where nothing satisfies the limits.
    """
    if question.kind == "schedules":
        return decide_schedules.decide(question, evidence)
    for source in (*question.lower, *question.keep):
        if source not in evidence.sources:
            raise Undecidable(
                f"`{source}` was measured in no run", f"there are losses of: {', '.join(evidence.sources) or 'none'}"
            )
    if question.kind == "mixture":
        return decide_mixture.decide(question, evidence)
    if question.kind == "share":
        return decide_share.decide(question, evidence, earlier)
    return decide_candidates.decide(question, evidence)

"""The newest decision of a study against what is on disk: its evidence is read back, its answer computed again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from curriculum.config.project import Project
from curriculum.errors import DataError
from curriculum.studies import record
from curriculum.studies.decide import decide
from curriculum.studies.decision import Undecidable
from curriculum.studies.decision_input import read_input
from curriculum.studies.record import Record


def newest_record(project: Project, study: str, size: str) -> Record | None:
    """The newest record of a study; None before the first. DataError for one that was changed."""
    return record.newest(project.runs / size / study)


def check_record(project: Project, study: str, size: str, kept: Record) -> str:
    """Compute the decision of a record again; a few words on it.

    What came after it is no fault: more runs, an edited question, text that was prepared again. DataError where the
    same evidence gives another answer, and where a loss that it rests on is no longer the one on disk.
    """
    inputs = read_input(project, study, size)
    try:
        decision = inputs.so_far(decide(inputs.question, inputs.evidence, inputs.earlier))
    except Undecidable as error:
        raise _refused(kept, f"cannot be computed again: {error.what}") from None
    text = "\n".join(project.study(study)[1].lines)
    again = record.content(study, text, inputs.question, inputs.evidence, decision, inputs.files)
    differing = record.differences(kept, again)
    if not differing:
        return "computed again, the same"
    then, now = kept.content["evidence"], record.plain(again["evidence"])
    if (moved := _moved(then["arms"], now["arms"])) is not None:
        raise _refused(kept, f"rests on a loss of `{moved}` that is another one on disk")
    if "text" in differing:
        return "of the question as it was; the study's file was edited since"
    if "question" in differing:
        return "of the question as it was; what it says of the study's stage or text is another today"
    if then["digest"] != now["digest"]:
        return "of the runs that there were then; there are more now"
    if "files" in differing:
        return "of the text as it was; it was prepared again since"
    if kept.method != record.METHOD:
        return f"by method {kept.method}; this version decides by method {record.METHOD}, which answers differently"
    raise _refused(kept, "is another than the same evidence gives now")


def _moved(then: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """The first arm with a run whose losses differ; an arm or a run that is there on one side only is no difference."""
    for arm, entry in then.items():
        runs = now.get(arm, {}).get("runs", {})
        for run, losses in entry["runs"].items():
            if any(runs.get(run, {}).get(source, loss) != loss for source, loss in losses.items()):
                return arm
    return None


def _refused(kept: Record, why: str) -> DataError:
    return DataError(
        f"the decision `{kept.path}` {why}",
        hint="`curriculum verify` names files that were changed; "
        f"`curriculum decide {kept.content['study']}` decides again",
    )

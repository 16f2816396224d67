"""The check of a study's records: each is read back by its seal, and the newest is computed again from its evidence."""

from __future__ import annotations

from curriculum.config.project import Project
from curriculum.errors import CurriculumError, DataError
from curriculum.runs.verify import Findings
from curriculum.studies import record
from curriculum.studies.asked import ask
from curriculum.studies.decide import decide
from curriculum.studies.decision import Undecidable

_CHANGED = {
    "text": "the study's file was edited",
    "question": "the question is another one",
    "evidence": "the losses are others",
    "files": "what was read has changed",
}


def verify_records(project: Project, name: str, size: str) -> Findings:
    """Check the records of study `name` at `size`.

    A record whose question or evidence is no longer there is listed as absent, which is no fault; one that the same
    evidence contradicts is.
    """
    found = Findings()
    folder = project.runs / size / name
    newest: record.Record | None = None
    for number in record.numbers(folder):
        try:
            newest = record.read(folder, number)
        except CurriculumError as error:
            found.wrong.append(error)
        else:
            found.checked.append(f"record {newest.address}: {newest.content['decision']['word']}")
    if newest is None:
        return found
    try:
        asked = ask(project, name, size)
        decision = asked.so_far(decide(asked.question, asked.evidence, asked.earlier))
    except (CurriculumError, Undecidable) as error:
        found.absent.append(f"what record {newest.address} rests on: {error}")
        return found
    text = newest.content["text"]
    again = record.content(name, text, asked.question, asked.evidence, decision, asked.files)
    differing = record.differences(newest, again)
    changed = [_CHANGED[key] for key in differing if key in _CHANGED]
    if changed:
        found.absent.append(f"what record {newest.address} rests on: {', '.join(changed)} since")
    elif differing:
        found.wrong.append(
            DataError(
                f"record {newest.address} is not what its evidence gives: {', '.join(differing)} differ",
                hint=f"versions of numpy or scipy may differ; `curriculum decide {name}` writes the next record",
            )
        )
    else:
        found.checked.append(f"record {newest.address}: computed again from its evidence, to the digit")
    return found

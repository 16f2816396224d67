"""Whether the weights of a mixture still rest on the decision that its file names, and why they no longer do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from curriculum.compiler.compile import Compiled, CompiledStage
from curriculum.compiler.prepared_text import PreparedText
from curriculum.config.fields import Evidence
from curriculum.errors import DataError
from curriculum.studies import record
from curriculum.units import counted, show_count

ROUNDING = 6e-5
"""A share in a mixture file is written in percent with two decimals."""
PASSES_DIFFER = 0.1
"""Share by which the passes of a source may differ from those of the stage that was asked about."""
LEAST_PASSES = 0.1
"""Of a text that is hardly read, passes differ by whole windows."""


def evidence_lines(texts: PreparedText, compiled: Compiled) -> list[str]:
    """A line for every mixture of a lineage whose file names a decision; of a mixture that two stages name, one."""
    lines = []
    for stage in compiled.stages:
        file, _ = texts.project.mixture(stage.setting.mixture)
        if file.evidence is not None and stage.setting.own_mixture:
            lines.append(_line(texts, compiled, stage, file.evidence))
    return list(dict.fromkeys(lines))


def _line(texts: PreparedText, compiled: Compiled, stage: CompiledStage, evidence: Evidence) -> str:
    subject = f"weights of `{stage.setting.mixture}`"
    folder = _folder(texts, compiled.size_name, evidence)
    if folder is None:
        return f"{subject}: the record of {evidence} is not here, and was not compared"
    try:
        decision_record = record.read(folder, evidence.number)
    except DataError as error:
        return f"{subject}: {error.what}"
    if not {"study", "question", "files", "decision"} <= decision_record.content.keys():
        return f"{subject}: `{decision_record.path}` is no record of a decision"
    reasons = list(_reasons(compiled, stage, decision_record, folder.parent.name))
    decision = decision_record.content["decision"]
    runs, word = counted(decision.get("runs", 0), "run"), decision["word"]
    if reasons:
        return f"{subject} no longer rest on {evidence}: {'; '.join(reasons)}"
    return f"{subject} rest on {evidence}: {runs} at {folder.parent.name}, {word}"


def _folder(texts: PreparedText, size: str, evidence: Evidence) -> Path | None:
    """The folder of the study that has the record, at this size or at another."""
    runs = texts.project.runs
    sizes = [size, *(path.name for path in sorted(runs.glob("*")) if path.is_dir() and path.name != size)]
    folders = (runs / name / evidence.study for name in sizes)
    return next((path for path in folders if (path / record.DECISIONS / f"{evidence.number:04}.json").exists()), None)


def _reasons(compiled: Compiled, stage: CompiledStage, decision_record: record.Record, size: str) -> Iterator[str]:
    content: dict[str, Any] = dict(decision_record.content)
    proposed = (content["decision"].get("proposal") or {}).get("shares") or {}
    shares = {source: float(share) for source, share in stage.shares.items() if share}
    seen = set(content["question"].get("sources") or proposed)
    for source in sorted(shares.keys() - seen):
        yield f"the study never saw `{source}`"
    edited = [name for name in {*shares, *proposed} if abs(shares.get(name, 0) - proposed.get(name, 0)) > ROUNDING]
    if edited and not shares.keys() - seen:
        yield f"the weight of `{min(edited)}` was edited since"
    if size == compiled.size_name:
        for source in sorted(shares):
            measured = content["files"].get(text_key(source))
            choice = compiled.sources.get(source)
            if measured is not None and choice is not None and choice.digest not in (None, measured):
                yield f"`{source}` is another text than the study measured"
    subject = content["question"].get("asked")
    if subject is None:
        return
    point = (subject["after"], subject["start"])
    if stage.parent is not None and _left(stage.parent) != point:
        there = f"{show_count(point[1])} tokens, after {point[0]}" if point[0] is not None else "the root"
        yield f"it was asked at {there}, and this stage begins at {_words(_left(stage.parent))}"
    yield from _passes(stage, shares, subject["passes"])


def _passes(
    stage: CompiledStage, shares: dict[str, float], expectations: dict[str, tuple[float, float]]
) -> Iterator[str]:
    """The source whose passes at the end of the stage differ most from those where the question was asked."""
    plan = stage.plan
    used = plan.items((stage.stop - plan.start) // plan.sequence_length)
    apart = []
    for source, share in shares.items():
        if source in expectations and source in used and plan.sources[source].windows:
            before, passes_of_all = expectations[source]
            expected, own = before + share * passes_of_all, plan.sources[source].epochs(used[source])
            apart.append((abs(own - expected) / max(expected, LEAST_PASSES), source, expected, own))
    worst, source, expected, own = max(apart, default=(0.0, "", 0.0, 0.0))
    if worst > PASSES_DIFFER:
        yield f"`{source}` is read {own:.2f} times by its end, and was asked about at {expected:.2f}"


def text_key(source: str) -> str:
    """Under which a record keeps the digest of a source's prepared text."""
    return f"text of {source}"


def _left(stage: CompiledStage) -> tuple[str, int]:
    return stage.name, stage.left_at


def _words(point: tuple[str, int]) -> str:
    return f"{show_count(point[1])} tokens, after {point[0]}"

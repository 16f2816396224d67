"""Benchmark records of lm-evaluation-harness on disk, and the scores in them."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from curriculum.artifacts.stage_folder import StageFolder
from curriculum.errors import DataError

MEMBERS_SHOWN = 12
"""The largest group whose members are scores of their own next to the group's."""

_PLAIN = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One figure of a task or group at a checkpoint, on the harness's own scale (mostly 0 to 1).

    `error` is one standard error. `cut` counts the documents that were longer than the model's context and lost
    their beginning; None in records that do not count them. `parts` are the scores of which a group's is the unweighted
    mean; `same` is everything that must be equal before two scores are compared.
    """

    task: str
    metric: str
    value: float
    error: float | None
    num_fewshot: int | None
    limit: int | None
    documents: int
    cut: int | None = None
    higher_is_better: bool
    harness: str
    same: Mapping[str, Any]
    per_document: tuple[float, ...] = ()
    parts: tuple[Score, ...] = ()
    member_of: str | None = None

    @property
    def label(self) -> str:
        """The task with its examples and limit, as in `piqa, 5-shot`; one label is one row of a table."""
        shots = f", {self.num_fewshot}-shot" if self.num_fewshot else ""
        return f"{self.task}{shots}" + (f", first {self.limit:,}" if self.limit is not None else "")


def path_of(
    folder: StageFolder, checkpoint: str, task: str, num_fewshot: int | None = None, limit: int | None = None
) -> Path:
    """The record of `task` at a checkpoint (the name of its folder): one file for each `num_fewshot` and `limit`."""
    plain = _PLAIN.sub("-", task)
    if plain != task:
        plain += f"-{hashlib.sha256(task.encode()).hexdigest()[:8]}"
    shots = f".{num_fewshot}-shot" if num_fewshot is not None else ""
    first = f".first-{limit}" if limit is not None else ""
    return folder.benchmarks / checkpoint / f"{plain}{shots}{first}.json"


def records(folder: StageFolder) -> dict[int, list[Mapping[str, Any]]]:
    """Every record of a stage by position (tokens); where a history was cut back, those of the newest generation."""
    newest: dict[int, list[Mapping[str, Any]]] = {}
    for path in sorted(folder.benchmarks.glob("g*-*/*.json")):
        try:
            value = json.loads(path.read_bytes())
            position, generation = int(value["position"]), int(value["generation"])
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"the record {path} cannot be read: {error}", hint="move it away; `curriculum eval` measures it again"
            ) from None
        here = newest.setdefault(position, [])
        if here and here[0]["generation"] > generation:
            continue
        if here and here[0]["generation"] < generation:
            here.clear()
        here.append(value)
    return dict(sorted(newest.items()))


def scores(records: Sequence[Mapping[str, Any]]) -> dict[str, Score]:
    """The scores of some records by label: those requested, and the members of groups up to MEMBERS_SHOWN."""
    by_label: dict[str, Score] = {}
    for record in records:
        for score in _scores(record):
            # a task that is requested by name takes precedence over the same task as a member of a group
            if score.label not in by_label or by_label[score.label].member_of is not None:
                by_label[score.label] = score
    return by_label


def read_scores(folder: StageFolder) -> dict[int, dict[str, Score]]:
    """The scores of a stage by position (tokens) and label."""
    return {position: scores(values) for position, values in records(folder).items()}


def _scores(record: Mapping[str, Any]) -> list[Score]:
    name = record["task"]
    if name not in record["groups"]:
        all_scores = [_score(record, task, None) for task in record["tasks"]]
        return [score for score in all_scores if score is not None]
    group = _score(record, name, None)
    names = record["groups"][name]["members"]
    members = [_score(record, member, name) for member in names] if len(names) <= MEMBERS_SHOWN else []
    return [score for score in (group, *members) if score is not None]


def _score(record: Mapping[str, Any], name: str, member_of: str | None) -> Score | None:
    limit, harness = record["asked"]["limit"], str(record["harness"]["lm_eval"])
    if name in record["tasks"]:
        task = record["tasks"][name]
        if task["preferred"] is None:
            return None
        figure = task["metrics"][task["preferred"]]
        return Score(
            task=name,
            metric=task["preferred"].removesuffix(",none"),
            value=figure["value"],
            error=figure["error"],
            num_fewshot=task["num_fewshot"],
            limit=limit,
            documents=task["documents"],
            cut=task.get("cut"),
            higher_is_better=figure["higher_is_better"],
            harness=harness,
            same={key: task[key] for key in ("version", "num_fewshot", "definition", "digest", "preferred")},
            per_document=tuple(task["per_document"] or ()),
            member_of=member_of,
        )
    if name not in record["groups"]:
        return None
    group = record["groups"][name]
    parts = tuple(p for member in group["members"] if (p := _score(record, member, name)) is not None)
    if not parts:
        return None
    if group["preferred"] is not None:
        figure = group["metrics"][group["preferred"]]
        metric, value, error = group["preferred"].removesuffix(",none"), figure["value"], figure["error"]
    else:
        metric, value = f"mean of {len(parts)}", sum(part.value for part in parts) / len(parts)
        errors = [part.error for part in parts if part.error is not None]
        error = math.hypot(*errors) / len(parts) if len(errors) == len(parts) else None
    shots = {part.num_fewshot for part in parts}
    return Score(
        task=name,
        metric=metric,
        value=value,
        error=error,
        num_fewshot=shots.pop() if len(shots) == 1 else None,
        limit=limit,
        documents=sum(part.documents for part in parts),
        cut=None if any(part.cut is None for part in parts) else sum(part.cut or 0 for part in parts),
        higher_is_better=all(part.higher_is_better for part in parts),
        harness=harness,
        same={part.task: part.same for part in parts},
        parts=parts if group["preferred"] is None else (),
        member_of=member_of,
    )


def plain(score: Score) -> dict[str, Any]:
    """A score as JSON values, without its documents."""
    return {k: v for k, v in asdict(score).items() if k not in ("same", "per_document", "parts")}

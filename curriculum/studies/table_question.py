"""The question that is asked of a table of runs, from a study file or from the command line's options."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from curriculum import fs
from curriculum.config.project import Project
from curriculum.config.studies import StudyFile
from curriculum.config.study_values import Limit
from curriculum.config.yaml import Document
from curriculum.errors import DataError, NotFound, Place, PlanError, did_you_mean
from curriculum.studies import designs
from curriculum.studies.decision import Keep, Question
from curriculum.studies.table import Runs, TableFiles, read


def of_study(project: Project, name: str, file: StudyFile, document: Document) -> tuple[Question, Runs]:
    """The question of `studies/<name>.yaml` with `table:`, and its runs; paths are relative to the project."""
    assert file.table is not None, "the study is asked of a table"
    table = file.table
    runs = read(
        TableFiles(
            project.root / table.shares,
            project.root / table.losses,
            table.join,
            table.share_columns,
            table.loss_columns,
        )
    )
    lower = {source: float(weight) for source, weight in file.goal.lower.items()}
    keep = {
        source: Keep(_reference(runs, limit, document.place(("goal", "keep", source))), float(limit.by))
        for source, limit in file.goal.keep.items()
    }
    bounds = {source: (float(share.low), float(share.high)) for source, share in file.always.items()}
    return question(name, runs, lower, keep, bounds), runs


def question(
    name: str,
    runs: Runs,
    lower: Mapping[str, float],
    keep: Mapping[str, Keep],
    bounds: Mapping[str, tuple[float, float]],
) -> Question:
    """The question which mixture lowers the weighted mean of `lower` within the limits `keep` of others.

    No source gets a larger share than it had in a run, unless `bounds` say so: a law is not asked beyond its runs.
    Raises NotFound for a name that the table does not have, DataError where all its runs have equal shares.
    """
    for source in (*lower, *keep):
        if source not in runs.losses:
            raise NotFound(f"no run has a loss of `{source}`", hint=_suggestion(source, runs))
    for source in bounds:
        if source not in runs.sources:
            raise NotFound(f"no run has a share of `{source}`", hint=did_you_mean(source, runs.sources))
    trained = runs.evidence.arms("swarm", "control")
    number = sum(len(runs.evidence.runs(arm)) for arm in trained)
    if number > 1 and len({tuple(runs.evidence.settings(arm).items()) for arm in trained}) == 1:
        raise DataError(
            f"the {number} runs of `{runs.files.shares}` are one point: all have equal shares",
            hint="a law of shares is fitted to runs of different ones: "
            f"{designs.least_runs(len(runs.sources))} at least for {len(runs.sources)} sources",
        )
    arms = [runs.evidence.settings(arm) for arm in trained]
    high = {source: max((float(arm[source]) for arm in arms), default=1.0) for source in runs.sources}
    return Question(
        name=name,
        kind="mixture",
        lower=dict(lower),
        keep=dict(keep),
        sources=runs.sources,
        low={source: low for source, (low, _) in bounds.items()},
        high={**high, **{source: most for source, (_, most) in bounds.items()}},
        all_trunks=False,
    )


def _reference(runs: Runs, limit: Limit, place: Place) -> str | None:
    """The run that a limit refers to: the first of role `before` or `control`; None for a loss."""
    if limit.base == "loss":
        return None
    arm = next(iter(runs.evidence.arms(limit.base)), None)
    if arm is None:
        raise PlanError(
            f"the limit is `{limit}`, and no row of the table has the role `{limit.base}`",
            place=place,
            hint=f"add that run with `{limit.base}` in a column `role`, or state the loss, as in `2.87`",
        )
    return arm


def digests(files: TableFiles, root: Path | None) -> dict[str, str]:
    """SHA-256 of the files of a table, by path, relative to `root` where they are below it."""
    by_name = {}
    for path in (files.shares, files.losses):
        inside = root is not None and path.resolve().is_relative_to(root)
        name = path.resolve().relative_to(root).as_posix() if root is not None and inside else str(path)
        by_name[name] = fs.sha256_file(path)
    return by_name


def _suggestion(source: str, runs: Runs) -> str:
    """A pattern under which a column of losses is named `source`, or the most similar name."""
    for column in runs.losses:
        if runs.files.loss_columns == "*" and source in column:
            before, _, after = column.partition(source)
            return f"did you mean `--loss-columns '{before}*{after}'`, in a study `loss_columns:`?"
    return did_you_mean(source, runs.losses)

"""The tables of `curriculum compare STUDY`: the losses of its arms, and their differences with the noise of runs."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from curriculum.cli.view import tables
from curriculum.cli.view.compare import Column, marked, tables_that_fit
from curriculum.errors import shortened
from curriculum.studies.compare import StudyComparison, difference_words
from curriculum.studies.verdicts import Difference
from curriculum.units import counted

LOWER = "mean of lower"


def study_comparison_view(comparison: StudyComparison, width: int) -> RenderableType:
    """A row for each arm; wide tables are cut between sources, never inside."""
    rows, against = comparison.arms, comparison.against
    heading = Text(comparison.study, style="bold")
    heading.append(f"  {counted(sum(row.role != 'before' for row in rows), 'arm')}", style="not bold")
    if against is not None:
        heading.append(f", each less `{against}`", style="not bold")
    labels = [
        Column("arm", tuple(Text(shortened(row.arm)) for row in rows)),
        Column("runs", tuple(Text(str(row.runs)) for row in rows)),
    ]

    def group(name: str, cells: Sequence[tuple[float | None, Difference | None]]) -> list[Column]:
        shown = [Column(name, tuple(Text("-" if loss is None else f"{loss:.4f}") for loss, _ in cells))]
        if against is not None:
            pairs = zip(rows, cells, strict=True)
            less = ("=" if row.arm == against else difference_words(difference) for row, (_, difference) in pairs)
            shown.append(Column(f"- {shortened(against)}", tuple(map(marked, less))))
        return shown

    groups = [group(LOWER, [(row.lower, row.lower_difference) for row in rows])]
    for source in comparison.sources:
        groups.append(group(shortened(source), [(row.losses.get(source), row.differences.get(source)) for row in rows]))
    legend = Text(
        "\nlosses in nats a token, means over the runs of an arm; a difference is paired by run, ± one standard error: "
        "the larger of that between runs and that of the choice of held-out documents. * where the 95% interval "
        "excludes 0, · where it does not; ? where one run each says nothing of the noise",
        style="dim",
    )
    return Group(heading, Text(), *tables_that_fit(labels, groups, width), legend, *tables.notes(comparison.notes))

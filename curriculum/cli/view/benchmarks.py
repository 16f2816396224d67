"""Tables of benchmark scores: at one lineage's checkpoints, and of variants side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from curriculum.analysis.benchmarks import Line, Table
from curriculum.artifacts.benchmarks import Score
from curriculum.cli.view.compare import Column, marked, tables_that_fit, variant_columns
from curriculum.cli.view.tables import table
from curriculum.runs.measurements import Point
from curriculum.units import show_count, show_exact


def scores_view(measured: Sequence[tuple[Point, Mapping[str, Score]]]) -> RenderableType:
    """Every score of each checkpoint; fits 80 columns."""
    if not measured:
        return Text("nothing is measured yet")
    parts: list[RenderableType] = []
    for point, scores in measured:
        parts.append(Text(f"{point.stage} at {show_exact(point.position)} tokens", style="bold"))
        drawn = table("task", "#shots", "#documents", "metric", "#score")
        for score in scores.values():
            inside = "  " if score.member_of in {other.task for other in scores.values()} else ""
            first = show_exact(score.documents) + " first" * bool(score.limit)
            first += f", {show_exact(score.cut)} cut" if score.cut else ""
            shots = "" if score.num_fewshot is None else str(score.num_fewshot)
            drawn.add_row(f"{inside}{score.task}", shots, first, score.metric, shown(score))
        parts.append(drawn)
    versions = sorted({score.harness for _, scores in measured for score in scores.values()})
    parts.append(Text(f"lm-eval {', '.join(versions)}; ± is one standard error", style="dim"))
    if any(score.cut for _, scores in measured for score in scores.values()):
        parts.append(Text("cut: longer than the model's context, so the harness dropped the beginning", style="dim"))
    return Group(*parts)


def shown(score: Score | None) -> str:
    """A score with its standard error, if it has one."""
    if score is None:
        return "-"
    return f"{score.value:.4f}" + (f" ±{score.error:.4f}" if score.error is not None else "")


def tasks_view(benchmarks: Table, width: int) -> list[RenderableType]:
    """Variants side by side on every task; no table without scores."""
    if not benchmarks.lines:
        return []
    labels = [
        Column("task", tuple(Text(line.label) for line in benchmarks.lines)),
        Column("metric", tuple(Text(next(s.metric for s in line.scores if s)) for line in benchmarks.lines)),
        Column("tokens", tuple(Text(show_count(line.position)) for line in benchmarks.lines)),
    ]

    def difference(line: Line, variant: int) -> Text:
        figure = benchmarks.difference(line, variant)
        if figure is not None:
            return marked(figure.marked)
        score = line.scores[variant]
        same = score is not None and score is line.scores[benchmarks.against]
        return Text("=" if same else "-", style="dim")

    columns = variant_columns(
        benchmarks.names,
        benchmarks.against,
        benchmarks.lines,
        lambda line, variant: Text("-" if (s := line.scores[variant]) is None else f"{s.value:.4f}"),
        difference,
    )
    cut: dict[str, list[str]] = {}
    for line in benchmarks.lines:
        for name, score in zip(benchmarks.names, line.scores, strict=True):
            if score is not None and score.cut:
                counts = f"{show_exact(score.cut)} of {show_exact(score.documents)} documents"
                cut.setdefault(f"{line.label}: {counts} were longer than the model's context and cut", []).append(name)
    return [
        Text(),
        Text("tasks", style="bold").append("  lm-evaluation-harness, on its own scales", style="not bold"),
        *tables_that_fit(labels, columns, width),
        *(Text(f"{message}: {', '.join(dict.fromkeys(names))}", style="dim") for message, names in cut.items()),
    ]

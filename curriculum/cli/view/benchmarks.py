"""What lm-evaluation-harness measured, as tables: at one lineage's checkpoints, and of variants side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from curriculum.analysis.benchmarks import Table
from curriculum.artifacts.benchmarks import Score
from curriculum.cli.view.compare import NAME_WIDTH, Column, broken, tables_that_fit
from curriculum.cli.view.tables import table
from curriculum.runs.measurements import Point
from curriculum.units import show_count, show_exact


def scores_view(found: Sequence[tuple[Point, Mapping[str, Score]]]) -> RenderableType:
    """Every score of each checkpoint; fits 80 columns."""
    if not found:
        return Text("nothing is measured yet")
    parts: list[RenderableType] = []
    for point, scores in found:
        parts.append(Text(f"{point.stage} at {show_exact(point.position)} tokens", style="bold"))
        drawn = table(
            ("task", "left"),
            ("shots", "right"),
            ("documents", "right"),
            ("metric", "left"),
            ("score", "right"),
        )
        for score in scores.values():
            inside = "  " if score.member_of in {other.task for other in scores.values()} else ""
            first = f"{show_exact(score.documents)} first" if score.limit else show_exact(score.documents)
            shots = "" if score.num_fewshot is None else str(score.num_fewshot)
            drawn.add_row(f"{inside}{score.task}", shots, first, score.metric, shown(score))
        parts.append(drawn)
    versions = sorted({score.harness for _, scores in found for score in scores.values()})
    parts.append(Text(f"lm-eval {', '.join(versions)}; ± is one standard error", style="dim"))
    return Group(*parts)


def shown(score: Score | None) -> str:
    """A score with its standard error where there is one."""
    if score is None:
        return "-"
    return f"{score.value:.4f}" + (f" ±{score.error:.4f}" if score.error is not None else "")


def tasks_view(found: Table, width: int) -> list[RenderableType]:
    """Variants side by side on every measured task; nothing where nothing was measured."""
    if not found.lines:
        return []
    base = found.names[found.against]
    labels = [
        Column("task", tuple(Text(line.label) for line in found.lines)),
        Column("metric", tuple(Text(next(s.metric for s in line.scores if s)) for line in found.lines)),
        Column("tokens", tuple(Text(show_count(line.position)) for line in found.lines)),
    ]
    values = [
        Column(
            broken(name, NAME_WIDTH),
            tuple(Text("-" if (s := line.scores[n]) is None else f"{s.value:.4f}") for line in found.lines),
        )
        for n, name in enumerate(found.names)
    ]
    differences = []
    for n, name in enumerate(found.names):
        if n == found.against:
            continue
        cells = []
        for line in found.lines:
            figure = found.difference(line, n)
            same = line.scores[n] is not None and line.scores[n] is line.scores[found.against]
            cells.append(
                Text("=" if same else "-", style="dim")
                if figure is None
                else Text(f"{figure.mean:+.4f} ±{figure.error:.4f} {'*' if figure.shown else '·'}")
            )
        differences.append(Column(f"{broken(name, 17)}\n{broken('- ' + base, 17)}", tuple(cells)))
    return [
        Text(),
        Text("tasks", style="bold").append("  lm-evaluation-harness, on its own scales", style="not bold"),
        *tables_that_fit(labels, [values, differences], width),
    ]

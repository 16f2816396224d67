"""What `curriculum compare` shows: losses beside each other, their differences with noise, and what they say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.text import Text

from curriculum.analysis.bootstrap import Estimate
from curriculum.analysis.claims import CONTRARY, MEASURED, SHOWN, Claim
from curriculum.analysis.compare import Comparison, Row
from curriculum.cli.view.tables import table
from curriculum.units import show_count, show_exact

BETWEEN_ENDS = 3  # rows between two stage ends; all of them are in the JSON
_GAP = 2
NAME_WIDTH = 15
_STYLES = {SHOWN: "green", CONTRARY: "red", MEASURED: ""}


@dataclass(frozen=True, slots=True)
class Column:
    heading: str
    cells: tuple[Text, ...]

    @property
    def width(self) -> int:
        return max(*(len(line) for line in self.heading.split("\n")), *(len(cell) for cell in self.cells))


def compare_view(
    comparison: Comparison,
    found: Sequence[Claim],
    notes: Sequence[str],
    width: int,
    tasks: Sequence[RenderableType] = (),
) -> RenderableType:
    """The whole answer for a console of `width` columns; wide tables are cut between variants, never inside.

    `tasks` are the tables of what lm-evaluation-harness measured.
    """
    parts: list[RenderableType] = [_heading(comparison), Text()]
    parts += _tokens(comparison, width)
    for source in comparison.sources:
        parts += [Text(), *_block(comparison, source, width)]
    parts += tasks
    base = comparison.names[comparison.against]
    parts.append(
        Text(
            f"\n- {base}: less {base}'s loss on the same held-out windows, ± one standard error; * where the 95% "
            "interval excludes 0, · where it does not; = where both are one checkpoint. The noise is that of "
            "the choice of windows; what another seed of training would change is not in it.",
            style="dim",
        )
    )
    if found:
        parts += [Text(), _marks(found)]
    if notes:
        parts.append(Text("\nnotes", style="bold"))
        parts += [Text(f"  {note}") for note in notes]
    return Group(*parts)


def rows_apart(comparison: Comparison) -> list[str]:
    """A sentence for each row whose variants do not stand at the very same token."""
    return [
        f"the ends of {row.ends} lie {show_exact(row.apart)} tokens apart: a stage ends at its first step "
        f"boundary at or past its declared end ("
        + ", ".join(
            f"{name} {show_exact(point.position)}"
            for name, point in zip(comparison.names, row.points, strict=True)
            if point is not None
        )
        + ")"
        for row in comparison.rows
        if row.ends and row.apart
    ]


def _heading(comparison: Comparison) -> Text:
    text = Text()
    if comparison.trunk is None:
        text.append("no shared trunk", style="bold")
        text.append(": these lineages go apart from their first step")
    else:
        text.append("shared trunk", style="bold")
        text.append(
            f"  {' -> '.join(comparison.trunk_stages)}, up to {show_exact(comparison.trunk.position)} tokens; "
            f"it reads {', '.join(comparison.general)}"
        )
    base = comparison.names[comparison.against]
    for name, parting in zip(comparison.names, comparison.partings, strict=True):
        if name != base and parting.parts:
            text.append(f"\n{name}", style="bold")
            text.append(
                f" parts from {base} in "
                + ", ".join(
                    f"{part.what} from step {show_exact(part.new_step)} on"
                    + (f" ({show_exact(part.position)} tokens)" if number == 0 else "")
                    for number, part in enumerate(parting.parts)
                )
            )
    return text


def _tokens(comparison: Comparison, width: int) -> list[RenderableType]:
    sources = [name for name in comparison.sources if any(name in tokens for tokens in comparison.tokens)]
    if not sources:
        return []
    since = " since the trunk" if comparison.trunk is not None else ""
    columns = [
        Column(broken(name, NAME_WIDTH), tuple(Text(show_count(t[s]) if s in t else "-") for s in sources))
        for name, t in zip(comparison.names, comparison.tokens, strict=True)
    ]
    labels = [Column(f"tokens read{since}", tuple(Text(source) for source in sources))]
    return tables_that_fit(labels, [columns], width)


def _block(comparison: Comparison, source: str, width: int) -> list[RenderableType]:
    rows = _shown_rows(comparison, source)
    title = Text(source, style="bold")
    title.append(f"  {_role(comparison, source)}", style="not bold")
    if not rows:
        return [title, Text("  not measured")]
    labels = [
        Column("end of", tuple(Text(row.ends or "") for row in rows)),
        Column("tokens", tuple(Text(show_count(row.position)) for row in rows)),
    ]
    losses = [
        Column(
            broken(name, NAME_WIDTH),
            tuple(_loss(comparison.loss(row.points[number], source)) for row in rows),
        )
        for number, name in enumerate(comparison.names)
    ]
    base = comparison.names[comparison.against]
    differences = [
        Column(
            f"{broken(name, 17)}\n{broken('- ' + base, 17)}",
            tuple(_difference(comparison, row, number, source) for row in rows),
        )
        for number, name in enumerate(comparison.names)
        if number != comparison.against
    ]
    return [title, *tables_that_fit(labels, [losses, differences], width)]


def _role(comparison: Comparison, source: str) -> str:
    last = next(lineage.sources[source] for lineage in comparison.lineages if source in lineage.sources)
    stands_in = f", {last.dataset} stands in" if last.stand_in else ""
    if source in comparison.general:
        return f"general, the trunk reads it{stands_in}"
    readers = [
        name for name, domain in zip(comparison.names, comparison.domains, strict=True) if source in domain
    ]
    return f"{'domain' if comparison.trunk else 'read'} of {', '.join(readers) or 'none'}{stands_in}"


def _shown_rows(comparison: Comparison, source: str) -> list[Row]:
    """Every stage end, and between two of them at most `BETWEEN_ENDS` positions where two variants can be compared."""
    shown: list[Row] = []
    between: list[Row] = []
    for row in comparison.rows:
        measured = {p for p in row.points if comparison.entry(p, source) is not None}
        if row.ends is None:
            between += [row] if len(measured) > 1 else []
            continue
        step = -(-len(between) // BETWEEN_ENDS) or 1
        shown += [*between[step - 1 :: step], row]
        between = []
    return shown if any(comparison.entry(p, source) for row in shown for p in row.points) else []


def _loss(loss: float | None) -> Text:
    return Text("-" if loss is None else f"{loss:.4f}")


def _difference(comparison: Comparison, row: Row, number: int, source: str) -> Text:
    mine, base = row.points[number], row.points[comparison.against]
    if mine is not None and mine == base:
        return Text("=", style="dim")
    figure = comparison.difference(mine, base, source)
    if figure is None:
        return Text("-", style="dim")
    return Text(f"{shown(figure)} {'*' if figure.shown else '·'}", style="" if figure.shown else "dim")


def shown(figure: Estimate) -> str:
    """A difference in nats a token with one standard error."""
    return f"{figure.mean:+.4f} ±{figure.error:.4f}"


def _marks(found: Sequence[Claim]) -> RenderableType:
    text = Text()
    text.append("recipe checks", style="bold")
    widest = max(len(mark.verdict) for mark in found) + _GAP
    for mark in found:
        text.append(f"\n{mark.verdict:<{widest}}", style=_STYLES.get(mark.verdict, "yellow"))
        text.append(mark.claim + (f", at {show_count(mark.at[0])}" if mark.at else ""))
        if mark.figure is not None:
            text.append(
                f"\n{'':<{widest}}{mark.first:.4f} against {mark.second:.4f}: {shown(mark.figure)}, "
                f"95% {mark.figure.low:+.4f} to {mark.figure.high:+.4f}",
                style="dim",
            )
    return text


def broken(name: str, width: int) -> str:
    """`name` over several lines of at most `width` characters, broken after hyphens and blanks where it can be."""
    lines = [""]
    for piece in name.replace("-", "-\0").replace(" ", " \0").split("\0"):
        if lines[-1] and len((lines[-1] + piece).rstrip()) > width:
            lines.append("")
        lines[-1] += piece
    return "\n".join(line.rstrip() for line in lines)


def tables_that_fit(labels: list[Column], groups: list[list[Column]], width: int) -> list[RenderableType]:
    """One table if everything fits, else one or more for each group of columns, each with the labels."""
    every = [column for group in groups for column in group]
    if _width([*labels, *every]) <= width:
        return [_table(labels, every)]
    tables: list[RenderableType] = []
    for group in groups:
        here: list[Column] = []
        for column in group:
            if here and _width([*labels, *here, column]) > width:
                tables.append(_table(labels, here))
                here = []
            here.append(column)
        tables.append(_table(labels, here))
    return tables


def _width(columns: list[Column]) -> int:
    return sum(column.width for column in columns) + _GAP * (len(columns) - 1)


def _table(labels: list[Column], columns: list[Column]) -> RenderableType:
    drawn = table(
        (labels[0].heading, "left"), *((column.heading, "right") for column in (*labels[1:], *columns))
    )
    for cells in zip(*(column.cells for column in (*labels, *columns)), strict=True):
        drawn.add_row(*cells)
    return drawn

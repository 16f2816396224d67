"""The tables of `curriculum compare`: held-out losses side by side, their differences with standard errors, claims."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from rich.console import Group, RenderableType
from rich.text import Text

from curriculum.analysis.claims import CONTRARY, MEASURED, SHOWN, Claim
from curriculum.analysis.compare import LEGEND, Comparison
from curriculum.cli.view import tables
from curriculum.units import show_count, show_exact

_GAP = 2
NAME_WIDTH = 15
Line = TypeVar("Line")
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
    claims: Sequence[Claim],
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
            f"\n- {base}: less {base}'s loss on the same held-out windows, ± one standard error. {LEGEND}", style="dim"
        )
    )
    if claims:
        parts += [Text(), _claims(claims)]
    return Group(*parts, *tables.notes(notes))


def _heading(comparison: Comparison) -> Text:
    text = Text()
    if comparison.trunk is None:
        text.append("no shared trunk", style="bold")
        text.append(": these lineages differ from their first step")
    else:
        text.append("shared trunk", style="bold")
        text.append(
            f"  {' -> '.join(comparison.trunk_stages)}, up to {show_exact(comparison.trunk.position)} tokens; "
            f"it reads {', '.join(comparison.general)}"
        )
    base = comparison.names[comparison.against]
    for name, divergence in zip(comparison.names, comparison.partings, strict=True):
        if name != base and divergence.parts:
            text.append(f"\n{name}", style="bold")
            text.append(
                f" differs from {base} in "
                + ", ".join(
                    f"{part.what} from step {show_exact(part.new_step)} on"
                    + (f" ({show_exact(part.position)} tokens)" if number == 0 else "")
                    for number, part in enumerate(divergence.parts)
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
    rows = comparison.shown_rows(source)
    title = Text(source, style="bold")
    title.append(f"  {_role(comparison, source)}", style="not bold")
    if measured_on := comparison.measured_on(source):
        title.append(f"; {measured_on}", style="not bold dim")
    if not rows:
        return [title, Text("  not measured")]
    labels = [
        Column("end of", tuple(Text(row.label) for row in rows)),
        Column("tokens", tuple(Text(show_count(row.position)) for row in rows)),
    ]
    columns = variant_columns(
        comparison.names,
        comparison.against,
        rows,
        lambda row, variant: Text("-" if (x := comparison.loss(row.points[variant], source)) is None else f"{x:.4f}"),
        lambda row, variant: marked(comparison.shown_difference(row, variant, source)),
    )
    return [title, *tables_that_fit(labels, columns, width)]


def _role(comparison: Comparison, source: str) -> str:
    last = next(lineage.sources[source] for lineage in comparison.lineages if source in lineage.sources)
    stands_in = f", {last.dataset} stands in" if last.stand_in else ""
    if source in comparison.general:
        return f"general, the trunk reads it{stands_in}"
    readers = [name for name, domain in zip(comparison.names, comparison.domains, strict=True) if source in domain]
    return f"{'domain' if comparison.trunk else 'read'} of {', '.join(readers) or 'none'}{stands_in}"


def marked(difference: str) -> Text:
    """A difference, dimmed unless its 95% interval excludes 0."""
    return Text(difference, style="" if difference.endswith("*") else "dim")


def _claims(claims: Sequence[Claim]) -> RenderableType:
    text = Text()
    text.append("recipe checks", style="bold")
    widest = max(len(claim.verdict) for claim in claims) + _GAP
    for claim in claims:
        text.append(f"\n{claim.verdict:<{widest}}", style=_STYLES.get(claim.verdict, "yellow"))
        text.append(claim.claim + (f", at {show_count(claim.at[0])}" if claim.at else ""))
        if claim.figure is not None:
            text.append(
                f"\n{'':<{widest}}{claim.first:.4f} against {claim.second:.4f}: {claim.figure}"
                + ("" if claim.figure.low is None else f", 95% {claim.figure.low:+.4f} to {claim.figure.high:+.4f}"),
                style="dim",
            )
    return text


def variant_columns(
    names: Sequence[str],
    against: int,
    rows: Sequence[Line],
    value: Callable[[Line, int], Text],
    difference: Callable[[Line, int], Text],
) -> list[list[Column]]:
    """A column of values for each variant, and one of differences for each but the one compared against."""
    base = broken(f"- {names[against]}", 17)
    values = [
        Column(broken(name, NAME_WIDTH), tuple(value(row, variant) for row in rows))
        for variant, name in enumerate(names)
    ]
    differences = [
        Column(f"{broken(name, 17)}\n{base}", tuple(difference(row, variant) for row in rows))
        for variant, name in enumerate(names)
        if variant != against
    ]
    return [values, differences]


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
    fitting: list[RenderableType] = []
    for group in groups:
        here: list[Column] = []
        for column in group:
            if here and _width([*labels, *here, column]) > width:
                fitting.append(_table(labels, here))
                here = []
            here.append(column)
        fitting.append(_table(labels, here))
    return fitting


def _width(columns: list[Column]) -> int:
    return sum(column.width for column in columns) + _GAP * (len(columns) - 1)


def _table(labels: list[Column], columns: list[Column]) -> RenderableType:
    drawn = tables.table(labels[0].heading, *(f"#{column.heading}" for column in (*labels[1:], *columns)))
    for cells in zip(*(column.cells for column in (*labels, *columns)), strict=True):
        drawn.add_row(*cells)
    return drawn

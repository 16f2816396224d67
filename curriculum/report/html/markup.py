"""HTML elements of the sections; values from files are escaped here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from curriculum.report.svg.shapes import safe


@dataclass(frozen=True, slots=True)
class Raw:
    """HTML that is inserted as it is."""

    html: str


Cell: TypeAlias = object
Row = TypeVar("Row")


def cell(value: Cell) -> str:
    return value.html if isinstance(value, Raw) else safe(value)


def code(value: object) -> Raw:
    return Raw(f"<code>{safe(value)}</code>")


def paragraph(text: Cell, kind: str = "") -> str:
    look = f' class="{kind}"' if kind else ""
    return f"<p{look}>{cell(text)}</p>"


def table(caption: str, columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    """A table; columns named `#…` hold numbers, those named `~…` long text. A row of one cell heads a group."""
    kinds = {"#": ' class="n"', "~": ' class="w"'}
    heads = "".join(
        f'<th scope="col"{kinds["#"] if name.startswith("#") else ""}>{safe(name.lstrip("#~"))}</th>'
        for name in columns
    )
    body = []
    for row in rows:
        if len(row) == 1:
            body.append(f'<tr class="group"><th scope="colgroup" colspan="{len(columns)}">{cell(row[0])}</th></tr>')
            continue
        cells = [f'<th scope="row">{cell(row[0])}</th>']
        cells += [
            f"<td{kinds.get(name[:1], '')}>{cell(value)}</td>" for name, value in zip(columns[1:], row[1:], strict=True)
        ]
        body.append(f"<tr>{''.join(cells)}</tr>")
    return (
        f'<p class="caption">{safe(caption)}</p>'
        f'<div class="scroll" tabindex="0" role="region" aria-label="{safe(caption)}">'
        f'<table aria-label="{safe(caption)}"><thead><tr>{heads}</tr></thead><tbody>\n'
        + "\n".join(body)
        + "\n</tbody></table></div>"
    )


def figure(pictures: Sequence[str], caption: str) -> str:
    return f"<figure>{''.join(pictures)}<figcaption>{safe(caption)}</figcaption></figure>"


def details(summary: str, inside: str) -> str:
    return f"<details><summary>{safe(summary)}</summary>{inside}</details>"


def preformatted(text: str) -> str:
    return f'<pre tabindex="0"><code>{safe(text)}</code></pre>'


def figures(entries: Sequence[tuple[str, str, str, str]]) -> str:
    """Key figures: (what, the number, its unit, a remark)."""
    inside = "".join(
        f"<div><dt>{safe(what)}</dt><dd>{safe(value)} <span>{safe(unit)}</span><small>{safe(more)}</small></dd></div>"
        for what, value, unit, more in entries
    )
    return f'<dl class="figures">{inside}</dl>'


def section(key: str, heading: str, lead: str, parts: Sequence[str]) -> str:
    return (
        f'<section id="{key}" aria-labelledby="{key}-h"><h2 id="{key}-h">{safe(heading)}</h2>'
        + (paragraph(lead, "lead") if lead else "")
        + "\n".join(parts)
        + "</section>"
    )


def legend(entries: Sequence[tuple[str, str]]) -> str:
    """(small picture, text) in a row."""
    items = "".join(f"<li>{picture}<span>{safe(text)}</span></li>" for picture, text in entries)
    return f'<ul class="legend">{items}</ul>'


def thinned(rows: Sequence[Row], most: int) -> list[Row]:
    """At most `most` rows, spread evenly, the first and the last among them."""
    if len(rows) <= most:
        return list(rows)
    return [rows[i * (len(rows) - 1) // (most - 1)] for i in range(most)]

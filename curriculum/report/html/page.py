"""The page of a report: one HTML file without network requests or scripts."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Sequence
from importlib.resources import files
from typing import Final

from curriculum.report.html import markup, records, sections
from curriculum.report.html.gather import ReportData
from curriculum.report.svg import style
from curriculum.report.svg.shapes import safe

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
SHEET: Final = style.PAGE + files(__package__).joinpath("page.css").read_text(encoding="utf-8")
_HEADING = re.compile(r'<section id="([a-z-]+)"[^>]*><h2[^>]*>(.*?)</h2>')


def page(data: ReportData) -> str:
    """The HTML file. Equal data gives equal bytes: it has no time and no name of a machine."""
    parts = [
        sections.curriculum(data),
        sections.training(data),
        records.anomalies(data),
        sections.held_out(data),
        records.tasks(data),
        records.mixture(data),
        records.lineage(data),
        records.environment(data),
        records.reproduce(data),
    ]
    waiting = "" if data.measured else markup.paragraph("Nothing has been trained yet: this is the plan alone.", "note")
    title = f"{', '.join(lineage.curriculum for lineage in data.lineages)}: curriculum report"
    return document(title, sections.head(data) + waiting, parts)


def document(title: str, head: str, parts: Sequence[str | None]) -> str:
    """A whole HTML file of a head and sections, with links to those; empty parts are left out."""
    body = "\n".join(part for part in parts if part)
    links = "".join(f'<li><a href="#{key}">{words}</a></li>' for key, words in _HEADING.findall(body))
    return (
        '<!DOCTYPE html>\n<html lang="en" xmlns="http://www.w3.org/1999/xhtml"><head><meta charset="utf-8"/>'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"/>{MARK.decode()}'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>'
        '<meta name="color-scheme" content="light dark"/><meta name="referrer" content="no-referrer"/>'
        f'<title>{safe(title)}</title><link rel="icon" href="data:,"/><style>{SHEET}</style></head>\n<body>'
        '<a class="skip" href="#main">Skip to the report</a>'
        f'<svg width="0" height="0" style="position:absolute" aria-hidden="true"><defs>{style.TEXTURES}</defs></svg>\n'
        f"{head}"
        f'<nav aria-label="Parts of the report"><ul>{links}</ul></nav>\n<main id="main">{body}</main>\n'
        f"<footer>Written by curriculum {safe(_version())}. Token counts, shares and rates of the plan are exact; "
        "measured values are as the run wrote them. No script, no request to any network.</footer></body></html>\n"
    )


def _version() -> str:
    try:
        return importlib.metadata.version("curriculum")
    except importlib.metadata.PackageNotFoundError:  # a checkout that was never installed
        return ""


MARK = b'<meta name="generator" content="curriculum report"/>'
MARK_WITHIN = 1024
"""The mark is in the first bytes of a report, this many."""

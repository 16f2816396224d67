"""The tables of `curriculum overlap`: what each source shares with a reference, and the steps that read it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from curriculum.cli.view.tables import notes, share, table
from curriculum.units import show_count, show_exact

DOCUMENTS = 10
"""Documents shown of a source; `--json` has up to a thousand."""


def overlap_view(result: Mapping[str, Any]) -> RenderableType:
    """Every source beside every reference; below, of those that share something, the documents and the steps."""
    drawn = table("source", "shares with", "#documents", "", "#tokens", "", "#found of it")
    for row in result["rows"]:
        drawn.add_row(
            row["source"],
            row["reference"],
            show_exact(row["documents"]),
            share(row["documents"] / max(1, row["of_documents"])),
            show_exact(row["tokens"]),
            share(row["tokens"] / max(1, row["of_tokens"])),
            f"{show_exact(row['references'])} of {show_exact(row['of_references'])}",
        )
    parts: list[RenderableType] = [
        Text(f"shared runs of {result['ngram']} tokens, {result['curriculum']} at size {result['size']}", style="bold"),
        drawn,
    ]
    for row in (row for row in result["rows"] if row["documents"]):
        parts.append(Text(f"\n{row['source']} and {row['reference']}", style="bold"))
        documents = table("document", "#shard", "#shared tokens")
        for document in row["listed"][:DOCUMENTS]:
            documents.add_row(document["id"], str(document["shard"]), show_exact(document["tokens"]))
        parts.append(documents)
        if row["documents"] > DOCUMENTS:
            parts.append(Text(f"  … of {show_exact(row['documents'])}: `--json` lists more", style="dim"))
        parts += [Text(f"  {_timeline(stage)}") for stage in row["stages"]]
        if row["leave_out"]:
            kept_out = share(row["leave_out_tokens"] / max(1, row["of_tokens"]))
            parts.append(Text(f"  without it, as far as shards go ({kept_out} of the source):", style="dim"))
            parts.append(Text("    leave_out:"))
            parts += [
                Text(f"      - {{source: {entry['source']}, shard: {entry['shard']}, why: {entry['why']}}}")
                for entry in row["leave_out"]
            ]
            if any(stage["readings_done"] for stage in row["stages"]):
                first = row["leave_out"][0]
                parts.append(
                    Text(
                        f"  some was read already: `curriculum trace {result['curriculum']} --source {first['source']} "
                        f"--shard {first['shard']}` names the last clean checkpoint and the branch from it",
                        style="dim",
                    )
                )
    lines = [f"{name} is not prepared, so it was not compared" for name in result["missing"]]
    for name, count in {row["reference"]: row["too_short"] for row in result["rows"] if row["too_short"]}.items():
        lines.append(f"{show_exact(count)} texts of {name} are shorter than {result['ngram']} tokens")
    return Group(*parts, *notes(lines))


def _timeline(stage: Mapping[str, Any]) -> str:
    where = f"{stage['curriculum']}/{stage['stage']}"
    if not stage["readings"]:
        return f"{where}  never reads them"
    return (
        f"{where}  {show_exact(stage['readings'])} readings of their windows, "
        f"{show_exact(stage['readings_done'])} done; "
        f"first in step {show_exact(stage['first_step'])} (from token {show_count(stage['first'])}), "
        f"last in step {show_exact(stage['last_step'])}"
    )

"""The tables of `curriculum trace`: the steps that read a document, a range of a source, or a bad shard."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from curriculum.cli.view.tables import table
from curriculum.units import show_count, show_exact

ROWS = 60
"""Readings shown in a table; `--json` has all of them."""


def trace_view(result: Mapping[str, Any]) -> RenderableType:
    """`curriculum trace --document` and `--range`: every reading, stage by stage."""
    parts: list[RenderableType] = [_headline(result)]
    shown = 0
    for stage in result["stages"]:
        parts.append(Text(f"\n{stage['curriculum']}/{stage['stage']}", style="bold").append(_of(stage), "dim"))
        if not stage["readings"]:
            parts.append(Text("  reads nothing of it"))
            continue
        parts.append(Text(f"  {_tally(stage)}"))
        if stage["steps"] is None or shown >= ROWS:
            first, last = (show_exact(stage[key]) for key in ("first", "last"))
            parts.append(Text(f"  first in the step at {first} tokens, last in that at {last}"))
            continue
        drawn = table("#  step", "#from token", "#slot", "source", "#pass", "#window", "")
        for reading in stage["steps"][: ROWS - shown]:
            only = "" if len(reading["lineages"]) == len(stage["lineages"]) else ", ".join(reading["lineages"])
            state = "read" if reading["read"] else "to come"
            drawn.add_row(
                show_exact(reading["step"]),
                show_exact(reading["position"]),
                str(reading["slot"]),
                reading["source"],
                str(reading["pass"]),
                show_exact(reading["window"]),
                f"{state} {only}".rstrip(),
            )
        parts.append(drawn)
        shown += len(stage["steps"])
        if shown > ROWS:
            parts.append(Text(f"  … and more: `--json` lists all {len(stage['steps'])}", style="dim"))
    parts.append(Text("\npasses, slots and windows are counted from 0", style="dim"))
    return Group(*parts)


def shard_view(result: Mapping[str, Any]) -> RenderableType:
    """`curriculum trace --shard`: what a bad shard contaminates, the cost of retraining, and the YAML edit."""
    parts: list[RenderableType] = [
        Text(f"shard {result['shard']} of {result['source']}", style="bold").append(
            f"  {result['file']}, {show_count(result['tokens_read'])} tokens of it read so far", "not bold"
        )
    ]
    for stage in result["stages"]:
        parts.append(Text(f"\n{stage['curriculum']}/{stage['stage']}", style="bold").append(_of(stage), "dim"))
        if stage["first"] is None:
            after = "" if stage["contaminated_from"] is None else ", but continues from a model that did"
            parts.append(Text(f"  never reads it{after}"))
        else:
            parts.append(Text(f"  {_tally(stage)} of its {show_exact(stage['windows'])} windows"))
            parts.append(
                Text(
                    f"  first in step {show_exact(stage['first_step'])} (from token {show_exact(stage['first'])}), "
                    f"last in step {show_exact(stage['last_step'])}"
                )
            )
        touched = stage["checkpoints_touched"]
        if touched:
            names = ", ".join(["…"] * (len(touched) > 3) + [name.split()[-1] for name in touched[-3:]])
            parts.append(Text(f"  in {len(touched)} checkpoint{'s' * (len(touched) > 1)}: {names}"))
        if stage["redo_tokens"]:
            clean = stage["last_clean_checkpoint"] or (
                "none: the stage before it has read the shard"
                if stage["last_clean"] is None
                else "none here; the start of the stage"
            )
            parts.append(Text(f"  last clean checkpoint: {clean}"))
    if not result["exact"]:
        parts.append(Text("\n± is six standard deviations; `--exact` counts to the last reading", style="dim"))
    if result["redo_tokens"]:
        hours = result["redo_gpu_hours"]
        cost = f", {hours:,.1f} GPU-hours" if hours is not None else ""
        parts.append(Text(f"\nto redo: {show_count(result['redo_tokens'])} tokens{cost}"))
    shared: dict[tuple[str, str], dict[str, Any]] = {(edit["file"], edit["yaml"]): edit for edit in result["edits"]}
    for edit in shared.values():  # lineages that share the stage share its edit
        if edit["kind"] == "replace":
            parts.append(
                Text(
                    f"\n{result['source']} has no other shard: take it out of {edit['file']}, or prepare better text "
                    "for it under another name"
                )
            )
            continue
        parts.append(Text(f"\nwithout it, in {edit['file']}:", style="bold"))
        parts.append(Text(edit["yaml"]))
        if edit["kind"] == "leave_out":
            parts.append(Text(f"{result['source']} then begins its next pass, over the other shards", style="dim"))
    return Group(*parts)


def _headline(result: Mapping[str, Any]) -> Text:
    if result["document"] is None:
        return Text(f"{result['source']}, {result['range']}", style="bold")
    text = Text(result["document"], style="bold")
    for place in result["found"]:
        where = "held out, never trained on" if place["split"] == "held-out" else f"shard {place['shard']}"
        text.append(
            f"\n  {place['source']} ({place['text']}): document {place['document']} of {where}, "
            f"{show_exact(place['tokens'])} tokens",
            "not bold",
        )
    return text


def _tally(stage: Mapping[str, Any]) -> str:
    within = f" ± {show_exact(stage['within'])}" if stage.get("within") else "" if stage["exact"] else " or so"
    total, past = show_exact(stage["readings"]), show_exact(stage["readings_done"])
    return f"{total}{within} readings, {past}{within} of them done"


def _of(stage: Mapping[str, Any]) -> str:
    return f"  in {', '.join(stage['lineages'])}" if len(stage["lineages"]) > 1 else ""

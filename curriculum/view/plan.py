"""What `curriculum plan` shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from curriculum.planner import Compiled
from curriculum.units import show_bytes, show_count, show_exact
from curriculum.view.tables import share, sparkline, table


def plan_view(
    summary: Mapping[str, Any], compiled: Compiled, provenance: Mapping[str, str]
) -> RenderableType:
    """`curriculum plan`: stages, curves, mixtures, costs and what to know before starting; fits 80 columns."""
    stages = table(
        ("stage", "left"),
        ("steps", "right"),
        ("batch", "right"),
        ("tokens", "right"),
        ("ends at", "right"),
        ("learning rate", "left"),
    )
    for stage in summary["stages"]:
        stages.add_row(
            stage["stage"],
            show_exact(stage["steps"]),
            f"{stage['batch_sequences']} seq",
            show_count(stage["batch_tokens"]),
            show_exact(stage["ends_at"]),
            f"{stage['lr_first']:.3g} -> {stage['lr_last']:.3g}",
        )
    sources = table(
        ("source", "left"),
        ("asked", "right"),
        ("got", "right"),
        ("tokens", "right"),
        ("passes", "right"),
        ("first repeat", "left"),
    )
    for stage in summary["stages"]:
        sources.add_row(Text(stage["stage"], style="bold"))
        for name, entry in stage["sources"].items():
            before, after, repeat = entry["passes_before"], entry["passes_after"], entry["first_repeat"]
            sources.add_row(
                f"  {name}",
                share(entry["asked"]),
                share(entry["got"]),
                show_count(entry["tokens"]),
                f"{before:.2f} -> {after:.2f}" if before is not None else "size unknown",
                f"step {show_exact(repeat['step'])}" if repeat else "",
            )
    ramps = [
        Text(
            f"ramp in {stage['stage']}: linear in share over {show_count(stage['ramp']['tokens'])} tokens, "
            f"{show_exact(stage['ramp']['sequences'])} sequences, {show_exact(stage['ramp']['steps'])} steps"
        )
        for stage in summary["stages"]
        if stage["ramp"]
    ]
    parts: list[RenderableType] = [
        _headline(summary, compiled),
        Text(),
        stages,
        Text(f"learning rate {_lr_line(compiled)}", style="dim"),
        Text(),
        sources,
        *ramps,
        Text(),
        *_texts(summary, provenance),
        Text(),
        _cost(summary["cost"]),
    ]
    notes = [(stage["stage"], note) for stage in summary["stages"] for note in stage["notes"]]
    if notes:
        parts.append(Text("\nto know", style="bold"))
        parts += [Text(f"  {where}: {note}") for where, note in notes]
    return Group(*parts)


def _headline(summary: Mapping[str, Any], compiled: Compiled) -> Text:
    text = Text()
    text.append(summary["curriculum"], style="bold")
    about = compiled.stages[-1].setting.document.value.get("about")
    if about:
        text.append(f"  {about}")
    start = [summary["imported"]["from"]] if summary["imported"] else []
    text.append(f"\nlineage {' -> '.join([*start, *(stage.name for stage in compiled.stages)])}")
    if compiled.scaled:
        text.append(
            f"\na smaller plan: size `{summary['size']}` scales every length by {summary['scale']:g}; "
            f"the full size: curriculum plan {summary['curriculum']} --size full"
        )
    return text


def _lr_line(compiled: Compiled, width: int = 48) -> str:
    last = compiled.stages[-1]
    values = []
    for i in range(width):
        position = max(1, last.stop * (i + 1) // width)
        stage = next(s for s in compiled.stages if position <= s.stop)
        values.append(stage.plan.learning_rate.at(position))
    batches = dict.fromkeys(str(stage.plan.batch_sequences) for stage in compiled.stages)
    return f"{sparkline(values)}  batch {' -> '.join(batches)} sequences"


def _texts(summary: Mapping[str, Any], provenance: Mapping[str, str]) -> list[RenderableType]:
    lines: list[RenderableType] = [Text("text", style="bold")]
    for name, entry in summary["sources"].items():
        windows = (
            f"{show_exact(entry['windows_a_pass'])} windows a pass"
            if entry["windows_a_pass"]
            else "size unknown"
        )
        kind = f"{entry['text']} stands in" if entry["stand_in"] else "itself"
        ready = "" if entry["prepared"] else ", not prepared yet"
        lines.append(Text(f"  {name}: {kind}{ready}, {windows}"))
        if entry["declared_tokens"]:
            word = "assumed" if entry["assumed"] else "declared"
            origin = f": {entry['declared_from']}" if entry["declared_from"] else ""
            lines.append(Text(f"    {word} {show_count(entry['declared_tokens'])}{origin}", style="dim"))
        if provenance.get(entry["text"]):
            lines.append(Text(f"    {provenance[entry['text']]}", style="dim"))
    return lines


def _cost(cost: Mapping[str, Any]) -> Group:
    parts = [
        f"{show_exact(cost['updates'])} updates",
        f"{show_count(cost['tokens'])} tokens",
        f"{show_count(cost['parameters'])} parameters",
    ]
    if cost["gpu_hours"] is not None:
        parts.append(f"{cost['gpu_hours']:,.1f} GPU-hours ({cost['days']:.1f} days on {cost['gpus']})")
    if cost["usd"] is not None:
        parts.append(f"{cost['usd']:,.0f} USD")
    parts.append(f"{show_bytes(cost['storage_bytes'])} of checkpoints")
    parts.append(f"{show_bytes(cost['token_bytes'])} of tokens")
    parts.append(f"{show_count(cost['tokens_at_risk'])} tokens at risk between saves")
    lines = [Text("cost  ", style="bold").append(", ".join(parts), style="not bold")]
    lines += [Text(f"  assumed: {line}", style="dim") for line in cost["assumptions"]]
    return Group(*lines)

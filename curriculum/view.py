"""What a person sees: tables and lines made of values computed elsewhere. Nothing is decided here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from curriculum.diff import Parting
from curriculum.planner import Compiled
from curriculum.units import show_bytes, show_count, show_exact

_BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: list[float]) -> str:
    """One character a value, from the lowest to the highest of them."""
    if not values:
        return ""
    low, high = min(values), max(values)
    if high == low:
        return _BARS[0] * len(values)
    return "".join(_BARS[min(7, int((value - low) / (high - low) * 8))] for value in values)


def share(value: float) -> str:
    return f"{value * 100:.4g}%"


def _table(*columns: tuple[str, str]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name, justify in columns:
        table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    return table


def plan_view(
    summary: Mapping[str, Any], compiled: Compiled, provenance: Mapping[str, str]
) -> RenderableType:
    """`curriculum plan`: stages, curves, mixtures, costs and what to know before starting; fits 80 columns."""
    stages = _table(
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
    sources = _table(
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
    text.append(f"\nlineage {' -> '.join(stage.name for stage in compiled.stages)}")
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


def result_view(rows: Sequence[Mapping[str, Any]], sources: list[str]) -> RenderableType:
    """Held-out loss per source at each stage's edges; `rows` from `orchestrator.edges`."""
    table = _table(("at", "left"), ("tokens", "right"), *((name, "right") for name in sources))
    for row in rows:
        table.add_row(
            row["label"],
            show_exact(row["position"]),
            *(f"{row['loss'][name]:.3f}" if name in row["loss"] else "" for name in sources),
        )
    return table


def prepared_view(rows: list[dict[str, Any]]) -> RenderableType:
    """What `curriculum prepare` made."""
    table = _table(
        ("text", "left"),
        ("split", "left"),
        ("documents", "right"),
        ("tokens", "right"),
        ("bytes/token", "right"),
        ("windows", "right"),
        ("unread tail", "right"),
        ("from", "left"),
    )
    for row in rows:
        table.add_row(
            row["dataset"],
            row["split"],
            show_exact(row["documents"]),
            show_exact(row["tokens"]),
            f"{row['bytes_per_token']:.2f}",
            show_exact(row["windows"]),
            show_exact(row["tail"]),
            row["from"],
        )
    return table


def status_view(rows: list[dict[str, Any]], size: str) -> RenderableType:
    """Every stage of the project and how far it is."""
    table = _table(
        ("stage", "left"),
        ("from", "left"),
        ("state", "left"),
        ("at", "right"),
        ("of", "right"),
        ("checkpoints", "right"),
    )
    for row in rows:
        if row["state"] == "refused":
            table.add_row(row["stage"], "", "refused", "", "", row["why"])
            continue
        table.add_row(
            row["stage"],
            row["from"] or "",
            row["state"],
            show_exact(row["position"]),
            show_exact(row["ends_at"]),
            str(len(row["checkpoints"])),
        )
    return Group(Text(f"size {size}; positions in tokens from the root", style="dim"), table)


def batch_view(listing: Mapping[str, Any]) -> RenderableType:
    """The slots of one step."""
    head = Text(
        f"step {show_exact(listing['step'])} of {listing['curriculum']}/{listing['stage']}: "
        f"{len(listing['slots'])} sequences of {listing['sequence_length']} tokens "
        f"from {show_exact(listing['position'])} on, LR {listing['lr']:.4g}"
    )
    parts: list[RenderableType] = [head]
    if any("text" in slot for slot in listing["slots"]):
        for slot in listing["slots"]:
            documents = ", ".join(document["id"] for document in slot["documents"])
            parts.append(
                Text(
                    f"{slot['slot']:>4}  {slot['source']} pass {slot['pass']}, window {slot['window']}: {documents}"
                )
            )
            parts.append(
                Text(f"      {repr(slot['text'])[1:-1]}", style="dim", no_wrap=True, overflow="ellipsis")
            )
    else:
        table = _table(
            ("slot", "right"),
            ("source", "left"),
            ("pass", "right"),
            ("window", "right"),
            ("documents", "left"),
        )
        for slot in listing["slots"]:
            documents = ", ".join(document["id"] for document in slot.get("documents", []))
            table.add_row(
                str(slot["slot"]), slot["source"], str(slot["pass"]), show_exact(slot["window"]), documents
            )
        parts.append(table)
    if not listing["prepared"]:
        parts.append(
            Text("documents are shown once the text is prepared (`curriculum prepare`)", style="dim")
        )
    return Group(*parts)


def parting_view(parting: Parting, old: str, new: str) -> RenderableType:
    """Where two curricula part."""
    shared = ", ".join(parting.shared) or "nothing"
    if parting.difference is None:
        return Text(f"`{old}` and `{new}` are the same: {shared}")
    difference = parting.difference
    return Text(
        f"the same in both: {shared}, and all before step {show_exact(difference.step)}\n"
        f"they part at step {show_exact(difference.step)} ({show_exact(difference.position)} tokens): "
        f"{', '.join(difference.what)}"
    )

"""What `curriculum plan` shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from curriculum.cli.view import braille
from curriculum.cli.view.tables import MANY_ROWS, aligned, share, table
from curriculum.compiler.compile import Compiled
from curriculum.units import show_bytes, show_count, show_exact

WIDEST_CURVE: Final = 60
NARROWEST_CURVE: Final = 30
"""In characters; a curve in fewer shows nothing that its numbers do not."""


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
    names = _names(summary["stages"])
    for stage, name in zip(summary["stages"], names, strict=True):
        stages.add_row(
            name,
            show_exact(stage["steps"]),
            f"{stage['batch_sequences']} seq",
            show_count(stage["batch_tokens"]),
            show_exact(stage["ends_at"]),
            f"{stage['lr_first']:.3g} -> {stage['lr_last']:.3g}",
        )
    parts: list[RenderableType] = [
        _headline(summary, compiled),
        Text(),
        stages,
        Text(),
        Curves(summary["curve"]),
        Text(),
        _sources(summary["stages"]),
        *_ramps(summary["stages"], events=False),
        Text(),
        *_texts(summary, provenance),
        Text(),
        _cost(summary["cost"]),
    ]
    notes = [
        (name, note) for stage, name in zip(summary["stages"], names, strict=True) for note in stage["notes"]
    ]
    if any(stage["tasks"] for stage in summary["stages"]):
        parts += [Text(), *_tasks(summary["stages"])]
        if not summary["harness_installed"]:
            notes.append(
                (
                    "tasks",
                    "lm-evaluation-harness is not installed here (`pip install 'curriculum[eval]'`): training goes "
                    "on all the same, and `curriculum eval` measures the kept checkpoints later",
                )
            )
    if notes:
        parts.append(Text("\nnotes", style="bold"))
        parts += [Text(f"  {where}: {note}") for where, note in notes]
    return Group(*parts)


def _names(stages: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the stages are called: by their own names, where two bear the same one with their curriculum's."""
    names = [stage["stage"] for stage in stages]
    return [
        name if names.count(name) == 1 else f"{stage['curriculum']}/{name}"
        for name, stage in zip(names, stages, strict=True)
    ]


def _headline(summary: Mapping[str, Any], compiled: Compiled) -> Text:
    text = Text()
    text.append(summary["curriculum"], style="bold")
    about = compiled.stages[-1].setting.document.value.get("about")
    if about:
        text.append(f"  {about}")
    start = [summary["imported"]["from"]] if summary["imported"] else []
    text.append(f"\nlineage {' -> '.join([*start, *(stage.name for stage in compiled.stages)])}")
    for each in compiled.stages:
        for event in each.events:
            text.append(f"\n  {each.name} {event}")
    if compiled.scaled:
        text.append(
            f"\na smaller plan: size `{summary['size']}` scales every length by {summary['scale']:g}; "
            f"the full size: curriculum plan {summary['curriculum']} --size full"
        )
    return text


@dataclass(frozen=True, slots=True)
class Curves:
    """Learning rate and batch along a lineage, from a plan's `curve`, as wide as the console has room for."""

    rows: Sequence[Mapping[str, Any]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        most = f"{max(row['lr'] for row in self.rows):.3g}"
        end = f"{show_count(self.rows[-1]['position'])} tokens"
        margin = " " * (len(most) + 1)
        width = min(WIDEST_CURVE, options.max_width - len(margin))
        batches = list(dict.fromkeys(row["batch_tokens"] for row in self.rows))
        changes = f"batch: {' -> '.join(map(show_count, batches))} tokens"
        if width < NARROWEST_CURVE:
            yield Text(f"learning rate: at most {most}, over {end}")
            if len(batches) > 1:
                yield Text(changes)
            return
        rates = braille.curve([(row["position"], row["lr"]) for row in self.rows], width, 5)
        yield Text(f"{margin}learning rate")
        yield from map(Text, braille.framed(rates, most, "0"))
        if len(batches) > 1:
            points = [(row["position"], row["batch_tokens"]) for row in self.rows]
            yield Text(f"{margin}{changes}")
            yield from (Text(margin + line) for line in braille.curve(points, width, 2, stairs=True))
        yield Text(f"{margin}0{end:>{width - 1}}", style="dim")


def tree_view(summary: Mapping[str, Any]) -> RenderableType:
    """`curriculum plan A B C`: every stage once, who goes through it, passes, and what sharing saves."""
    names = list(summary["curricula"])
    parts: list[RenderableType] = [Text(", ".join(names), style="bold")]
    if summary["scale"] != 1:
        parts.append(
            Text(f"size `{summary['size']}` scales every length by {summary['scale']:g}", style="dim")
        )
    stages = table(("stage", "left"), ("steps", "right"), ("from", "right"), ("to", "right"), ("for", "left"))
    depth: dict[str | None, int] = {None: -1}
    for node in summary["tree"]:
        name = f"{node['curriculum']}/{node['stage']}"
        depth[name] = depth[node["parent"]] + 1
        whose = "all" if len(node["lineages"]) == len(names) > 1 else ", ".join(node["lineages"])
        leaving = [
            f"{who} to {show_count(at)}" for who, at in node["lineages"].items() if at < node["ends_at"]
        ]
        stages.add_row(
            f"{'  ' * depth[name]}{name}",
            show_exact(node["steps"]),
            show_count(node["starts_at"]),
            show_count(node["ends_at"]),
            whose + (f" ({'; '.join(leaving)})" if leaving else ""),
        )
    parts += [Text(), stages]
    told: set[tuple[str, str]] = set()
    for name, plan in summary["curricula"].items():
        own = [s for s in plan["stages"] if (s["curriculum"], s["stage"]) not in told]
        told.update((s["curriculum"], s["stage"]) for s in own)
        if own:
            parts += [Text(f"\n{name}", style="bold"), _sources(own)]
            parts += _ramps(own, events=True)
    seen: list[Any] = []
    for name, plan in summary["curricula"].items():
        shape = [(row["position"], row["lr"], row["batch_tokens"]) for row in plan["curve"]]
        if shape not in seen:
            seen.append(shape)
            parts += [Text(), Text(name, style="dim"), Curves(plan["curve"])]
    parts += [Text(), _cost(summary["cost"])]
    saved = summary["saved"]
    shared = [f"{show_count(saved['tokens'])} tokens", f"{show_exact(saved['updates'])} updates"]
    if saved["gpu_hours"] is not None:
        shared.append(f"{saved['gpu_hours']:,.1f} GPU-hours")
    if saved["usd"] is not None:
        shared.append(f"{saved['usd']:,.0f} USD")
    shared.append(f"{show_bytes(saved['storage_bytes'])} of checkpoints")
    if saved["token_bytes"] is not None:
        shared.append(f"{show_bytes(saved['token_bytes'])} of tokens")
    parts.append(Text("saved by sharing  ", style="bold").append(", ".join(shared), style="not bold"))
    notes = dict.fromkeys(
        (f"{stage['curriculum']}/{stage['stage']}", note)
        for plan in summary["curricula"].values()
        for stage in plan["stages"]
        for note in stage["notes"]
    )
    if notes:
        parts.append(Text("\nnotes", style="bold"))
        parts += [Text(f"  {where}: {note}") for where, note in notes]
    return Group(*parts)


def _ramps(stages: Sequence[Mapping[str, Any]], *, events: bool) -> list[RenderableType]:
    """The stages' ramps and, with `events`, what they skip and leave out."""
    lines: list[RenderableType] = []
    for stage, called in zip(stages, _names(stages), strict=True):
        if stage["ramp"]:
            lines.append(
                Text(
                    f"ramp in {called}: linear in share over {show_count(stage['ramp']['tokens'])} tokens, "
                    f"{show_exact(stage['ramp']['sequences'])} sequences, {show_exact(stage['ramp']['steps'])} steps"
                )
            )
        if events:
            lines += [Text(f"{called} {event}") for event in stage["events"]]
    return lines


def _tasks(stages: Sequence[Mapping[str, Any]]) -> list[RenderableType]:
    """What is measured when, by lm-evaluation-harness."""
    lines: list[RenderableType] = [
        Text("tasks  measured after the last step, or by `curriculum eval`", style="bold")
    ]
    for stage, called in zip(stages, _names(stages), strict=True):
        for task, entry in stage["tasks"].items():
            lines.append(
                Text(
                    f"  {called}: {task} every {show_count(entry['every'])} tokens, at "
                    f"{entry['times']} {'checkpoints that are' if entry['times'] != 1 else 'checkpoint that is'} kept"
                )
            )
    return lines


def _sources(stages: Sequence[Mapping[str, Any]]) -> Table | Text:
    columns = (
        ("source", "left"),
        ("asked", "right"),
        ("got", "right"),
        ("tokens", "right"),
        ("passes", "right"),
        ("first repeat", "left"),
    )
    rows: list[tuple[str, ...]] = []
    for stage, called in zip(stages, _names(stages), strict=True):
        rows.append((called,))
        for name, entry in stage["sources"].items():
            before, after, repeat = entry["passes_before"], entry["passes_after"], entry["first_repeat"]
            row: tuple[str, ...] = (
                f"  {name}",
                share(entry["asked"]),
                share(entry["got"]),
                show_count(entry["tokens"]),
                f"{before:.2f} -> {after:.2f}" if before is not None else "size unknown",
                f"at {show_count(repeat['position'])}" if repeat else "",
            )
            rows.append(row)
    if len(rows) > MANY_ROWS:
        return aligned(columns, rows)
    sources = table(*columns)
    for row in rows:
        sources.add_row(*(row if len(row) > 1 else (Text(row[0], style="bold"),)))
    return sources


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
    if cost["token_bytes"] is not None:  # None: some text is neither prepared nor declared
        parts.append(f"{show_bytes(cost['token_bytes'])} of tokens")
    parts.append(f"{show_count(cost['tokens_at_risk'])} tokens at risk between saves")
    lines = [Text("cost  ", style="bold").append(", ".join(parts), style="not bold")]
    if cost.get("unsaved"):
        lines.append(Text(f"  measured: {cost['unsaved']}", style="yellow"))
    lines += [Text(f"  assumed: {line}", style="dim") for line in cost["assumptions"]]
    return Group(*lines)

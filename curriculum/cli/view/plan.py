"""The tables and curves of `curriculum plan`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from curriculum.cli.view import braille
from curriculum.cli.view.preparation import cost_line
from curriculum.cli.view.tables import MANY_ROWS, aligned, notes, share, table
from curriculum.compiler.compile import Compiled
from curriculum.compiler.summary import rates
from curriculum.config.evaluation_budget import LARGEST_SHARE
from curriculum.units import show_bytes, show_count, show_exact, show_seconds

WIDEST_CURVE: Final = 60
NARROWEST_CURVE: Final = 30
"""In characters; a curve in fewer shows nothing that its numbers do not."""


def plan_view(summary: Mapping[str, Any], compiled: Compiled, provenance: Mapping[str, str]) -> RenderableType:
    """`curriculum plan`: stages, curves, mixtures, costs and notes; fits 80 columns."""
    names = _names(summary["stages"])
    rows = (
        (
            name,
            show_exact(stage["steps"]),
            f"{_batch_range(stage)} seq",
            show_count(stage["batch_tokens"]),
            show_exact(stage["ends_at"]),
            rates(stage),
        )
        for stage, name in zip(summary["stages"], names, strict=True)
    )
    stages = table("stage", "#steps", "#batch", "#tokens", "#ends at", "learning rate", rows=rows)
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
        *_differences(summary["differs"]),
        *_memory(summary["stages"]),
        *_saves(summary["stages"]),
        _cost(summary["cost"]),
    ]
    lines = [f"{name}: {note}" for stage, name in zip(summary["stages"], names, strict=True) for note in stage["notes"]]
    lines += [
        line for key in ("evidence", "held_out_notes", "texts_changed", "shared_runs") for line in summary.get(key, [])
    ]
    if any(stage["tasks"] for stage in summary["stages"]):
        parts += [Text(), *_tasks(summary["stages"])]
        if not summary["harness_installed"]:
            lines.append(
                "tasks: lm-evaluation-harness is not installed here (`pip install 'curriculum[eval]'`): training runs "
                "without it, and `curriculum eval` measures the kept checkpoints later"
            )
    unmeasured = [row["dataset"] for row in summary.get("preparation", []) if row["measured_on"] is None]
    if unmeasured:
        lines.append(
            f"what preparing {', '.join(unmeasured)} takes is not measured: `{summary['sample_command']}` measures "
            "a sample"
        )
    return Group(*parts, *notes(lines))


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
    if compiled.about:
        text.append(f"  {compiled.about}")
    start = [summary["imported"]["from"]] if summary["imported"] else []
    text.append(f"\nlineage {' -> '.join([*start, *(stage.name for stage in compiled.stages)])}")
    for stage in compiled.stages:
        for event in stage.events:
            text.append(f"\n  {stage.name} {event}")
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
        if width < NARROWEST_CURVE or options.ascii_only:
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
    """`curriculum plan A B C`: every stage once, its lineages, passes, and what sharing saves."""
    names = list(summary["curricula"])
    parts: list[RenderableType] = [Text(", ".join(names), style="bold")]
    if summary["scale"] != 1:
        parts.append(Text(f"size `{summary['size']}` scales every length by {summary['scale']:g}", style="dim"))
    stages = table("stage", "#steps", "#from", "#to", "for")
    depth: dict[str | None, int] = {None: -1}
    for node in summary["tree"]:
        name = f"{node['curriculum']}/{node['stage']}"
        depth[name] = depth[node["parent"]] + 1
        shared_by = "all" if len(node["lineages"]) == len(names) > 1 else ", ".join(node["lineages"])
        leaving = [f"{name} to {show_count(at)}" for name, at in node["lineages"].items() if at < node["ends_at"]]
        stages.add_row(
            f"{'  ' * depth[name]}{name}",
            show_exact(node["steps"]),
            show_count(node["starts_at"]),
            show_count(node["ends_at"]),
            shared_by + (f" ({'; '.join(leaving)})" if leaving else ""),
        )
    parts += [Text(), stages]
    shown: dict[tuple[str, str], Mapping[str, Any]] = {}
    for name, plan in summary["curricula"].items():
        own = [s for s in plan["stages"] if (s["curriculum"], s["stage"]) not in shown]
        shown |= {(s["curriculum"], s["stage"]): s for s in own}
        if own:
            parts += [Text(f"\n{name}", style="bold"), _sources(own)]
            parts += _ramps(own, events=True)
    seen: list[Any] = []
    for name, plan in summary["curricula"].items():
        shape = [(row["position"], row["lr"], row["batch_tokens"]) for row in plan["curve"]]
        if shape not in seen:
            seen.append(shape)
            parts += [Text(), Text(name, style="dim"), Curves(plan["curve"])]
    parts += [Text(), *_memory(list(shown.values())), _cost(summary["cost"])]
    shared = _amounts(summary["saved"])
    parts.append(Text("saved by sharing  ", style="bold").append(", ".join(shared), style="not bold"))
    lines = dict.fromkeys(
        (f"{stage['curriculum']}/{stage['stage']}", note)
        for plan in summary["curricula"].values()
        for stage in plan["stages"]
        for note in stage["notes"]
    )
    shown_notes = [f"{where}: {note}" for where, note in lines]
    return Group(*parts, *notes([*shown_notes, *summary["shared_runs"]]))


def _ramps(stages: Sequence[Mapping[str, Any]], *, events: bool) -> list[RenderableType]:
    """The stages' ramps and, with `events`, what they skip and leave out."""
    lines: list[RenderableType] = []
    for stage, name in zip(stages, _names(stages), strict=True):
        if stage["ramp"]:
            lines.append(
                Text(
                    f"ramp in {name}: linear in share over {show_count(stage['ramp']['tokens'])} tokens, "
                    f"{show_exact(stage['ramp']['sequences'])} sequences, {show_exact(stage['ramp']['steps'])} steps"
                )
            )
        if events:
            lines += [Text(f"{name} {event}") for event in stage["events"]]
    return lines


def _tasks(stages: Sequence[Mapping[str, Any]]) -> list[RenderableType]:
    """What is measured when, by lm-evaluation-harness."""
    lines = (
        f"  {name}: {task} every {show_count(entry['every'])} tokens, at "
        f"{entry['times']} {'checkpoints that are' if entry['times'] != 1 else 'checkpoint that is'} kept"
        for stage, name in zip(stages, _names(stages), strict=True)
        for task, entry in stage["tasks"].items()
    )
    return [Text("tasks  measured after the last step, or by `curriculum eval`", style="bold"), *map(Text, lines)]


def _sources(stages: Sequence[Mapping[str, Any]]) -> Table | Text:
    columns = ("source", "#asked", "#got", "#tokens", "#passes", "first repeat")
    rows: list[tuple[str, ...]] = []
    for stage, name in zip(stages, _names(stages), strict=True):
        rows.append((name,))
        for source, entry in stage["sources"].items():
            before, after, repeat = entry["passes_before"], entry["passes_after"], entry["first_repeat"]
            row: tuple[str, ...] = (
                f"  {source}",
                share(entry["asked"]),
                share(entry["got"]),
                show_count(entry["tokens"]),
                f"{before:.2f} -> {after:.2f}" if before is not None else "size unknown",
                f"at {show_count(repeat['position'])}" if repeat else "",
            )
            rows.append(row)
    if len(rows) > MANY_ROWS:
        return Text("\n".join(aligned(columns, rows)), no_wrap=True, overflow="ellipsis")
    return table(*columns, rows=(row if len(row) > 1 else (Text(row[0], style="bold"),) for row in rows))


def _texts(summary: Mapping[str, Any], provenance: Mapping[str, str]) -> list[RenderableType]:
    lines: list[RenderableType] = [Text("text", style="bold")]
    costs = {row["dataset"]: row for row in summary.get("preparation", [])}
    for name, entry in summary["sources"].items():
        windows = f"{show_exact(entry['windows_a_pass'])} windows a pass" if entry["windows_a_pass"] else "size unknown"
        windows = "held out as a whole" if entry["probe"] else windows
        kind = f"{entry['text']} stands in" if entry["stand_in"] else "itself"
        ready = "" if entry["prepared"] else ", not prepared yet"
        lines.append(Text(f"  {name}: {kind}{ready}, {windows}"))
        if entry["declared_tokens"]:
            word = "assumed" if entry["assumed"] else "declared"
            origin = f": {entry['declared_from']}" if entry["declared_from"] else ""
            lines.append(Text(f"    {word} {show_count(entry['declared_tokens'])}{origin}", style="dim"))
        if entry["text"] in costs and costs[entry["text"]]["measured_on"] is not None:
            lines.append(Text(f"    {cost_line(costs[entry['text']])}", style="dim"))
        if provenance.get(entry["text"]):
            lines.append(Text(f"    {provenance[entry['text']]}", style="dim"))
    return lines


def _differences(rows: Sequence[Mapping[str, str]]) -> list[RenderableType]:
    """What is not only scaled, next to the full size."""
    cells = ((row["what"], row["here"], row["full_size"]) for row in rows)
    return [table("differs from full size", "here", "full size", rows=cells), Text()] if rows else []


_AT_TIMES = ("average", "update")
"""Kinds of memory that few stages need."""


def _memory(stages: Sequence[Mapping[str, Any]]) -> list[RenderableType]:
    """The peak of each stage on each GPU, by kind; nothing where no stage's is known."""
    peaks = [(stage["memory"], name) for stage, name in zip(stages, _names(stages), strict=True) if stage["memory"]]
    if not peaks:
        return []
    most, device = max(memory["bytes"] for memory, _ in peaks), peaks[0][0]["device_bytes"]
    unit, factor = ("GB", 10**9) if most >= 10**9 else ("MB", 10**6)
    average, update = ([kind] if any(kind in memory["kinds"] for memory, _ in peaks) else [] for kind in _AT_TIMES)
    shown = ["moments", *average, "gradients", "activations", "loss", *update]
    rows = table(f"memory, {unit}", "#micro-batch", "#peak", "#weights", *(f"#{kind}" for kind in shown))
    for memory, name in peaks:
        kinds = memory["kinds"]
        weights = kinds["weights"] + kinds["gathered_weights"]
        amounts = (memory["bytes"], weights, *(kinds.get(kind, 0) for kind in shown))
        times = f"{memory['micro_batches']} x {memory['micro_batch']}"
        rows.add_row(name, times, *(f"{amount / factor:.1f}" for amount in amounts))
    of = f"of each GPU; the most is {share(most / device)} of its {show_bytes(device)}" if device else "of each GPU"
    return [rows, Text(of, style="dim"), Text()]


def _saves(stages: Sequence[Mapping[str, Any]]) -> list[RenderableType]:
    """How saves use the memory of a node; nothing where it is not stated and a save copies less than a gigabyte."""
    most = max((stage["host_memory"] for stage in stages), key=lambda host: host["least_bytes"])
    if most["node_bytes"] is None and most["staging_bytes"] < 10**9:
        return []
    copied, least = show_bytes(most["staging_bytes"]), show_bytes(most["least_bytes"])
    beside = f" beside the {show_bytes(most['state_bytes'])} of training" if most["state_bytes"] else ""
    without = "are written without a copy, and training waits for them"
    if most["node_bytes"] is None:
        sentence = (
            f"saves copy {copied} into the memory of each node{beside}; with less than {least} of it they {without}"
        )
    elif most["copies"]:
        sentence = f"saves copy {copied} into the {show_bytes(most['node_bytes'])} of each node{beside}"
    else:
        sentence = f"saves {without}: a copy of {copied}{beside} takes a node of {least}"
    return [Text(sentence), Text()]


def _amounts(cost: Mapping[str, Any]) -> list[str]:
    """Updates, tokens, GPU-hours, money and storage, as far as they are known."""
    amounts = [f"{show_exact(cost['updates'])} updates", f"{show_count(cost['tokens'])} tokens"]
    if "parameters" in cost:
        amounts.append(f"{show_count(cost['parameters'])} parameters")
    if cost["gpu_hours"] is not None:
        length = f" ({cost['days']:.1f} days on {cost['gpus']})" if "days" in cost else ""
        amounts.append(f"{cost['gpu_hours']:,.1f} GPU-hours{length}")
    elif cost.get("days") is not None:
        amounts.append(f"about {show_seconds(cost['days'] * 86400)}")
    if cost["usd"] is not None:
        amounts.append(f"{cost['usd']:,.0f} USD")
    amounts.append(f"{show_bytes(cost['storage_bytes'])} of checkpoints")
    if cost["token_bytes"] is not None:  # None: some text is neither prepared nor declared
        amounts.append(f"{show_bytes(cost['token_bytes'])} of tokens")
    return amounts


def _cost(cost: Mapping[str, Any]) -> Group:
    parts = _amounts(cost)
    parts.append(f"{show_count(cost['tokens_at_risk'])} tokens at risk between saves")
    lines = [Text("cost  ", style="bold").append(", ".join(parts), style="not bold")]
    if cost.get("unsaved"):
        lines.append(Text(f"  measured: {cost['unsaved']}", style="yellow"))
    evaluated = [
        f"{show_exact(cost['evaluations'])} times",
        f"{show_count(cost['tokens_evaluated'])} tokens",
        f"{cost['evaluation_share']:.2%} of the compute",
    ]
    if cost["evaluation_seconds"] is not None:
        evaluated.append(show_seconds(cost["evaluation_seconds"]))
    lines.append(Text("  evaluated: " + ", ".join(evaluated)))
    if cost["evaluation_share"] > LARGEST_SHARE:
        advice = "a longer `every: {evaluate: …}` or fewer `held_out_windows: …` in the stage file take less"
        lines.append(Text(f"  more than {float(LARGEST_SHARE):.0%} of the compute: {advice}", style="yellow"))
    lines += [Text(f"  assumed: {line}", style="dim") for line in cost["assumptions"]]
    return Group(*lines)


def _batch_range(stage: Mapping[str, Any]) -> str:
    """The batch of a stage's first step, and of its last where it grows inside the stage."""
    first, changes = stage["batch_sequences"], stage["batch_changes"]
    return f"{first} -> {changes[-1]['batch_sequences']}" if changes else str(first)

"""What a person sees: tables and lines made of values computed elsewhere. Nothing is decided here."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from curriculum.diff import Parting
from curriculum.planner import Compiled, CompiledStage
from curriculum.shards.progress import read_progress
from curriculum.units import show_bytes, show_count, show_exact, show_seconds

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
    """`curriculum plan`: stages, curves, mixtures, costs and what to know before starting."""
    parts: list[RenderableType] = [_headline(summary, compiled)]
    stages = _table(
        ("stage", "left"),
        ("steps", "right"),
        ("batch", "right"),
        ("tokens", "right"),
        ("ends at", "right"),
        ("LR first", "right"),
        ("LR last", "right"),
    )
    for stage in summary["stages"]:
        stages.add_row(
            f"{stage['curriculum']}/{stage['stage']}",
            show_exact(stage["steps"]),
            f"{stage['batch_sequences']} seq = {show_exact(stage['batch_tokens'])}",
            show_count(stage["tokens"]),
            show_exact(stage["ends_at"]),
            f"{stage['lr_first']:.3g}",
            f"{stage['lr_last']:.3g}",
        )
    parts += [Text(), stages]
    parts.append(Text(f"learning rate  {_lr_line(compiled)}", style="dim"))
    sources = _table(
        ("stage", "left"),
        ("source", "left"),
        ("asked", "right"),
        ("got", "right"),
        ("tokens", "right"),
        ("passes", "right"),
        ("first repeat", "left"),
    )
    for stage in summary["stages"]:
        label = stage["stage"]
        for name, entry in stage["sources"].items():
            before, after = entry["passes_before"], entry["passes_after"]
            repeat = entry["first_repeat"]
            sources.add_row(
                label,
                name,
                share(entry["asked"]),
                share(entry["got"]),
                show_count(entry["tokens"]),
                f"{before:.2f} -> {after:.2f}" if before is not None else "size unknown",
                f"step {show_exact(repeat['step'])}" if repeat else "",
            )
            label = ""
        if stage["ramp"]:
            ramp = stage["ramp"]
            sources.add_row(
                "",
                f"ramp: linear in share over {show_count(ramp['tokens'])} tokens, {show_exact(ramp['sequences'])} sequences, {show_exact(ramp['steps'])} steps",
            )
    parts += [Text(), sources, Text(), _texts(summary, provenance), Text(), _cost(summary["cost"])]
    notes = [
        (f"{stage['curriculum']}/{stage['stage']}", note)
        for stage in summary["stages"]
        for note in stage["notes"]
    ]
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
    if compiled.scaled:
        text.append(
            f"\na rehearsal-sized plan: size `{summary['size']}` scales every length by {summary['scale']:g}; "
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
    return f"{sparkline(values)}  batch {' -> '.join(dict.fromkeys(str(s.plan.batch_sequences) for s in compiled.stages))} sequences"


def _texts(summary: Mapping[str, Any], provenance: Mapping[str, str]) -> Table:
    table = _table(("source", "left"), ("text", "left"), ("one pass", "right"), ("where it is from", "left"))
    for name, entry in summary["sources"].items():
        windows = (
            show_exact(entry["windows_a_pass"]) + " windows" if entry["windows_a_pass"] else "size unknown"
        )
        kind = "stand-in" if entry["stand_in"] else "itself"
        ready = "" if entry["prepared"] else ", not prepared yet"
        table.add_row(name, f"{entry['text']} ({kind}{ready})", windows, provenance.get(entry["text"], ""))
    return table


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
        f"step {show_exact(listing['step'])} of {listing['curriculum']}/{listing['stage']}: {len(listing['slots'])} sequences of "
        f"{listing['sequence_length']} tokens from {show_exact(listing['position'])} on, LR {listing['lr']:.4g}"
    )
    table = _table(
        ("slot", "right"), ("source", "left"), ("pass", "right"), ("window", "right"), ("documents", "left")
    )
    for slot in listing["slots"]:
        documents = ", ".join(document["id"] for document in slot.get("documents", []))
        table.add_row(
            str(slot["slot"]), slot["source"], str(slot["pass"]), show_exact(slot["window"]), documents
        )
        if "text" in slot:
            table.add_row("", "", "", "", Text(repr(slot["text"])[1:-1], style="dim"))
    parts: list[RenderableType] = [head, table]
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
        f"they part at step {show_exact(difference.step)} ({show_exact(difference.position)} tokens): {', '.join(difference.what)}"
    )


class Progress:
    """Shows a run as it happens: a live line on a terminal, plain lines elsewhere (one every few seconds)."""

    def __init__(self, console: Console, every_seconds: float = 5.0) -> None:
        self.console = console
        self.every_seconds = every_seconds
        self._live: Live | None = None
        self._stage: CompiledStage | None = None
        self._metrics: Path | None = None
        self._offset = 0
        self._last: dict[str, Any] = {}
        self._losses: dict[str, float] = {}
        self._printed = 0.0
        self._begun = 0.0
        self._begun_at = 0
        self._text: tuple[str, Path | None] | None = None

    # --- Listener ---

    def preparing(self, what: str, progress: Path | None) -> None:
        self._text = (what, progress)
        self._begun = time.monotonic()
        self.console.print(f"preparing {what}")
        self._open()

    def prepared(self, what: str) -> None:
        line = self._prepare_line()
        self._close()
        if line:
            self.console.print(line)
        self._text = None

    def compiled(self, compiled: Compiled) -> None:
        if compiled.scaled:
            self.console.print(
                f"size `{compiled.size_name}`: every length is scaled by {float(compiled.scale):g}. "
                f"The real one: curriculum run {compiled.curriculum} --size full --machine MACHINE",
                style="bold",
            )

    def skipped(self, stage: CompiledStage) -> None:
        self.console.print(f"{stage.name}  done, at {show_exact(stage.stop)} tokens")

    def begun(self, stage: CompiledStage, folder: Path, resumed_at: int) -> None:
        self._stage, self._metrics = stage, folder / "metrics.jsonl"
        self._offset, self._last, self._losses = 0, {}, {}
        self._begun, self._begun_at = time.monotonic(), resumed_at
        plan = stage.plan
        how = "goes on" if resumed_at > plan.start else "begins"
        steps = (stage.stop - resumed_at) // plan.batch_tokens
        self.console.print(
            f"{stage.name}  {how} at {show_exact(resumed_at)} tokens: {show_exact(steps)} steps of "
            f"{plan.batch_sequences} sequences, LR {plan.learning_rate.at(max(1, resumed_at)):.3g} -> {plan.learning_rate.at(stage.stop):.3g}"
        )
        self._open()

    def tick(self) -> None:
        if self._stage is not None:
            self._follow()
        line = self._line() if self._stage is not None else self._prepare_line()
        if not line:
            return
        if self._live is not None:
            self._live.update(Text(line))
        elif time.monotonic() - self._printed >= self.every_seconds:
            self._printed = time.monotonic()
            self.console.print(line)

    def ended(self, stage: CompiledStage, outcome: Mapping[str, Any]) -> None:
        self._follow()
        line = self._line()
        self._close()
        if line:
            self.console.print(line)
        self._stage = None

    # --- inside ---

    def _open(self) -> None:
        if self.console.is_terminal:
            self._live = Live(Text(""), console=self.console, refresh_per_second=8, transient=True)
            self._live.start()

    def _close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _follow(self) -> None:
        if self._metrics is None or not self._metrics.exists():
            return
        with self._metrics.open("rb") as file:
            if self._offset > self._metrics.stat().st_size:
                self._offset = 0
            file.seek(self._offset)
            data = file.read()
        whole, newline, _ = data.rpartition(b"\n")
        if not newline:
            return
        self._offset += len(whole) + 1
        for raw in whole.splitlines():
            line = json.loads(raw)
            if line["position"] <= self._begun_at:
                continue
            self._last = line
            for name, entry in line.get("sources", {}).items():
                if entry["tokens"]:
                    self._losses[name] = entry["loss"]

    def _line(self) -> str:
        stage, last = self._stage, self._last
        if stage is None or not last:
            return ""
        plan = stage.plan
        done = (last["position"] - plan.start) / max(1, stage.stop - plan.start)
        seconds = time.monotonic() - self._begun
        advanced = last["position"] - self._begun_at
        rate = advanced / seconds if seconds > 0 else 0.0
        left = (stage.stop - last["position"]) / rate if rate > 0 else 0.0
        losses = "  ".join(f"{name} {loss:.3f}" for name, loss in sorted(self._losses.items()))
        return (
            f"{stage.setting.stage} {done * 100:5.1f}%  {show_count(last['position'])} of {show_count(stage.stop)} tokens  "
            f"{last['tokens_per_second']:,.0f} tok/s  left {show_seconds(left)}  {losses}"
        )

    def _prepare_line(self) -> str:
        if self._text is None:
            return ""
        what, path = self._text
        if path is None:
            return ""
        so_far = read_progress(path)
        if not so_far.documents:
            return ""
        seconds = show_seconds(time.monotonic() - self._begun)
        return f"  {what}: {show_exact(so_far.documents)} documents, {show_count(so_far.tokens)} tokens, {seconds}"

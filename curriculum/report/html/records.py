"""Sections of a report on the run: the mixture as trained, lineage, anomalies, environments, how to reproduce it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any

from curriculum.artifacts.environment import describe_changes
from curriculum.report.html import gather, markup, plan_charts
from curriculum.report.html.gather import ReportData, ReportStage
from curriculum.report.html.sections import WIDTHS, line_legend, line_styles
from curriculum.report.svg import shapes, swatches
from curriculum.units import show_bytes, show_count, show_exact, show_seconds

KINDS = {"train": "training", "evaluate": "held-out loss", "harness": "tasks", gather.UNKNOWN: ""}
"""Names of the job kinds in a stage's folder."""
NAMED = {
    "accepted": "changes accepted",
    "changed": "changed since the previous attempt",
    "code": "digest of the code",
    "flops_convention": "FLOPs counted as",
    "flops_per_token": "FLOPs a token",
    "groups": "groups a step is cut into",
    "micro_batch": "micro-batch, sequences",
    "peak_flops": "peak of a device, FLOP/s",
    "ranks": "processes",
    "threads": "threads of a process",
    "training_code": "digest of the training code",
}
"""What an environment's values are called, with their units; others by their own names."""
MOST_DOCUMENTS = 8
"""Of an anomaly that are named."""
MOST_SOURCES = 40
"""Of a stage in the table of mixtures."""


def mixture(data: ReportData) -> str:
    """Planned and trained mixture of each stage, tokens and epochs (`passes`), and the origin of the sources."""
    style = plan_charts.styles(data.sources)
    most = data.rows_of_a_stage(MOST_SOURCES)
    rows: list[list[markup.Cell]] = []
    for stage in data.stages.values():
        rows += _mixture_rows(stage, gather.realised(data, stage), style, data.measured, most)
    measured = ("#trained, tokens", "share trained", "#off by") if data.measured else ("#planned share",)
    columns = ("source", "#asked", "#planned, tokens", *measured, "#passes", "#at most")
    caption = "Planned: the plan's arithmetic"
    if data.measured:
        caption += ". Trained: the count kept while training, at its last checkpoint."
    texts = [
        [
            text.name,
            text.dataset if text.stand_in else "itself",
            show_exact(text.windows) if text.windows else "held out as a whole" if text.probe else "unknown",
            data.origins.get(text.dataset, ""),
            markup.code(text.digest[:12]) if text.digest else "not prepared",
        ]
        for text in data.texts[:MOST_SOURCES]
    ]
    sources = markup.table(
        "The text of each source at this size"
        + (f"; {len(data.texts) - MOST_SOURCES} more are left out here" if len(data.texts) > MOST_SOURCES else ""),
        ("source", "text", "#sequences a pass", "~from, licence", "digest"),
        texts,
    )
    lead = "Asked is what the mixture file says; planned follows by arithmetic, ramps included. "
    if data.measured:
        lead += "The bar is the share as trained, its tick the planned one; off by is in sequences. "
    lead += "Passes count over the whole lineage."
    return markup.section("mixture", "Mixture in numbers", lead, [markup.table(caption, columns, rows), sources])


def _mixture_rows(
    stage: ReportStage,
    record: tuple[int, Mapping[str, tuple[int, int]]] | None,
    style: Mapping[str, int],
    measured: bool,
    most_sources: int,
) -> list[list[markup.Cell]]:
    """A stage's heading and its sources; with `measured` also the trained counts next to the planned ones."""
    length = stage.compiled.plan.sequence_length
    entries: Mapping[str, Mapping[str, Any]] = stage.plan["sources"]
    heading = f"{stage.name}: {show_count(stage.stop - stage.start)} tokens"
    if stage.differs:
        heading += "; nothing to compare, the files have changed since"
    elif measured and record is None:
        heading += "; no checkpoint yet"
    elif record is not None and record[0] < stage.stop:
        heading += f"; both counts up to {show_exact(record[0])} tokens, the position of its last record"
    rows: list[list[markup.Cell]] = [[heading]]
    counted = record[1] if record else {}
    planned_all, trained_all = (sum(counts[side] for counts in counted.values()) or 1 for side in (0, 1))
    names = sorted({*entries, *counted}, key=lambda name: (-entries.get(name, {}).get("tokens", 0), name))
    for name in names[:most_sources]:
        entry = entries.get(name, {})
        stated = f"{entry['asked'] * 100:.4g} %" if entry else ""
        tokens = entry.get("tokens", 0)
        middle: list[markup.Cell] = ["", "", ""] if measured else [f"{entry.get('got', 0) * 100:.4g} %"]
        if name in counted:
            planned, trained = counted[name]
            tokens, share = planned * length, trained / trained_all
            bar = swatches.share_bar(planned / planned_all, share, style.get(name, shapes.SOURCE_STYLES - 1))
            middle = [
                show_exact(trained * length),
                markup.Raw(f"{bar} {share * 100:.4g} %"),
                "exact" if trained == planned else f"{trained - planned:+,}",
            ]
        passes = most = ""
        if entry.get("passes_after") is not None:
            passes = f"{entry['passes_before']:.2f} → {entry['passes_after']:.2f}"
        if entry.get("passes_allowed") is not None:
            most = f"{entry['passes_allowed']:g}"
        rows.append([name, stated, show_exact(tokens), *middle, passes, most])
    if len(names) > most_sources:
        rows.append([f"{len(names) - most_sources} sources more, with fewer tokens, are left out here"])
    return rows


def tasks(data: ReportData) -> str | None:
    """What lm-evaluation-harness measured; None where nothing was."""
    rows: list[list[markup.Cell]] = []
    versions: set[str] = set()
    for stage in data.stages.values():
        every: list[list[markup.Cell]] = []
        for position, scores in stage.scores.items():
            for score in scores.values():
                versions.add(score.harness)
                error = "" if score.error is None else f"± {score.error:.4f}"
                shots = "" if score.num_fewshot is None else str(score.num_fewshot)
                documents = show_exact(score.documents) + (", the first" if score.limit is not None else "")
                documents += f", {show_exact(score.cut)} cut" if score.cut else ""
                value = f"{score.value:.4f}"
                every.append(
                    [stage.name, show_exact(position), score.task, score.metric, shots, documents, value, error]
                )
        rows += markup.thinned(every, data.rows_of_a_stage(80))
    if not rows:
        return None
    columns = ("stage", "#tokens", "task", "metric", "#shots", "#documents", "#score", "#standard error")
    lead = f"Measured on exported checkpoints by lm-eval {', '.join(sorted(versions))}, on its own scales."
    if any(score.cut for stage in data.stages.values() for named in stage.scores.values() for score in named.values()):
        lead += " Documents that are cut were longer than the model's context and lost their beginning."
    return markup.section("tasks", "Tasks", lead, [markup.table("Scores of tasks", columns, rows)])


def lineage(data: ReportData) -> str:
    """The tree of the curricula and their checkpoints."""
    styles = line_styles(data)
    stages = dict(data.stages)
    pictures = [plan_charts.tree(data.lineages, stages, styles, width, f"tree-{width}") for width in WIDTHS]
    rows: list[list[markup.Cell]] = []
    for stage in data.stages.values():
        kept: list[list[markup.Cell]] = [
            [
                stage.name,
                show_exact(c.position),
                str(c.generation),
                markup.code(c.name),
                ", ".join(stage.pinned.get(c.position, ())),
            ]
            for c in stage.checkpoints
        ]
        rows += markup.thinned(kept, data.rows_of_a_stage(40))
    caption = "A solid line is trained, a dotted one planned; a dot is a checkpoint that is kept."
    if data.shared:
        caption += f" Trained once and shared by all: {data.shared}."
    parts = [line_legend(data), markup.figure(pictures, caption)]
    if rows:
        columns = ("stage", "#tokens", "#generation", "checkpoint", "kept for")
        parts.append(markup.details("Checkpoints kept", markup.table("Checkpoints kept", columns, rows)))
    return markup.section("lineage", "Lineage", "", parts)


def environment(data: ReportData) -> str:
    """Attempts with their environments and outcomes; throughput, skipped steps, fingerprints of the plans."""
    letters: dict[str, tuple[str, Mapping[str, Any]]] = {}
    attempts: list[list[markup.Cell]] = []
    for stage in data.stages.values():
        for attempt in stage.attempts[-data.rows_of_a_stage(40) :]:
            where = "unknown" if attempt.kind in (gather.TRAINING, gather.UNKNOWN) else ""
            if attempt.environment is not None:
                spelled = repr(sorted(attempt.environment.items(), key=lambda e: str(e[0])))
                letter = chr(ord("A") + len(letters)) if len(letters) < 26 else f"A{len(letters)}"
                where = letters.setdefault(spelled, (letter, attempt.environment))[0]
            at = "" if attempt.position is None else show_exact(min(attempt.position, stage.stop))
            if attempt.position is not None and attempt.position > stage.stop:
                at += ", continued"
            kind = KINDS.get(attempt.kind, attempt.kind)
            attempts.append([stage.name, attempt.number, kind, attempt.outcome, at, where])
    speed: list[list[markup.Cell]] = []
    for stage in data.stages.values():
        t = stage.training
        if t.rate is None or t.lowest_rate is None:
            continue
        skipped = max(t.skipped, stage.skipped_steps)
        waiting = f"{100 * t.data_seconds / t.seconds:.2g} %" if t.seconds else ""
        speed.append(
            [
                stage.name,
                f"{t.rate:,.0f}",
                f"{t.lowest_rate:,.0f}",
                show_seconds(t.seconds),
                waiting,
                show_exact(stage.restarts),
                show_exact(skipped),
                "" if t.memory is None else show_bytes(t.memory),
            ]
        )
    parts = []
    if speed:
        columns = ("stage", *("#median", "#slowest 5 %", "#training time", "#data", "#restarts", "#skipped", "#memory"))
        caption = (
            "Throughput in tokens/s (slowest 5 %: a twentieth of the steps is slower); "
            "the training time holds steps and saves, no evaluations; data is its share that waits for tokens; "
            "a skipped step is one whose gradient was not finite, or an outlier; "
            "the memory is the peak of rank 0's GPU, or of its process on a CPU"
        )
        parts.append(markup.table(caption, columns, speed))
    if attempts:
        heads = ("stage", "attempt", "job", "outcome", "#reached, tokens", "environment")
        parts.append(markup.table("Attempts: each launch of a stage's job", heads, attempts))
    if letters:
        parts.append(_environments(list(letters.values())))
    prints: list[list[markup.Cell]] = []
    for stage in data.stages.values():
        ran: markup.Cell = "not started" if stage.ran_fingerprint is None else "the same"
        if stage.differs:
            ran = markup.code(stage.ran_fingerprint)
        prints.append([stage.name, markup.code(stage.compiled.plan.fingerprint), ran])
    caption = "Fingerprints of the plans: everything that decides what is trained"
    parts.append(markup.table(caption, ("stage", "~of the files", "~of what ran"), prints))
    heading = "How it ran" if speed or attempts else "Fingerprints"
    return markup.section("environment", heading, "", parts)


def _environments(environments: list[tuple[str, Mapping[str, Any]]]) -> str:
    shown = environments[:8]
    keys = sorted({str(key) for _, environment in shown for key in environment})[:40]
    rows = [[NAMED.get(key, key), *(_value(environment.get(key)) for _, environment in shown)] for key in keys]
    filled = sorted((row for row in rows if any(row[1:])), key=lambda row: row[0].lower())
    return markup.table("Environments", ("", *(f"~{letter}" for letter, _ in shown)), filled)


def _value(value: object) -> str:
    """A readable value of an environment; empty for a missing or empty one."""
    if value is None or value in ("", [], {}):
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return show_exact(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return ", ".join(map(str, value))[:200]
    if isinstance(value, dict) and all(isinstance(pair, list) and len(pair) == 2 for pair in value.values()):
        return describe_changes(value)[:200]
    caption = str(value)
    return caption[:12] if re.fullmatch("[0-9a-f]{64}", caption) else caption[:200]


def anomalies(data: ReportData) -> str | None:
    """Loss spikes and gradients that were not finite; None where there were none."""
    rows: list[list[markup.Cell]] = []
    for stage in data.stages.values():
        every: list[list[markup.Cell]] = [
            [
                stage.name,
                show_exact(anomaly.step),
                show_exact(anomaly.position),
                anomaly.kind,
                f"{anomaly.loss:.3f}",
                "" if anomaly.median is None else f"{anomaly.median:.3f}",
                f"{anomaly.grad_norm:.3g}",
                ", ".join(anomaly.documents[:MOST_DOCUMENTS]),
                markup.code(anomaly.skip_entry) if anomaly.skip else "",
            ]
            for anomaly in stage.anomalies
        ]
        rows += markup.thinned(every, data.rows_of_a_stage(40))
    if not rows:
        return None
    heads = ("stage", "#step", "#tokens", "anomaly", "#loss", "#median before", "#gradient norm")
    table = markup.table("Anomalies", (*heads, "~documents, worst first", "~to leave it out"), rows)
    lead = (
        "Steps whose loss jumped, or whose gradient was not finite (no update was made then). To train without "
        "a step's data, branch before it with its `skip`."
    )
    return markup.section("anomalies", "Anomalies", lead, [table])


def reproduce(data: ReportData) -> str:
    """The commands that reproduce the run, and the files that they read."""
    size = f" --size {data.size}"
    names = [shlex.quote(lineage.curriculum) for lineage in data.lineages]
    commands = [f"curriculum {verb} {name}{size}" for name in names for verb in ("plan", "run", "verify")]
    commands.append(f"curriculum report {' '.join(names)}{size}")
    seeds = sorted({stage.compiled.plan.seed for stage in data.stages.values()})
    tokenizer = data.lineages[0].stages[0].plan.tokenizer
    digest = tokenizer.get("digest")
    caption = f"Seed {', '.join(map(str, seeds))}; tokenizer {data.lineages[0].tokenizer}"
    caption += f" ({str(digest)[:12]})" if digest else " (not prepared yet)"
    caption += ". In a project folder with the files below:"
    parts = [
        markup.paragraph(caption, "lead"),
        markup.preformatted("\n".join(commands)),
        "<h3>The files, as they are now</h3>",
    ]
    for file in data.files:
        text = file.text
        if file.left_out:
            text += f"\n… {show_exact(file.left_out)} characters more"
        parts.append(
            markup.details(file.path, markup.preformatted(text) + markup.paragraph(f"SHA-256 {file.digest}", "kind"))
        )
    return markup.section("reproduce", "Reproduce it", "", parts)

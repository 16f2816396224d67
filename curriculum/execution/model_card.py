"""The model card of an export, in Markdown: its lineage, text, losses, licences, model and identity."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from curriculum.artifacts.stage_folder import StageFolder, attempts_in
from curriculum.compiler.compile import Compiled, CompiledStage
from curriculum.compiler.prepared_text import PreparedText
from curriculum.compiler.summary import stage_summary
from curriculum.config.project import Project
from curriculum.plan.model import ModelConfig
from curriculum.runs import held_out
from curriculum.units import show_count, show_exact


@dataclass(frozen=True, kw_only=True)
class Identity:
    """The fingerprints of an export, and the command that made it."""

    address: str
    command: str
    version: str
    dtype: str
    position: int
    checkpoint: str
    weights: str
    history: str
    tokenizer: str
    imported: Mapping[str, Any] | None = None
    environment: Mapping[str, Any] = field(default_factory=dict)


def card(project: Project, compiled: Compiled, texts: PreparedText, identity: Identity) -> str:
    """README.md for the weights at the end of `compiled`, a lineage that ends at the exported checkpoint."""
    trained = compiled.stages if identity.position > 0 else ()
    sections = [
        _front(identity),
        _heading(compiled, identity),
        _lineage(trained, identity),
        _exposure(trained),
        _losses(project, compiled, trained),
        _sources(compiled, texts, trained),
        _model(compiled, identity),
        _identity(identity),
        _reproduction(compiled, identity),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def environment(folder: StageFolder) -> dict[str, Any]:
    """Versions and hardware of the stage's newest attempt that recorded them."""
    records = [
        attempt.environment for attempt in attempts_in(folder.attempts) if attempt.environment.exists()
    ]
    return json.loads(records[-1].read_bytes()) if records else {}


def _front(identity: Identity) -> str:
    tags = ["llama", "curriculum", *(["continued-pretraining"] if identity.imported else [])]
    lines = ["library_name: transformers", "pipeline_tag: text-generation", f"tags: [{', '.join(tags)}]"]
    return "\n".join(["---", *lines, "---"])


def _heading(compiled: Compiled, identity: Identity) -> str:
    size = f", size `{compiled.size_name}`" if compiled.scaled else ""
    lines = [f"# {identity.address} at {show_exact(identity.position)} tokens{size}"]
    about = compiled.stages[-1].setting.document.value.get("about")
    if about:
        lines += ["", _plain(about)]
    if compiled.scaled:
        count = show_count(ModelConfig.from_json(compiled.stages[-1].plan.model).parameters)
        lines += [
            "",
            f"> **A {compiled.size_name}, not the real thing.** Every length of the curriculum was scaled by "
            f"{float(compiled.scale):g}"
            + (
                ", other text stood in for its corpora"
                if any(choice.stand_in for choice in compiled.sources.values())
                else ""
            )
            + f", and the model has {count} parameters. It shows "
            "that the recipe runs; it is of no use as a language model.",
        ]
    lines += [
        "",
        f"A base model in `{identity.dtype}`, as `LlamaForCausalLM`; not tuned to follow instructions.",
    ]
    return "\n".join(lines)


def _lineage(trained: Sequence[CompiledStage], identity: Identity) -> str:
    lines = ["## Lineage", ""]
    if identity.imported is not None:
        lines += [
            f"Starts from the weights of `{_plain(identity.imported['name'])}` (a Hugging Face directory, digest "
            f"`{identity.imported['digest']}`), whose tokenizer it keeps; its own terms still apply.",
            "",
        ]
    if not trained:
        return "\n".join([*lines, "No step was trained: these are the imported weights."])
    rows = []
    for stage in trained:
        entry = stage_summary(stage)
        rows.append(
            (
                stage.name,
                stage.setting.mixture,
                show_exact(entry["steps"]),
                show_exact(entry["tokens"]),
                show_exact(entry["ends_at"]),
                f"{show_exact(entry['batch_sequences'])} x {show_exact(stage.plan.sequence_length)}",
                f"{entry['lr_first']:.3g} -> {entry['lr_last']:.3g}",
            )
        )
    heads = ("stage", "mixture", "steps", "tokens", "ends at", "batch (sequences x tokens)", "learning rate")
    lines += _table(heads, rows, right={2, 3, 4})
    optimizer = trained[-1].plan.optimizer
    decay = "all parameters" if optimizer["decay"] == "all" else "matrices only"
    return "\n".join(
        [
            *lines,
            "",
            f"Optimizer: {optimizer['name']}, betas {optimizer['betas'][0]:g} and {optimizer['betas'][1]:g}, weight "
            f"decay {optimizer['weight_decay']:g} on {decay}, gradients clipped at {optimizer['clip_norm']:g}. "
            "Positions count tokens from the root; a batch is taken per optimizer step.",
        ]
    )


def _exposure(trained: Sequence[CompiledStage]) -> str:
    if not trained:
        return ""
    rows = []
    for stage in trained:
        entry = stage_summary(stage)
        for name, source in entry["sources"].items():
            before, after = source["passes_before"], source["passes_after"]
            rows.append(
                (
                    stage.name,
                    name,
                    f"{source['asked']:.2%}",
                    f"{source['got']:.2%}",
                    show_exact(source["tokens"]),
                    f"{before:.3f} -> {after:.3f}" if before is not None else "",
                )
            )
    heads = ("stage", "source", "share asked", "share got", "tokens", "passes over it")
    note = "Shares got differ from those asked while a ramp moves them, and by rounding to whole sequences."
    return "\n".join(["## What it read", "", *_table(heads, rows, right={2, 3, 4, 5}), "", note])


def _losses(project: Project, compiled: Compiled, trained: Sequence[CompiledStage]) -> str:
    rows = [row for row in held_out.edges(project, compiled) if row["loss"]] if trained else []
    if not rows:
        return ""
    sources = sorted({name for row in rows for name in row["loss"]})
    shown = [
        (
            row["label"],
            show_exact(row["position"]),
            *(f"{row['loss'][name]:.3f}" if name in row["loss"] else "" for name in sources),
        )
        for row in rows
    ]
    right = set(range(1, 2 + len(sources)))
    table = _table(("at", "tokens", *sources), shown, right=right)
    return "\n".join(["## Held-out loss (nats a token)", "", *table])


def _sources(compiled: Compiled, texts: PreparedText, trained: Sequence[CompiledStage]) -> str:
    read = {name for stage in trained for name in stage_summary(stage)["sources"]}
    if not read:
        return ""
    origins = texts.provenance_lines()
    rows = []
    for name, choice in compiled.sources.items():
        if name in read:
            entry = texts.project.sources.sources[choice.dataset]
            stands = f"`{choice.dataset}`, standing in" if choice.stand_in else "itself"
            origin = origins.get(choice.dataset, "").removesuffix(f"; {entry.licence}")
            rows.append((name, stands, _plain(origin), _plain(entry.licence or "not stated")))
    return "\n".join(
        ["## Text and licences", "", *_table(("source", "text", "from", "licence"), rows), "", _NO_LICENCE]
    )


_NO_LICENCE = "No licence of the weights follows from this table; whoever publishes them chooses one."


def _model(compiled: Compiled, identity: Identity) -> str:
    model = compiled.stages[-1].plan.model
    shown = {key: value for key, value in model.items() if value is not None}
    if identity.imported is not None:
        shown["max_position_embeddings"] = identity.imported["model"]["max_position_embeddings"]
    rows = [(f"`{key}`", f"`{json.dumps(value, sort_keys=True)}`") for key, value in shown.items()]
    return "\n".join(
        [
            "## Model",
            "",
            f"{show_exact(ModelConfig.from_json(model).parameters)} parameters.",
            "",
            *_table(("number", "value"), rows),
            "",
            "Text was encoded without a mark at its beginning, each document ended by the end-of-text mark; a mark's "
            "name inside a text was encoded as ordinary text.",
        ]
    )


def _identity(identity: Identity) -> str:
    rows = [
        ("fingerprint of all that decided it", f"`{identity.history}`"),
        ("checkpoint", f"`{identity.checkpoint}`"),
        ("digest of its weights", f"`{identity.weights}`"),
        ("tokenizer (SHA-256 of its file)", f"`{identity.tokenizer}`"),
        ("curriculum", f"version {identity.version}"),
    ]
    rows += [
        (key, _plain(str(identity.environment[key])))
        for key in ("torch", "python", "device", "ranks")
        if key in identity.environment
    ]
    return "\n".join(["## Identity", "", *_table(("what", "value"), rows)])


def _reproduction(compiled: Compiled, identity: Identity) -> str:
    size = f" --size {compiled.size_name}"
    return "\n".join(
        [
            "## How to make it again",
            "",
            "In the project that it comes from:",
            "",
            "```bash",
            f"curriculum plan {compiled.curriculum}{size}     # what will be done, before it is done",
            f"curriculum run {compiled.curriculum}{size}",
            identity.command,
            "```",
            "",
            "The fingerprint above is that of the plan up to here; the same plan reads the same tokens in the same "
            "steps.",
        ]
    )


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], right: set[int] | None = None) -> list[str]:
    """A Markdown table; columns numbered in `right` are aligned right."""
    rule = ["---:" if at in (right or ()) else "---" for at in range(len(heads))]
    return [f"| {' | '.join(row)} |" for row in (heads, rule, *rows)]


def _plain(text: str) -> str:
    """Text of a project's files in one cell: no line break, no cell border, no HTML."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")

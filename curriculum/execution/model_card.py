"""The model card of an export, in Markdown: its lineage, text, losses, licences, model and identity."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from curriculum.analysis import ngram_overlap
from curriculum.artifacts import huggingface
from curriculum.artifacts.stage_folder import StageFolder, attempts_in
from curriculum.compiler.compile import Compiled, CompiledStage
from curriculum.compiler.prepared_text import PreparedText
from curriculum.compiler.summary import rates, stage_summary
from curriculum.config.project import Project
from curriculum.data.manifest import TRAIN
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
    trainer: str | None = None  # of another trainer's checkpoint, its name
    architecture: str = "LlamaForCausalLM"
    imported: Mapping[str, Any] | None = None
    environment: Mapping[str, Any] = field(default_factory=dict)


def card(project: Project, compiled: Compiled, texts: PreparedText, identity: Identity) -> str:
    """README.md for the weights at the end of `compiled`, a lineage that ends at the exported checkpoint."""
    trained = compiled.stages if identity.position > 0 else ()
    blocks = [
        *_heading(compiled, identity),
        *_lineage(trained, identity),
        *_exposure(trained),
        *_losses(project, compiled, trained),
        *_sources(compiled, texts, trained),
        *_overlap(project, compiled, texts, trained),
        *_model(compiled, identity),
        *_identity(identity),
        *_reproduction(compiled, identity),
    ]
    return "\n\n".join(blocks) + "\n"


def environment(folder: StageFolder) -> dict[str, Any]:
    """Versions and hardware of the stage's newest attempt that recorded them."""
    records = [attempt.environment for attempt in attempts_in(folder.attempts) if attempt.environment.exists()]
    return json.loads(records[-1].read_bytes()) if records else {}


def _heading(compiled: Compiled, identity: Identity) -> Iterator[str]:
    family = huggingface.config.family_of(compiled.stages[-1].plan.model)
    if identity.imported is not None:
        family = str(identity.imported["config"]["model_type"])
    tags = [*([family] if family else []), "curriculum", *(["continued-pretraining"] if identity.imported else [])]
    yield f"---\nlibrary_name: transformers\npipeline_tag: text-generation\ntags: [{', '.join(tags)}]\n---"
    size = f", size `{compiled.size_name}`" if compiled.scaled else ""
    yield f"# {identity.address} at {show_exact(identity.position)} tokens{size}"
    if compiled.about:
        yield _plain(compiled.about)
    if compiled.scaled:
        count = show_count(ModelConfig.from_json(compiled.stages[-1].plan.model).parameters)
        stand_ins = any(choice.stand_in for choice in compiled.sources.values())
        yield (
            f"> **A {compiled.size_name}, not the real thing.** Every length of the curriculum was scaled by "
            f"{float(compiled.scale):g}{', other text stood in for its corpora' if stand_ins else ''}, and the model "
            f"has {count} parameters. It shows that the recipe runs; it is of no use as a language model."
        )
    yield f"A base model in `{identity.dtype}`, as `{identity.architecture}`; not tuned to follow instructions."
    if identity.trainer is not None:
        yield (
            f"Saved by the trainer `{identity.trainer}`, which was given the order and the learning rates below; "
            "model, optimizer and precision are stated here as they were planned."
        )


def _lineage(trained: Sequence[CompiledStage], identity: Identity) -> Iterator[str]:
    yield "## Lineage"
    if identity.imported is not None:
        yield (
            f"Starts from the weights of `{_plain(identity.imported['name'])}` (a Hugging Face directory, digest "
            f"`{identity.imported['digest']}`), whose tokenizer it keeps; its own terms still apply."
        )
    if not trained:
        yield "No step was trained: these are the imported weights."
        return
    rows = [
        (
            stage.name,
            stage.setting.mixture,
            show_exact(summary["steps"]),
            show_exact(summary["tokens"]),
            show_exact(summary["ends_at"]),
            f"{' -> '.join(show_exact(n) for n in sorted({b for _, b in stage.batches}))} x "
            f"{show_exact(stage.plan.sequence_length)}",
            rates(summary),
        )
        for stage, summary in zip(trained, map(stage_summary, trained), strict=True)
    ]
    heads = ("stage", "mixture", "steps", "tokens", "ends at", "batch (sequences x tokens)", "learning rate")
    yield _table(heads, rows, numbers=range(2, 5))
    optimizer = trained[-1].plan.optimizer
    decay = "all parameters" if optimizer["decay"] == "all" else "matrices only"
    rule = optimizer.get("skip_outliers")
    kept = ", a moving average of the weights kept beside them" if optimizer.get("ema") is not None else ""
    skipped = f", skipped from {rule['deviations']:g} deviations above the last {rule['window']} norms" if rule else ""
    yield (
        f"Optimizer: {optimizer['name']}, betas {optimizer['betas'][0]:g} and {optimizer['betas'][1]:g}, weight "
        f"decay {optimizer['weight_decay']:g} on {decay}, gradients clipped at {optimizer['clip_norm']:g}{skipped}"
        f"{kept}. Positions count tokens from the root; a batch is taken per optimizer step."
    )


def _exposure(trained: Sequence[CompiledStage]) -> Iterator[str]:
    if not trained:
        return
    rows = []
    for stage in trained:
        for name, source in stage_summary(stage)["sources"].items():
            before, after = source["passes_before"], source["passes_after"]
            epochs = f"{before:.3f} -> {after:.3f}" if before is not None else ""
            shares = (f"{source['asked']:.2%}", f"{source['got']:.2%}")
            rows.append((stage.name, name, *shares, show_exact(source["tokens"]), epochs))
    yield "## What it read"
    heads = ("stage", "source", "share asked", "share got", "tokens", "passes over it")
    yield _table(heads, rows, numbers=range(2, 6))
    yield "Shares got differ from those asked while a ramp moves them, and by rounding to whole sequences."


def _losses(project: Project, compiled: Compiled, trained: Sequence[CompiledStage]) -> Iterator[str]:
    edges = [edge for edge in held_out.edges(project, compiled) if edge["loss"]] if trained else []
    if not edges:
        return
    sources = sorted({name for edge in edges for name in edge["loss"]})
    rows = []
    for edge in edges:
        losses = (f"{edge['loss'][name]:.3f}" if name in edge["loss"] else "" for name in sources)
        rows.append((edge["label"], show_exact(edge["position"]), *losses))
    yield "## Held-out loss (nats a token)"
    yield _table(("at", "tokens", *sources), rows, numbers=range(1, 2 + len(sources)))


def _sources(compiled: Compiled, texts: PreparedText, trained: Sequence[CompiledStage]) -> Iterator[str]:
    names = {name for stage in trained for name in stage_summary(stage)["sources"]}
    if not names:
        return
    origins = texts.provenance_lines()
    rows = []
    for name, choice in compiled.sources.items():
        if name in names:
            licence = texts.project.sources.sources[choice.dataset].licence
            text = f"`{choice.dataset}`, standing in" if choice.stand_in else "itself"
            origin = origins.get(choice.dataset, "").removesuffix(f"; {licence}")
            rows.append((name, text, _plain(origin), _plain(licence or "not stated")))
    yield "## Text and licences"
    yield _table(("source", "text", "from", "licence"), rows)
    yield "No licence of the weights follows from this table; their publisher chooses one."


def _overlap(
    project: Project, compiled: Compiled, texts: PreparedText, trained: Sequence[CompiledStage]
) -> Iterator[str]:
    """What `curriculum overlap` found of the text, up to the exported position; nothing where it was not asked."""
    readings = list(ngram_overlap.readings(project, compiled, texts)) if trained else []
    if not readings:
        return
    rows = []
    for record, stages in readings:
        train = texts.manifests()[record.dataset].splits[TRAIN]
        read = "not counted" if stages is None else show_exact(sum(stage["readings"] for stage in stages))
        rows.append(
            (
                f"`{record.dataset}`",
                _plain(record.reference),
                str(record.ngram),
                f"{show_exact(record.documents)} of {show_exact(train.documents)}",
                show_exact(record.tokens),
                f"{show_exact(record.items)} of {show_exact(record.of_items)}",
                read,
            )
        )
    yield "## Overlap of the training text"
    heads = ("source", "shares with", "run", "documents", "tokens", "items found", "windows read")
    yield _table(heads, rows, numbers=range(2, 7))
    yield (
        "Documents that share a run of so many tokens with a text, exactly; how often windows with any of them were "
        "read up to here. Nothing is known of what the text was not compared with."
    )


def _model(compiled: Compiled, identity: Identity) -> Iterator[str]:
    model = compiled.stages[-1].plan.model
    numbers = {key: value for key, value in model.items() if value is not None}
    if identity.imported is not None:
        positions = identity.imported["model"]["max_position_embeddings"]
        numbers["max_position_embeddings"] = max(positions, numbers["max_position_embeddings"])
    rows = [(f"`{key}`", f"`{json.dumps(value, sort_keys=True)}`") for key, value in numbers.items()]
    yield "## Model"
    yield f"{show_exact(ModelConfig.from_json(model).parameters)} parameters."
    yield _table(("number", "value"), rows)
    yield (
        "Text was encoded without a special token at its beginning, each document ended by the end-of-text token; the "
        "name of a special token inside a text was encoded as ordinary text."
    )


def _identity(identity: Identity) -> Iterator[str]:
    rows = [
        ("fingerprint of all that decided it", f"`{identity.history}`"),
        ("checkpoint", f"`{identity.checkpoint}`"),
        ("digest of its weights", f"`{identity.weights}`"),
        ("tokenizer (SHA-256 of its file)", f"`{identity.tokenizer}`"),
        ("curriculum", f"version {identity.version}"),
    ]
    keys = [key for key in ("torch", "python", "device", "ranks") if key in identity.environment]
    rows += [(key, _plain(str(identity.environment[key]))) for key in keys]
    yield "## Identity"
    yield _table(("what", "value"), rows)


def _reproduction(compiled: Compiled, identity: Identity) -> Iterator[str]:
    arguments = f"{compiled.curriculum} --size {compiled.size_name}"
    yield "## How to make it again"
    yield "In the project that it comes from:"
    plan = f"curriculum plan {arguments}     # what will be done, before it is done"
    yield f"```bash\n{plan}\ncurriculum run {arguments}\n{identity.command}\n```"
    yield (
        "The fingerprint above is that of the plan up to here; the same plan reads the same tokens in the same steps."
    )


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """A Markdown table; the columns `numbers` are aligned right."""
    rule = ["---:" if column in numbers else "---" for column in range(len(heads))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (heads, rule, *rows))


def _plain(text: str) -> str:
    """Text of a project's files in one cell: no line break, no cell border, no HTML."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")

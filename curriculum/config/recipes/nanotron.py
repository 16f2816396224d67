"""nanotron's configuration: `data_stages` by their first step, one batch, one learning rate.

A run of several files repeats in each the stages of those before it (SmolLM3: huggingface/smollm, text/pretraining).
They must agree in stages, batch, sequence length and model; the later one says how long the run is, and at which rates.
Steps are counted from 1 there, so a stage is as long as the next one's `start_training_step` is after its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal
from typing import Final

from curriculum.config.fields import describe
from curriculum.config.recipes.recipe import (
    Blend,
    Fact,
    Recipe,
    RecipeStage,
    Statement,
    Text,
    blend,
    curve,
    exact,
    fact,
    flow,
    spelled,
)
from curriculum.config.recipes.values import Values
from curriculum.config.yaml import Document
from curriculum.errors import ConfigError

_MODEL: Final = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size"),
    *("vocab_size", "rms_norm_eps", "rope_theta"),
)
_OPTIONAL: Final = ("num_key_value_heads", "rms_norm_eps", "rope_theta")
_FOLDERS: Final = ("dataset_folder", "dataset_path", "hf_dataset_or_datasets")
_DECAYS: Final = {"linear": "linear", "cosine": "cosine", "1-sqrt": "sqrt"}


def is_nanotron(document: Document) -> bool:
    return isinstance(document.value, dict) and isinstance(document.value.get("data_stages"), list)


def read(documents: Sequence[Document]) -> Recipe:
    """The recipe of one run's files; ConfigError where they contradict each other, or say what is not known here."""
    values = Values(sorted(documents, key=_last_start))
    texts: dict[str, Text] = {}
    notes: list[str] = []
    starts = _stages(values, texts, notes)
    last = values.need("tokens", "train_steps", latest=True)
    steps = last.integer()
    parts = [values.need("tokens", "micro_batch_size"), values.need("parallelism", "dp")]
    accumulation = values.get("tokens", "batch_accumulation_per_replica")
    parts += [accumulation] if accumulation is not None else []
    batch = math.prod(part.integer() for part in parts)
    length = values.need("tokens", "sequence_length")
    stages = []
    for number, (start, (name, first, mixed)) in enumerate(starts.items()):
        end = list(starts)[number + 1] - 1 if number + 1 < len(starts) else steps
        if end < start:
            raise last.refused(
                f"of {steps:,} ends before `{name.value}` begins, with step {start:,}",
                "steps are counted from 1: one of the two is mistyped, or a file of another run was given",
            )
        until = starts[end + 1][1] if end + 1 in starts else last
        stages.append(
            RecipeStage(
                name=str(name.value),
                length=fact(f"{end - start + 1:_} steps", first, until),
                batch=fact(f"{batch} sequences", *parts),
                blend=mixed,
            )
        )
    masks = values.get("model", "model_config", "_use_doc_masking")
    interval = values.latest("checkpoints", "checkpoint_interval")
    seed = values.latest("general", "seed")
    root: dict[str, Fact] = {} if seed is None else {"seed": fact(str(seed.integer(0)), seed)}
    root["model"] = _model(values, notes)
    root["sequence_length"] = fact(str(length.integer()), length)
    root["optimizer"] = _optimizer(values)
    root["learning_rate"] = _learning_rate(values, steps, list(starts), batch * length.integer(), notes)
    if interval is not None:
        root["every"] = fact(flow({"checkpoint": f"{interval.integer()} steps"}), interval)
    return Recipe(
        trainer="nanotron",
        files=tuple(document.file for document in documents),
        stages=stages,
        texts=texts,
        root=root,
        tokenizer=values.get("tokenizer", "tokenizer_name_or_path"),
        mask_documents=fact("true", masks) if masks is not None and masks.value is True else None,
        notes=[*notes, *values.notes],
        left_out=values.left_out(),
    )


def _last_start(document: Document) -> Decimal:
    """Where the last stage of a file begins: the later file of a run has the later stages, and overrules."""
    listed = (stage for stage in document.value["data_stages"] if isinstance(stage, dict))
    return max((exact(stage.get("start_training_step")) or Decimal(0) for stage in listed), default=Decimal(0))


def _stages(values: Values, texts: dict[str, Text], notes: list[str]) -> dict[int, tuple[Statement, Statement, Blend]]:
    """Name, first step and blend of each stage by that step, in order; several files must state the same of one."""
    by_start: dict[int, tuple[Statement, Statement, Blend]] = {}
    for document in values.documents:
        for number in range(len(document.value["data_stages"])):
            path = ("data_stages", number)
            start = _of(values, document, *path, "start_training_step")
            name = _of(values, document, *path, "name")
            remarks: list[str] = []
            mixed = _blend(values, document, number, texts, remarks)
            notes += remarks if start.integer() not in by_start else []  # a later file repeats it
            earlier = by_start.setdefault(start.integer(), (name, start, mixed))
            if (earlier[0].value, earlier[2].shares()) != (name.value, mixed.shares()):
                raise name.refused(
                    f"begins with step {start.integer():,}, as another stage or blend does at {earlier[0].place}",
                    "the files must be of one run; where the last one repeats all stages, give it alone",
                )
    starts = dict(sorted(by_start.items()))
    first = next(iter(starts.values()))[1]
    if first.integer() != 1:
        raise first.refused(
            f"is {first.integer():,} in the first stage: what is read before it is not known",
            "give the files of the earlier stages as well; the first one begins with step 1",
        )
    return starts


def _of(values: Values, document: Document, *path: str | int) -> Statement:
    stated = values.of(document, *path)
    if stated is None:
        raise ConfigError(
            f"a stage lacks `{path[-1]}`", place=document.place(path[:2]), hint="nanotron needs it too; add it there"
        )
    return stated


def _blend(values: Values, document: Document, number: int, texts: dict[str, Text], notes: list[str]) -> Blend:
    """The blend of a stage: folders with weights, one folder alone, or a mapping of paths to weights."""
    path = ("data_stages", number, "data", "dataset")
    dataset = _of(values, document, *path)
    keys = [key for key in _FOLDERS if isinstance(dataset.value, dict) and dataset.value.get(key)]
    if len(keys) != 1:
        raise dataset.refused(
            "names no folder of tokens and no dataset of the hub",
            f"one of {', '.join(f'`{key}`' for key in _FOLDERS)} is read",
        )
    folders = _of(values, document, *path, keys[0])
    numbers = values.of(document, *path, "dataset_weights")
    names = folders.value if isinstance(folders.value, list | dict) else [folders.value]
    if isinstance(folders.value, dict):
        weights = [_of(values, document, *path, keys[0], name) for name in names]
    elif numbers is not None and isinstance(numbers.value, list) and len(numbers.value) == len(names):
        weights = [_of(values, document, *path, "dataset_weights", at) for at in range(len(names))]
    elif numbers is not None:
        raise numbers.refused(f"must be a list of {len(names)} numbers, one for each folder", "as in `[0.7, 0.3]`")
    elif len(names) == 1:
        weights = [Statement(folders.key, 1, folders.place)]
    else:
        raise folders.refused(
            f"names {len(names)} folders without weights: each is read whole, and their sizes are not stated here",
            "add `dataset_weights: [0.7, 0.3]`; `curriculum inspect FOLDER` counts a folder's tokens",
        )
    weighted = []
    for at, (name, weight) in enumerate(zip(names, weights, strict=True)):
        stated = _of(values, document, *path, keys[0], at) if isinstance(folders.value, list) else folders
        if not isinstance(name, str):
            raise stated.refused(f"must be a path, not {describe(name)}", "as in `/data/fineweb-edu`")
        weighted.append((_text(values, document, path, keys[0], name, stated), weight))
    mixed = blend(weighted, notes, texts)
    total = sum(mixed.shares().values(), Decimal(0))
    if len(names) > 1 and total != 1:
        notes.append(
            f"{(numbers or folders).origin} add up to {total}; a share is a weight by that sum, as in nanotron"
        )
    return mixed


def _text(
    values: Values, document: Document, path: tuple[str | int, ...], key: str, name: str, stated: Statement
) -> Text:
    place = name.rstrip("/")
    if key == "dataset_folder":
        return Text(place, {"tokenised": place, "format": "datatrove"}, stated)
    if key == "dataset_path":
        return Text(place, {"tokenised": place}, stated)
    column = values.of(document, *path, "text_column_name")
    read: dict[str, str | tuple[str, ...]] = {"hub": place} if place.count("/") == 1 else {"folder": place}
    return Text(place, {**read, **({} if column is None else {"text": str(column.value)})}, stated)


def _model(values: Values, notes: list[str]) -> Fact:
    entries: dict[str, str] = {}
    stated = []
    for key in _MODEL:
        value = values.get("model", "model_config", key)
        if value is None and key in _OPTIONAL:
            continue
        value = value or values.need("model", "model_config", key)
        stated.append(value)
        entries[key] = spelled(value.number())
    if "rope_theta" not in entries:
        notes.append("rope_theta is not stated; it is 10000 here")
    heads = entries.get("num_key_value_heads", entries["num_attention_heads"])
    tied = values.get("model", "model_config", "tie_word_embeddings")
    if tied is not None:
        stated.append(tied)
        entries["tie_word_embeddings"] = "true" if tied.value is True else "false"
    return fact(flow({**entries, "num_key_value_heads": heads}), *stated)


def _optimizer(values: Values) -> Fact:
    name = values.latest("optimizer", "optimizer_factory", "name")
    if name is not None and str(name.value).lower() != "adamw":
        raise name.refused(f"is {describe(name.value)}", "only adamW is known here; set it to adamW to plan its stages")
    stated = {}
    for key in ("adam_beta1", "adam_beta2", "adam_eps"):
        # older files state these without `optimizer_factory`
        latest = values.latest("optimizer", "optimizer_factory", key) or values.latest("optimizer", key)
        stated[key] = latest or values.need("optimizer", "optimizer_factory", key)
    decay, clip = values.need("optimizer", "weight_decay", latest=True), values.latest("optimizer", "clip_grad")
    one, two, eps = (spelled(each.number()) for each in stated.values())
    entries = {"name": "adamw", "betas": f"[{one}, {two}]", "eps": eps, "weight_decay": spelled(decay.number())}
    if clip is not None:
        entries["clip_norm"] = spelled(clip.number())
    return fact(flow(entries), *stated.values(), decay, clip)


def _learning_rate(values: Values, steps: int, starts: Sequence[int], tokens: int, notes: list[str]) -> Fact:
    """nanotron's rise, hold and fall (`lr_scheduler_builder` in its helpers.py) as one curve."""

    def get(key: str) -> Statement | None:
        return values.latest("optimizer", "learning_rate_scheduler", key)

    top = values.need("optimizer", "learning_rate_scheduler", "learning_rate", latest=True)
    rise, begin, fall = get("lr_warmup_steps"), get("lr_decay_starting_step"), get("lr_decay_steps")
    style, rising, low = get("lr_decay_style"), get("lr_warmup_style"), get("min_decay_lr")
    warmup = 0 if rise is None else rise.integer(0)
    held = warmup if begin is None else begin.integer(0)
    decay = steps - warmup - (0 if begin is None else held) if fall is None else fall.integer(0)
    if begin is not None and held in starts and held > 1:
        notes.append(f"{begin.origin}: step {held:,} is the first of a stage, so the rate falls from its begin on")
        held -= 1
    if begin is not None and held < warmup:
        raise begin.refused(f"of {held:,} is before the end of the warm-up, step {warmup:,}", "one of them is mistyped")
    if rising is not None and rising.value == "constant":
        warmup = 0
    elif rising is not None and rising.value != "linear":
        raise rising.refused(f"is {describe(rising.value)}", "`linear` and `constant` are known here")
    entries = {"max": spelled(top.number())}
    if not decay:
        return fact(curve(top.place, {"shape": "constant", **entries}, warmup=warmup, tokens=tokens), top, rise, fall)
    shape = "linear" if style is None else str(style.value)
    entries["min"] = "0" if low is None else spelled(low.number())
    if shape not in ("linear", "cosine", "1-sqrt"):
        raise (style or top).refused(f"is {describe(shape)}", "`linear`, `cosine` and `1-sqrt` are known here")
    if held == warmup and shape != "1-sqrt":
        entries, length = {"shape": shape, **entries}, 0
    else:
        entries, length = {"shape": "wsd", **entries, "decay_shape": _DECAYS[shape]}, decay
    text = curve((fall or top).place, entries, warmup=warmup, horizon=held + decay, decay=length, tokens=tokens)
    return fact(text, top, rise, rising, begin, fall, style, low)

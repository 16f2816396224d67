"""Megatron-LM's flags and blends: one file of flags for each phase, or one with a blend file for each.

Read as Megatron-LM of 2026 does: a phase ends at each of `--phase-transition-iterations`, at a fixed batch; the batch
grows at the thresholds of `--step-batch-size-schedule`, in tokens, at the first step at which they are reached
(`StepBatchsizeNumMicroBatchesCalculator`); the learning rate is that of `OptimizerParamScheduler`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from pathlib import PurePosixPath
from typing import Final

from curriculum.config.fields import describe
from curriculum.config.recipes.megatron_blend import BlendFile
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
from curriculum.config.recipes.shell import Flags, is_reference
from curriculum.config.yaml import Document
from curriculum.errors import ConfigError, Place, shortened
from curriculum.plan.batch_clock import batch_clock

BLEND_FLAGS: Final = ("--data-path", "--train-data-path")
BLEND_FILES: Final = ("--per-split-data-args-path", "--data-args-path")
_LISTS: Final = ("--phase-transition-iterations", "--step-batch-size-schedule", "--rampup-batch-size")
_LENGTH: Final = ("--train-samples", "--train-iters", "--train-iterations")
_SHAPES: Final = {"linear": "linear", "cosine": "cosine", "constant": "constant", "WSD": "wsd"} | {
    "inverse-square-root": "power"
}
_FALLS: Final = {"linear": "linear", "minus_sqrt": "sqrt", "cosine": "cosine"}
_SCALES: Final = {"K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
_DEFAULTS: Final = {
    "--seed": "1234",
    "--weight-decay": "0.01",
    "--clip-grad": "1.0",
    "--adam-beta1": "0.9",
    "--adam-beta2": "0.999",
    "--adam-eps": "1e-8",
    "--min-lr": "0",
    "--lr-decay-style": "linear",
    "--lr-wsd-decay-style": "exponential",
}
"""Of `megatron/training/arguments.py`."""
_MODEL: Final = {
    "hidden_size": "--hidden-size",
    "num_hidden_layers": "--num-layers",
    "num_attention_heads": "--num-attention-heads",
    "num_key_value_heads": "--num-query-groups",
    "head_dim": "--kv-channels",
    "intermediate_size": "--ffn-hidden-size",
    "rms_norm_eps": "--norm-epsilon",
    "rope_theta": "--rotary-base",
}
_VOCABULARY: Final = 32000
_UNSET: Final = "which this file does not set unconditionally"
_NEEDED: Final = ("hidden_size", "num_hidden_layers", "num_attention_heads")


class _Launch:
    """The flags of all phases, which must agree but for their blends; it notes which were read."""

    def __init__(self, files: Sequence[Flags]) -> None:
        self.files = files
        self.read = {*BLEND_FLAGS, *BLEND_FILES}

    def get(self, *names: str) -> Statement | None:
        """The flag of one of these names, else Megatron's default; ConfigError where two files differ in it."""
        self.read.update(names)
        statements = [stated for file in self.files if (stated := file.get(*names)) is not None]
        for stated in statements[:-1]:
            if stated.value != statements[-1].value:
                raise statements[-1].refused(
                    f"is {describe(statements[-1].value)} here, but {describe(stated.value)} in {stated.place}",
                    "phases of one run differ in their blends alone: give the files of one run",
                )
        if not statements:
            return Statement(names[0], _DEFAULTS[names[0]], None) if names[0] in _DEFAULTS else None
        last = statements[-1]
        value = last.value if last.key in _LISTS else last.value.partition(" ")[0]
        if "$" in value:
            raise last.refused(
                f"is `{shortened(value)}`, {_UNSET}", "write the value in its place in a copy of the file"
            )
        return Statement(last.key, value, last.place)

    def known(self, *names: str) -> Statement | None:
        """The flag of one of these names, if it is given with a value that the file sets."""
        last = next((stated for file in reversed(self.files) if (stated := file.get(*names)) is not None), None)
        return None if last is None or "$" in last.value else self.get(*names)

    def given(self, *names: str) -> bool:
        """Whether a flag is given, whatever its value."""
        return any(file.get(*names) is not None for file in self.files)

    def need(self, *names: str) -> Statement:
        stated = self.get(*names)
        if stated is None:
            raise ConfigError(
                f"{self.files[-1].file} gives no {' or '.join(f'`{name}`' for name in names[:2])}",
                place=Place(self.files[-1].file, 1),
                hint="add it to a copy of the file, or give the file of arguments that has it, too",
            )
        return stated

    def left_out(self) -> list[str]:
        lines: dict[str, str] = {}
        for file in self.files:
            for stated in file.given:
                if stated.key not in self.read and stated.place is not None:
                    shown = f"{stated.key} {shortened(stated.value)}".rstrip()
                    lines[shown] = f"{file.file}:{stated.place.line} {shown}"
        return list(lines.values())


def flags_of_document(document: Document) -> Flags | None:
    """Flags as keys of a YAML file, at the top or in a mapping there, as in `MODEL_ARGS: {--seq-length: 4096}`."""
    if not isinstance(document.value, dict):
        return None
    statements = []
    for path in ((), *((key,) for key in document.value)):
        inside = document.value[path[0]] if path else document.value
        for key, value in inside.items() if isinstance(inside, dict) else ():
            if key.startswith("--") and value is not None and value is not False:
                words = value if isinstance(value, list) else [] if value is True else [value]
                statements.append(Statement(key, " ".join(map(str, words)), document.place((*path, key))))
    return Flags(document.file, tuple(statements)) if statements else None


def read(files: Sequence[Flags], blends: Sequence[BlendFile]) -> Recipe:
    """The recipe of a run's files, in the order of its phases; ConfigError for phases that are not known."""
    launch = _Launch(files)
    texts: dict[str, Text] = {}
    notes: list[str] = []
    mixed = [
        *(_of_flag(flag, notes, texts) for file in files if (flag := file.get(*BLEND_FLAGS)) is not None),
        *(_blend(each.words, each.whole, notes, texts) for each in blends),
    ]
    if not files:
        return Recipe(
            trainer="Megatron-LM",
            files=tuple(each.file for each in blends),
            stages=_unknown_lengths(mixed, blends),
            texts=texts,
            root={},
            notes=notes,
            left_out=[line for each in blends for line in each.left_out],
        )
    if not mixed:
        raise ConfigError(
            f"{files[-1].file} states no blend that is known: no `--data-path` outside of conditions",
            place=Place(files[-1].file, 1),
            hint="give the blend file, too; or write `--data-path WEIGHT PREFIX …` into a copy of the file",
        )
    length = launch.need("--seq-length")
    transitions = launch.get("--phase-transition-iterations")
    ends = _ends(transitions)
    if len(mixed) != len(ends) + 1:
        where = transitions or files[-1].first(*BLEND_FLAGS, *BLEND_FILES) or length
        hint = "give a file of flags for each phase, in order; or one, and the blend file of each phase"
        raise where.refused(
            f"makes {len(ends) + 1} phases, but the number of blends in the files is {len(mixed)}", hint
        )
    stages, samples = _stages(launch, ends, mixed, length.integer(), notes)
    mask = launch.get("--reset-attention-mask")
    seed = launch.need("--seed")
    root = {"seed": fact(str(seed.integer(0)), seed), "sequence_length": fact(str(length.integer()), length)}
    model = _model(launch, notes)
    if model is not None:
        root["model"] = model
    root["optimizer"] = _optimizer(launch)
    if launch.given("--lr"):
        root["learning_rate"] = _learning_rate(launch, samples, length.integer(), notes)
    interval = launch.get("--save-interval")
    if interval is not None:
        root["every"] = fact(flow({"checkpoint": f"{interval.integer()} steps"}), interval)
    return Recipe(
        trainer="Megatron-LM",
        files=(*(file.file for file in files), *(each.file for each in blends)),
        stages=stages,
        texts=texts,
        root=root,
        tokenizer=launch.known("--tokenizer-model"),
        mask_documents=None if mask is None else fact("true", mask),
        notes=notes,
        left_out=[*launch.left_out(), *(line for each in blends for line in each.left_out)],
    )


def _unknown_lengths(mixed: Sequence[Blend], blends: Sequence[BlendFile]) -> list[RecipeStage]:
    if len(mixed) > 1:
        raise ConfigError(
            f"{len(mixed)} blends are given, but nothing says how long each phase is",
            place=blends[-1].whole.place,
            hint="give the file of flags, too, with `--phase-transition-iterations` and `--train-samples`",
        )
    return [RecipeStage("main", Fact(""), Fact(""), mixed[0])]


# --- blends ------------------------------------------------------------------------------------------------


def _of_flag(flag: Statement, notes: list[str], texts: dict[str, Text]) -> Blend:
    return _blend([Statement(flag.key, word, flag.place) for word in flag.value.split()], flag, notes, texts)


def _blend(words: Sequence[Statement], whole: Statement, notes: list[str], texts: dict[str, Text]) -> Blend:
    """`W P W P …`, or a single prefix."""
    for word in words:
        if isinstance(word.value, str) and is_reference(word.value):
            raise word.refused(f"holds `{word.value}`, {_UNSET}", "write its value in its place in a copy of the file")
    if len(words) == 1 and exact(words[0].value) is None:
        words = [Statement(words[0].key, 1, words[0].place), *words]
    weights, prefixes = words[::2], words[1::2]
    alternate = len(weights) == len(prefixes) and not any(exact(prefix.value) is not None for prefix in prefixes)
    if not words or not alternate or any(exact(weight.value) is None for weight in weights):
        raise whole.refused(
            "must be weights and prefixes in turn, or one prefix alone",
            "as in `0.7 /data/web_text_document 0.3 /data/code_text_document`; without weights each is read whole, and "
            "their sizes are not stated: `curriculum inspect FOLDER` counts them",
        )
    for prefix in prefixes:
        if "$" in prefix.value:
            notes.append(f"{prefix.origin}: `{prefix.value}` names a folder outside; set it in sources.yaml")
    weighted = [(_text(prefix), weight) for weight, prefix in zip(weights, prefixes, strict=True)]
    mixed = blend(weighted, notes, texts)
    total = sum(mixed.shares().values(), Decimal(0))
    if len(weighted) > 1 and total != 1:
        notes.append(f"{whole.origin}: weights add up to {spelled(total)}; a share is a weight by that sum, as there")
    return mixed


def _text(prefix: Statement) -> Text:
    path = PurePosixPath(str(prefix.value))
    return Text(
        str(path), {"tokenised": str(path.parent), "files": (f"{path.name}.bin",), "format": "megatron"}, prefix
    )


# --- lengths -----------------------------------------------------------------------------------------------


def _ends(transitions: Statement | None) -> list[int]:
    if transitions is None:
        return []
    words = str(transitions.value).replace(",", " ").split()
    ends = sorted(Statement(transitions.key, word, transitions.place).integer() for word in words)
    if not ends or len(set(ends)) < len(ends):
        raise transitions.refused(f"is {describe(transitions.value)}", "iterations, each once, as in `800000,900000`")
    return ends


def _stages(
    launch: _Launch, ends: list[int], mixed: Sequence[Blend], sequence_length: int, notes: list[str]
) -> tuple[list[RecipeStage], list[int]]:
    """The stages, and the samples that have been read at the end of each."""
    schedule, length = launch.get("--step-batch-size-schedule"), launch.need(*_LENGTH)
    if launch.given("--rampup-batch-size"):
        return _ramping(launch, ends, mixed[0])
    if schedule is not None:
        if ends:
            hint = "Megatron counts phases in iterations of one batch: give one of the two"
            raise schedule.refused("cannot be given with `--phase-transition-iterations`", hint)
        return _growing(schedule, length, mixed[0], sequence_length)
    batch = launch.need("--global-batch-size")
    last = length.integer()
    if length.key == "--train-samples":
        last, remainder = divmod(last, batch.integer())
        if remainder:
            notes.append(
                f"{length.origin}: {remainder:,} samples after the last whole batch are not read, as in Megatron"
            )
    stated = launch.get("--phase-transition-iterations")
    if stated is not None and ends[-1] >= last:
        raise stated.refused(
            f"has a phase begin at iteration {ends[-1]:,}, but training ends at {last:,}",
            f"`{length.key}` and the phases contradict each other: one of them is of another run",
        )
    stages = []
    for number, (start, end) in enumerate(zip([0, *ends], [*ends, last], strict=True)):
        bounds = [stated, length] if number == len(ends) else [stated]
        stages.append(
            RecipeStage(
                f"phase-{number + 1}" if ends else "main",
                fact(f"{end - start:_} steps", *bounds),
                fact(f"{batch.integer()} sequences", batch),
                mixed[number],
            )
        )
    return stages, [end * batch.integer() for end in [*ends, last]]


def _ramping(launch: _Launch, ends: list[int], mixed: Blend) -> tuple[list[RecipeStage], list[int]]:
    """One stage whose batch grows by `--rampup-batch-size START INCREMENT SAMPLES` up to the global batch.

    Each size holds for an equal part of the samples and changes at the first step at which the part is read, as in
    Megatron's `RampupBatchsizeNumMicroBatchesCalculator`.
    """
    ramp, batch, length = launch.need("--rampup-batch-size"), launch.need("--global-batch-size"), launch.need(*_LENGTH)
    if ends or launch.given("--step-batch-size-schedule"):
        hint = "Megatron counts phases in iterations of one batch: give one of the two"
        raise ramp.refused("cannot be given with phases or another schedule", hint)
    words = str(ramp.value).replace(",", " ").split()
    if len(words) != 3:
        raise ramp.refused(f"has {len(words)} numbers", "it is START INCREMENT SAMPLES, as in `256 64 2000000`")
    if length.key != "--train-samples":
        raise length.refused("cannot be given with a batch that grows", "Megatron counts samples then: --train-samples")
    start, increment, samples = (Statement(ramp.key, word, ramp.place).integer() for word in words)
    number, rest = divmod(batch.integer() - start, increment)
    if rest or number < 1:
        raise ramp.refused(
            f"by {increment:,} does not lead from {start:,} to {batch.integer():,} sequences",
            "the global batch is START and a number of INCREMENTs",
        )
    levels = [(-(-samples * k // number), start + increment * k) for k in range(1, number + 1)]
    clock, steps = batch_clock(0, 1, start, levels, length.integer())
    read = clock.position(steps) if clock.position(steps) == length.integer() else clock.position(steps - 1)
    text = f"{{from: {start} sequences, to: {batch.integer()} sequences, over: {samples} sequences, in: {number}}}"
    return [RecipeStage("main", fact(f"{read:_} sequences", length), fact(text, ramp, batch), mixed)], [read]


def _growing(
    schedule: Statement, length: Statement, mixed: Blend, sequence_length: int
) -> tuple[list[RecipeStage], list[int]]:
    """A stage for each batch of `0:768 250B:1536`: it grows at the first step at which a threshold is reached."""
    steps = sorted(_threshold(schedule, entry) for entry in str(schedule.value).replace(",", " ").split())
    if not steps or steps[0][0] != 0 or len({tokens // sequence_length for tokens, _ in steps}) < len(steps):
        raise schedule.refused(f"is {describe(schedule.value)}", "it begins at 0 and rises, as in `0:768 250B:1536`")
    if length.key != "--train-samples":
        raise length.refused("cannot be given with a batch that grows", "Megatron counts samples then: --train-samples")
    total, read = length.integer(), 0
    stages, ends = [], []
    for number, (_, batch) in enumerate(steps):
        if number + 1 < len(steps):
            threshold = steps[number + 1][0] // sequence_length
            count = math.ceil(Fraction(threshold - read, batch))
        else:
            threshold, count = total, (total - read) // batch
        if threshold > total or count < 1:
            raise schedule.refused(
                f"has a batch of {batch:,} that is never used: training ends after {total:,} samples",
                f"`{length.key}` and the schedule contradict each other: one of them is of another run",
            )
        read += count * batch
        ends.append(read)
        bounds = [schedule, *([length] if number + 1 == len(steps) else [])]
        name = f"batch-{batch}" if len(steps) > 1 else "main"
        stages.append(RecipeStage(name, fact(f"{count:_} steps", *bounds), fact(f"{batch} sequences", schedule), mixed))
    return stages, ends


def _threshold(schedule: Statement, entry: str) -> tuple[int, int]:
    numbers = []
    for word in entry.upper().split(":"):
        number = exact(word[:-1] if word[-1:] in _SCALES else word)
        numbers.append(-1 if number is None else int(number * _SCALES.get(word[-1:], 1)))
    if len(numbers) != 2 or numbers[0] < 0 or numbers[1] < 1:
        raise schedule.refused(f"holds `{shortened(entry)}`", "THRESHOLD:BATCH, as in `0:768 250B:1536`")
    return numbers[0], numbers[1]


# --- model, optimizer, learning rate -----------------------------------------------------------------------


def _model(launch: _Launch, notes: list[str]) -> Fact | None:
    """Llama's numbers as far as flags give them; None where one is missing that has no default."""
    stated = {key: launch.get(flag) for key, flag in _MODEL.items()}
    if any(stated[key] is None for key in _NEEDED):
        launch.read -= set(_MODEL.values())
        return None
    if stated["intermediate_size"] is None:
        stated["intermediate_size"] = _inner_width(launch, stated["hidden_size"])
    if not launch.given("--group-query-attention"):
        stated["num_key_value_heads"] = None
    vocabulary = launch.get("--padded-vocab-size", "--vocab-size")
    if vocabulary is None:
        notes.append(f"`--vocab-size` is not given; it is {_VOCABULARY} here, to be set to your tokenizer's")
    launch.read.add("--group-query-attention")
    entries = {key: spelled(value.number()) for key, value in stated.items() if value is not None}
    entries.setdefault("num_key_value_heads", entries["num_attention_heads"])
    untied = launch.get("--untie-embeddings-and-output-weights")
    entries |= {
        "vocab_size": str(vocabulary.integer() if vocabulary else _VOCABULARY),
        "tie_word_embeddings": "true" if untied is None else "false",
    }
    if launch.get("--swiglu") is None:
        notes.append("`--swiglu` is not given; models here are Llama's, with it")
    return fact(flow(entries), *stated.values(), vocabulary, untied)


def _inner_width(launch: _Launch, width: Statement | None) -> Statement:
    """Megatron-LM's default of `--ffn-hidden-size` (megatron/training/arguments.py, validate_args)."""
    assert width is not None
    hidden = width.integer()
    inner = 8 * hidden // (3 * 64) * 64 if launch.given("--swiglu") else 4 * hidden
    return Statement("--ffn-hidden-size", inner, None)


def _optimizer(launch: _Launch) -> Fact:
    name = launch.get("--optimizer")
    if name is not None and name.value != "adam":
        raise name.refused(f"is {describe(name.value)}", "only adam (as AdamW) is known here: write it in a copy")
    one, two, eps, decay, clip = (
        launch.need(flag) for flag in ("--adam-beta1", "--adam-beta2", "--adam-eps", "--weight-decay", "--clip-grad")
    )
    entries = {
        "name": "adamw",
        "betas": f"[{spelled(one.number())}, {spelled(two.number())}]",
        "eps": spelled(eps.number()),
        "weight_decay": spelled(decay.number()),
        "clip_norm": spelled(clip.number()),
    }
    return fact(flow(entries), one, two, eps, decay, clip)


def _learning_rate(launch: _Launch, ends: list[int], sequence_length: int, notes: list[str]) -> Fact:
    """`OptimizerParamScheduler` counts samples; a number of iterations is one of the first batch's."""
    top, low, style = launch.need("--lr"), launch.need("--min-lr"), launch.need("--lr-decay-style")
    shape = _SHAPES.get(style.value)
    if shape is None:
        raise style.refused(f"is {describe(style.value)}", f"one of {', '.join(_SHAPES)} is known here")
    batch = launch.get("--global-batch-size")
    sequences = 0 if batch is None else batch.integer()

    def samples(kind: str) -> tuple[int | None, Statement | None]:
        stated = launch.get(f"--lr-{kind}-samples", f"--lr-{kind}-iters")
        if stated is None:
            return None, None
        if stated.key.endswith("-iters") and (batch is None or launch.given("--rampup-batch-size")):
            raise stated.refused("is in iterations, whose batch grows", f"write `--lr-{kind}-samples`")
        return stated.integer(0) * (sequences if stated.key.endswith("-iters") else 1), stated

    horizon, horizon_stated = samples("decay")
    horizon = ends[-1] if horizon is None else horizon
    warmup, warmup_stated = samples("warmup")
    share = launch.get("--lr-warmup-fraction")
    if warmup is None:
        warmup = 0 if share is None else int(Fraction(share.number()) * horizon)
    entries = {"shape": shape, "max": spelled(top.number())}
    decay, decay_stated, fall = None, None, None
    if shape != "constant":
        entries["min"] = spelled(low.number())
    if shape == "wsd":
        decay, decay_stated = samples("wsd-decay")
        fall = launch.need("--lr-wsd-decay-style")
        if decay is None or fall.value not in _FALLS:
            raise (style if decay is None or fall.place is None else fall).refused(
                "of WSD needs `--lr-wsd-decay-samples`" if decay is None else f"is {describe(fall.value)}",
                f"a fall of WSD is {', '.join(f'`{name}`' for name in _FALLS)} here, and has a length",
            )
        entries["decay_shape"] = _FALLS[fall.value]
    if shape == "power":
        del entries["min"]
        floor = Fraction(low.number()) / Fraction(top.number())
        if not warmup or floor**2 * horizon > warmup:
            raise (style if not warmup else low).refused(
                "needs a warm-up"
                if not warmup
                else f"of {spelled(low.number())} ends the fall before {horizon:,} samples",
                "the inverse square root falls from the end of the warm-up, and has no lowest rate here",
            )
    text = curve(
        top.place, entries, warmup=warmup, horizon=horizon, decay=decay or 0, unit="sequences", tokens=sequence_length
    )
    return fact(text, top, low, style, warmup_stated, share, horizon_stated, decay_stated, fall)

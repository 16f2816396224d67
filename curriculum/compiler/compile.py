"""What people write, compiled: a lineage at a size becomes one plan of numbers per stage.

Every fault that needs more than one file is refused here, before any machine is busy. Nothing is read but YAML
and the manifests of prepared text; at 2T tokens this takes milliseconds, since no step is visited.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from curriculum import config
from curriculum.compiler import cadence, imported_models
from curriculum.compiler.blends import Before, blends_of, without_skipped
from curriculum.compiler.limits import check_drawn, check_passes
from curriculum.compiler.lineage import LineageStage, Setting, lineage, parse_address, stages_to
from curriculum.compiler.scaling import Scaler, size_place
from curriculum.compiler.sources import (
    PreparedInfo,
    SourceChoice,
    StartedStage,
    check_stand_ins,
    mixture,
    source_plans,
)
from curriculum.config.project import Project
from curriculum.errors import CurriculumError, PlanError, did_you_mean
from curriculum.plan.diff.timeline import Lineage, Span
from curriculum.plan.learning_rate import LARGEST_POSITION, LearningRate, Rewarm
from curriculum.plan.stage import OPEN, Parent, StagePlan
from curriculum.units import show_count, show_exact

LR_JUMP = 0.01  # a branch whose own curve starts further than this from the parent's needs `rewarm:`


@dataclass(frozen=True, kw_only=True)
class CompiledStage:
    """A stage's plan with what only people need beside it. Positions in tokens at this size.

    `left_at` is where the lineage leaves the stage as its file says it: full-size tokens.
    """

    setting: Setting
    plan: StagePlan
    declared_end: int
    stop: int
    left_at: int
    parent: CompiledStage | None
    checkpoint_every: int
    evaluate_every: int
    task_every: Mapping[str, int]
    shares: Mapping[str, Fraction]
    ramp_sequences: int
    limits: Mapping[str, Fraction]
    notes: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.setting.curriculum}/{self.setting.stage}"

    @property
    def events(self) -> tuple[str, ...]:
        """What the stage skips and leaves out, each with its reason, in words; positions full-size."""
        words = [
            f"skips the data of {show_count(e.from_)} to {show_count(e.to)}{f': {e.why}' if e.why else ''}"
            for e in self.setting.skip
        ]
        words += [
            f"leaves out shard {e.shard} of {e.source}{f': {e.why}' if e.why else ''}"
            for e in self.setting.leave_out
        ]
        return tuple(words)

    @property
    def steps_run(self) -> int:
        """Steps this lineage takes of the stage: all of them, or those up to the branch point."""
        return (self.stop - self.plan.start) // self.plan.batch_tokens


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """A whole lineage at a size, root first."""

    curriculum: str
    size_name: str
    size: config.SizeEntry
    scale: Fraction
    tokenizer: str
    stages: tuple[CompiledStage, ...]
    sources: Mapping[str, SourceChoice]

    @property
    def scaled(self) -> bool:
        return self.scale != 1


def compile_curriculum(
    project: Project,
    name: str,
    size_name: str,
    *,
    facts: Callable[[str, int], PreparedInfo | None] = lambda dataset, sequence_length: None,
    begun: Callable[[str, str], StartedStage | None] = lambda curriculum, stage: None,
    tokenizer: Mapping[str, Any] | None = None,
) -> Compiled:
    """Compile curriculum `name` at size `size_name`.

    `facts(dataset, sequence_length)` tells what is prepared (None: not yet, declared sizes are used);
    `begun(curriculum, stage)` what is trained of a stage, which decides where appended text comes in.
    `tokenizer` is `{"name", "digest", "vocab_size", "eos"}` once there is one. Raises ConfigError, NotFound or
    PlanError.
    """
    return compile_stages(
        project, name, lineage(project, name), size_name, facts=facts, begun=begun, tokenizer=tokenizer
    )


def compile_stages(
    project: Project,
    name: str,
    legs: tuple[LineageStage, ...],
    size_name: str,
    *,
    facts: Callable[[str, int], PreparedInfo | None] = lambda dataset, sequence_length: None,
    begun: Callable[[str, str], StartedStage | None] = lambda curriculum, stage: None,
    tokenizer: Mapping[str, Any] | None = None,
) -> Compiled:
    """`compile_curriculum` for a lineage that may stop short of its curriculum's end."""
    size = project.size(size_name)
    check_stand_ins(project, size_name, size)
    scaler = Scaler(size, size_name, legs[0].setting)
    choices: dict[tuple[str, int], SourceChoice] = {}
    compiled: list[CompiledStage] = []
    imported = legs[0].setting.imported
    wanted_tokenizer = (size.tokenizer if imported is None else None) or legs[0].setting.tokenizer
    if imported is None and wanted_tokenizer not in project.sources.tokenizers:
        raise PlanError(
            f"unknown tokenizer `{wanted_tokenizer}`: sources.yaml binds no file to it",
            place=size_place(project, size_name, "tokenizer") or legs[0].setting.place("tokenizer"),
            hint=did_you_mean(wanted_tokenizer, project.sources.tokenizers),
        )
    identity = dict(tokenizer) if tokenizer else {"name": wanted_tokenizer, "digest": None}
    vocabulary = identity.get("vocab_size")
    if vocabulary is None and imported is None:
        vocabulary = project.sources.tokenizers[wanted_tokenizer].vocab_size
    for leg in legs:
        if leg.cut is not None and compiled and scaler.tokens(leg.cut) <= compiled[-1].stop:
            continue  # the boundary at or past the branch position is the end of the stage before
        model = _model(project, leg.setting, scaler)
        if vocabulary is not None and vocabulary > model["vocab_size"]:
            raise PlanError(
                f"tokenizer `{wanted_tokenizer}` has {vocabulary:,} ids, the model's vocabulary only "
                f"{model['vocab_size']:,}",
                place=leg.setting.place("from")
                if imported
                else size_place(project, size_name, "model", "vocab_size") or leg.setting.place("model"),
                hint="tokenizer and weights of the directory do not belong together"
                if imported
                else f"give the model `vocab_size: {vocabulary}` or more, or take another tokenizer",
            )
        parent = compiled[-1] if compiled else None
        try:
            stage = _compile_stage(project, leg, scaler, parent, choices, facts, begun, identity)
        except (ValueError, OverflowError) as error:
            # Arithmetic's own limits, which no file that is meant comes near.
            raise PlanError(
                f"stage `{leg.setting.stage}` cannot be planned: {error}",
                place=leg.setting.place("name"),
                hint="one of its lengths, or those of the stages before it, is far too large or too small",
            ) from None
        compiled.append(stage)
    last = compiled[-1]
    return Compiled(
        curriculum=name,
        size_name=size_name,
        size=size,
        scale=scaler.scale,
        tokenizer=wanted_tokenizer,
        stages=tuple(compiled),
        sources={
            name: choices.get((name, last.plan.sequence_length), choice)
            for (name, _), choice in sorted(choices.items())
        },
    )


def _compile_stage(
    project: Project,
    leg: LineageStage,
    scaler: Scaler,
    parent: CompiledStage | None,
    choices: dict[tuple[str, int], SourceChoice],
    facts: Callable[[str, int], PreparedInfo | None],
    begun: Callable[[str, str], StartedStage | None],
    tokenizer: Mapping[str, Any],
) -> CompiledStage:
    setting = leg.setting
    notes: list[str] = []
    start = parent.stop if parent else 0
    sequence_length = scaler.sequence_length(setting)
    origin = Parent(fingerprint=parent.plan.history(parent.stop), position=start) if parent else None
    if setting.imported is not None:
        _check_positions(project, setting, scaler, sequence_length)
        if parent is None:
            digest = imported_models.digest(project, setting.imported)
            origin = Parent(fingerprint=digest or OPEN, position=0)
            notes += _import_notes(setting, scaler, imported=digest is not None)
    batch = scaler.batch(setting)
    batch_tokens = batch * sequence_length
    declared_end = scaler.tokens(setting.until)
    steps = -((start - declared_end) // batch_tokens)
    if steps < 1:
        raise PlanError(
            f"stage `{setting.stage}` has no step left: the stage before it ends at {start:,} tokens, "
            f"this one is declared to end at {declared_end:,}",
            place=setting.place("until"),
            hint="a stage must be longer than the last step of the one before it",
        )
    if start + steps * batch_tokens > LARGEST_POSITION:
        raise PlanError(
            f"stage `{setting.stage}` would end beyond 2^62 tokens: one step takes {batch_tokens:,}",
            place=setting.place("batch"),
            hint="as in `batch: 896 sequences`",
        )
    weights, limits = mixture(
        project, setting, sequence_length, scaler, choices, facts, parent.plan.sources if parent else ()
    )
    asked = project.mixture(setting.mixture)[0].weights
    parts, whole = sum(weights.values()), sum(asked.values())
    if any(asked[name] * parts != weights[name] * whole for name in weights):
        notes.append(
            f"the weights of mixture `{setting.mixture}` are as fine as 2^31 parts allow: shares are rounded by "
            "less than one part"
        )
    before = Before.of(parent.plan if parent else None, start)
    sources = source_plans(
        setting,
        parent.plan if parent else None,
        before.items,
        choices,
        weights,
        sequence_length,
        begun(setting.curriculum, setting.stage),
    )
    notes += [
        f"shard {entry.shard} of `{entry.source}` is left out once the source is prepared"
        for entry in (*setting.left_out, *setting.leave_out)
        if choices[entry.source, sequence_length].digest is None
    ]
    n = 0
    if setting.ramp is not None:
        ramp_tokens = scaler.length(setting, setting.ramp, "ramp")
        floor = scaler.size.at_least.ramp if scaler.size.at_least else None
        lengthened = floor is not None and ramp_tokens < scaler.small(setting, floor)
        if floor is not None and lengthened:
            least = scaler.small(setting, floor)
            notes.append(
                f"the ramp of {show_count(ramp_tokens)} tokens is lengthened to {floor} ({show_count(least)})"
            )
            ramp_tokens = least
        n = -(-ramp_tokens // sequence_length)
        if n > steps * batch:
            raise PlanError(
                f"the ramp of {n * sequence_length:,} tokens is longer than its stage, which has "
                f"{steps * batch_tokens:,}",
                place=setting.place("ramp"),
                hint=f"at this size a ramp takes at least {floor} (`at_least:` in sizes.yaml); lengthen the stage"
                if lengthened
                else f"a ramp of at most {show_exact(int(steps * batch_tokens / scaler.scale))} tokens fits",
            )
    goes_on = (
        parent is not None
        and not setting.own_mixture
        and setting.ramp is None
        and sequence_length == parent.plan.sequence_length
    )
    blends, virtual = blends_of(before, weights, n, goes_on=goes_on)
    if goes_on and len(blends) > 1:
        n = min(virtual[1].first, steps * batch)
        if n < virtual[1].first:
            left = (virtual[1].first - n) * sequence_length
            notes.append(f"the ramp that it follows still has {show_count(left)} tokens to go where it ends")
    declared_start = scaler.tokens(parent.left_at) if parent else 0
    pieces = without_skipped(
        setting, scaler, virtual, (declared_start, start, declared_end), sequence_length, batch
    )
    learning_rate = _learning_rate(project, setting, scaler, parent, start, notes, declared_end)
    plan = StagePlan(
        seed=setting.seed,
        model=scaler.model(setting),
        tokenizer=dict(tokenizer),
        optimizer=_optimizer(setting),
        learning_rate=learning_rate,
        sequence_length=sequence_length,
        batch_sequences=batch,
        first_step=parent.plan.step_at(parent.stop) if parent else 0,
        steps=steps,
        start=start,
        sources=sources,
        blends=blends,
        pieces=pieces,
        read_before=parent.plan.windows_read(parent.stop) if parent else {},
        parent=origin,
        reset_optimizer=setting.reset_optimizer or (setting.imported is not None and parent is None),
        mask_documents=setting.mask_documents,
        labels={
            "curriculum": setting.curriculum,
            "stage": setting.stage,
            "declared_end": setting.until,
            "mixture": setting.mixture,
            "size_scale": str(scaler.scale),
            "skip": [{"from": e.from_, "to": e.to, "why": e.why} for e in setting.skip],
            "leave_out": [{"source": e.source, "shard": e.shard, "why": e.why} for e in setting.leave_out],
        },
    )
    stop = plan.end
    if leg.cut is not None:
        cut_steps = -((start - scaler.tokens(leg.cut)) // batch_tokens)
        stop = start + min(max(cut_steps, 0), steps) * batch_tokens
    check_drawn(project, setting, plan, weights, scaler, notes)
    again = f"curriculum prepare {setting.curriculum}{project.options(scaler.size_name)}"
    check_passes(project, setting, plan, limits, stop, again, notes)
    checkpoint_every, evaluate_every = cadence.cadence(setting, scaler, plan, notes)
    total = sum(weights.values())
    return CompiledStage(
        setting=setting,
        plan=plan,
        declared_end=declared_end,
        stop=stop,
        left_at=leg.cut if leg.cut is not None else setting.until,
        parent=parent,
        checkpoint_every=checkpoint_every,
        evaluate_every=evaluate_every,
        task_every=cadence.task_cadence(setting, scaler, plan, notes),
        shares={name: Fraction(weight, total) for name, weight in sorted(weights.items())},
        ramp_sequences=n,
        limits=limits,
        notes=tuple(notes),
    )


def _check_positions(project: Project, setting: Setting, scaler: Scaler, sequence_length: int) -> None:
    assert setting.imported is not None
    most = setting.imported.model["max_position_embeddings"]
    if sequence_length > most:
        raise PlanError(
            f"a `sequence_length` of {sequence_length:,} is more than the {most:,} positions of the imported model",
            place=size_place(project, scaler.size_name, "sequence_length")
            or setting.place("sequence_length"),
            hint=f"`max_position_embeddings` in its config.json says so; {most} or less fits",
        )


def _import_notes(setting: Setting, scaler: Scaler, *, imported: bool) -> list[str]:
    size = scaler.size
    stated = {"model": size.model, "tokenizer": size.tokenizer, "learning rate": size.learning_rate}
    unused = [name for name, value in stated.items() if value is not None]
    notes = []
    if unused:
        notes.append(
            f"size `{scaler.size_name}` states its own {' and '.join(unused)}: not applied to an import, which "
            "keeps its model and tokenizer and takes the learning rate of its stage file"
        )
    if not imported:
        notes.append(
            "the directory is not imported yet, or was touched since: `run` and `prepare` read it first"
        )
    return notes


def _model(project: Project, setting: Setting, scaler: Scaler) -> dict[str, Any]:
    """The model's numbers at this size; PlanError where those of the size and of the curriculum do not fit."""
    try:
        return scaler.model(setting)
    except config.Refusal as refusal:
        place = size_place(project, scaler.size_name, "model", *map(str, refusal.at))
        raise PlanError(
            f"`{refusal.at[0]}` {refusal.message}, as size `{scaler.size_name}` changes the model of "
            f"`{setting.curriculum}`",
            place=place or size_place(project, scaler.size_name, "model") or setting.place("model"),
            hint=f"{refusal.hint}; what the size does not state is the curriculum's",
        ) from None


def _optimizer(setting: Setting) -> dict[str, Any]:
    entry = setting.optimizer
    return {
        "name": entry.name,
        "betas": [float(beta) for beta in entry.betas],
        "eps": float(entry.eps),
        "weight_decay": float(entry.weight_decay),
        "decay": entry.decay,
        "clip_norm": float(entry.clip_norm),
    }


# --- learning rate, cadence ----------------------------------------------------------------------


def _learning_rate(
    project: Project,
    setting: Setting,
    scaler: Scaler,
    parent: CompiledStage | None,
    start: int,
    notes: list[str],
    declared_end: int,
) -> LearningRate:
    if parent is not None and not setting.own_learning_rate:
        curve = parent.plan.learning_rate
    else:
        try:
            curve, lengthened = scaler.learning_rate(setting)
        except ValueError as error:
            raise PlanError(
                str(error),
                place=size_place(project, scaler.size_name, "learning_rate")
                or setting.place("learning_rate"),
                hint="the rates and the warm-up are the size's where it states them, and the horizon is scaled"
                if scaler.size.learning_rate
                else "warm-up, decay and horizon lie on one line of tokens, in this order",
            ) from None
        if lengthened is not None:
            notes.append(
                f"the warm-up of {show_count(lengthened)} tokens is lengthened to {show_count(curve.warmup)}"
            )
        if parent is not None:
            old = parent.plan.learning_rate.at(start)
            new = curve.at(start)
            if setting.rewarm is not None:
                curve = replace(
                    curve, rewarm=Rewarm(start, scaler.length(setting, setting.rewarm, "rewarm"), old)
                )
            elif abs(new - old) > LR_JUMP * old:
                raise PlanError(
                    f"the learning rate would jump from {old:.3g} to {new:.3g} where `{setting.curriculum}` branches",
                    place=setting.place("learning_rate"),
                    hint="say over how long it moves: `rewarm: 2B` in the stage; "
                    "or state a curve that meets the parent's",
                )
    if declared_end > curve.horizon and curve.shape != "constant":
        notes.append(
            f"the learning rate stays at its minimum beyond its horizon of {show_count(curve.horizon)} tokens"
        )
    return curve


def kept_positions(project: Project, compiled: CompiledStage, scale: Fraction) -> tuple[int, ...]:
    """Positions inside this stage at which a checkpoint is taken and kept: some stage file branches there, or tasks
    are measured there.

    `from: variant@P` keeps the checkpoint of whatever stage P lies in, also one of the variant's ancestors.
    """
    plan, mine = compiled.plan, (compiled.setting.curriculum, compiled.setting.stage)
    positions = {
        position for found in cadence.task_positions(plan, compiled.task_every).values() for position in found
    } - {plan.end}
    for name in project.names("stages"):
        try:
            file, _ = project.curriculum(name)
            address = parse_address(file.from_) if file.from_ else None
            if address is None or address.position is None:
                continue
            legs = stages_to(project, address)
        except CurriculumError:  # a broken file elsewhere is its author's error, not this run's
            continue
        through = [leg for leg in legs if (leg.setting.curriculum, leg.setting.stage) == mine]
        if not through or (through[0].cut is not None and through[0].cut < address.position):
            continue  # its lineage does not go through this stage, or leaves it before P
        # The step boundary at or past P may be the end of a stage whose declared end lies before P.
        scaled = math.ceil(address.position * scale)
        steps = -((plan.start - scaled) // plan.batch_tokens)
        if 0 < steps <= plan.steps:
            positions.add(plan.start + steps * plan.batch_tokens)
    return tuple(sorted(positions))


def spans(stages: Sequence[CompiledStage]) -> Lineage:
    """A compiled lineage, its names and plans alone."""
    return tuple(Span(stage.name, stage.plan, stage.stop) for stage in stages)

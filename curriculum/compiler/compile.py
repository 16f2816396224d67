"""A curriculum compiled: a lineage at a size becomes one plan of numbers for each stage.

Every error that needs more than one file is raised here, before a process is started. Nothing is read but YAML and
the manifests of prepared text; at 2T tokens this takes milliseconds, since no step is visited.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from curriculum import config
from curriculum.compiler import cadence, imported_models
from curriculum.compiler.averages import average_members, whole_weights
from curriculum.compiler.idle_keys import high_rate, idle_keys
from curriculum.compiler.learning_rate import learning_rate, rate_scaling, unfinished_decay
from curriculum.compiler.limits import check_drawn, check_passes
from curriculum.compiler.lineage import Setting
from curriculum.compiler.mixture_phases import mixture_phases, mixture_state
from curriculum.compiler.resolve import ResolvedCurriculum, ResolvedStage, resolve
from curriculum.compiler.scaling import Scaler, size_place
from curriculum.compiler.sources import (
    PreparedInfoOf,
    SourceChoice,
    StartedStageOf,
    choose_sources,
    passes_allowed,
    source_plans,
)
from curriculum.config.project import Project
from curriculum.errors import PlanError
from curriculum.plan.diff.timeline import Lineage, Span
from curriculum.plan.stage import OPEN, Parent, StagePlan
from curriculum.units import show_count, show_share


@dataclass(frozen=True, kw_only=True)
class CompiledStage:
    """A stage's plan, and what is shown or scheduled next to it. Positions in tokens at this size.

    `left_at` is where the lineage leaves the stage as its file says it: full-size tokens. `keep` are the positions
    whose checkpoints its file keeps.
    """

    setting: Setting
    plan: StagePlan
    declared_end: int
    stop: int
    left_at: int
    parent: CompiledStage | None
    checkpoint_every: int
    evaluate_every: int
    held_out_windows: int
    keep: tuple[int, ...]
    task_every: Mapping[str, int]
    shares: Mapping[str, Fraction]
    ramp_sequences: int
    limits: Mapping[str, Fraction]
    notes: tuple[str, ...]
    members: tuple[CompiledMember, ...] = ()

    @property
    def name(self) -> str:
        return self.setting.name

    @property
    def events(self) -> tuple[str, ...]:
        """A line for each range that the stage skips, each shard that it excludes, and its data seed.

        Positions are full-size.
        """
        skips = [
            f"skips the data of {show_count(e.from_)} to {show_count(e.to)}{f': {e.why}' if e.why else ''}"
            for e in self.setting.skip
        ]
        shards = [
            f"leaves out shard {e.shard} of {e.source}{f': {e.why}' if e.why else ''}" for e in self.setting.leave_out
        ]
        seeds = [f"reads the rest of every pass in another order: data seed {n}" for n in self.setting.data_seeds]
        total = sum(member.weight for member in self.members)
        averages = [
            f"takes the moving average of {member.stage.name} at {show_count(member.stage.left_at)}"
            if member.ema
            else f"averages {member.stage.name} at {show_count(member.stage.left_at)}, "
            f"{show_share(Fraction(member.weight, total))} of it"
            for member in self.members
        ]
        return (*averages, *skips, *shards, *seeds)

    @property
    def batches(self) -> tuple[tuple[int, int], ...]:
        """(position, sequences) of the stage's start and of each change of its batch, as far as the lineage goes."""
        clock = self.plan.clock
        return tuple((clock.position(c.step), c.sequences) for c in clock.changes if c.step < max(1, self.steps_run))

    @property
    def steps_run(self) -> int:
        """Steps this lineage takes of the stage: all of them, or those up to the branch point."""
        return self.plan.clock.step_of(self.stop)


@dataclass(frozen=True, kw_only=True)
class CompiledMember:
    """A checkpoint of an average: the lineage that leads to it, which ends there, and how much it counts.

    With `ema` it is the moving average that the checkpoint keeps.
    """

    compiled: Compiled
    weight: int
    ema: bool = False

    @property
    def stage(self) -> CompiledStage:
        return self.compiled.stages[-1]


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """A lineage at a size, root first; `sources` are at the sequence length of its last stage."""

    curriculum: str
    size_name: str
    scale: Fraction
    tokenizer: str
    stages: tuple[CompiledStage, ...]
    sources: Mapping[str, SourceChoice]

    @property
    def scaled(self) -> bool:
        return self.scale != 1

    @property
    def about(self) -> str:
        """The `about` of the last stage's file; empty without one."""
        return self.stages[-1].setting.document.value.get("about", "")  # type: ignore[no-any-return]

    @property
    def stop(self) -> int:
        return self.stages[-1].stop


def compile_curriculum(project: Project, name: str, size_name: str) -> Compiled:
    """Curriculum `name` at size `size_name` by declared sizes; ConfigError, NotFound or PlanError."""
    return compile_resolved(resolve(project, name, size_name))


def compile_resolved(
    curriculum: ResolvedCurriculum,
    *,
    prepared_info: PreparedInfoOf = lambda dataset, sequence_length: None,
    started_stage: StartedStageOf = lambda curriculum, stage: None,
    tokenizer: Mapping[str, Any] | None = None,
) -> Compiled:
    """The numbers of every stage, for one state of the prepared text; PlanError for what cannot be planned.

    Without `prepared_info` of a dataset its declared size is used; a started stage decides where appended text
    starts. `tokenizer` is `{"digest", "vocab_size", "eos"}` once it exists.
    """
    scaler = curriculum.scaler
    identity: dict[str, Any] = dict(tokenizer) if tokenizer else {"name": curriculum.tokenizer, "digest": None}
    choices = choose_sources(curriculum, prepared_info)

    def again(lineage: ResolvedCurriculum) -> Compiled:
        return compile_resolved(lineage, prepared_info=prepared_info, started_stage=started_stage, tokenizer=tokenizer)

    compiled: list[CompiledStage] = []
    for stage in curriculum.stages:
        _check_vocabulary(curriculum, stage.setting, identity.get("vocab_size"))
        parent = compiled[-1] if compiled else None
        try:
            of_length = choices[stage.clock.sequence_length]
            members = _members(curriculum, stage, again)
            compiled.append(_compile_stage(curriculum, stage, parent, of_length, started_stage, identity, members))
        except (ValueError, OverflowError) as error:  # limits of arithmetic, far beyond any real plan
            raise PlanError(
                f"stage `{stage.setting.stage}` cannot be planned: {error}",
                place=stage.setting.place("name"),
                hint="one of its lengths, or those of the stages before it, is far too large or too small",
            ) from None
    return Compiled(
        curriculum=curriculum.name,
        size_name=curriculum.size_name,
        scale=scaler.scale,
        tokenizer=curriculum.tokenizer,
        stages=tuple(compiled),
        sources=dict(sorted(choices[curriculum.stages[-1].clock.sequence_length].items())),
    )


def _members(
    curriculum: ResolvedCurriculum, stage: ResolvedStage, compile_: Callable[[ResolvedCurriculum], Compiled]
) -> tuple[CompiledMember, ...]:
    """The members of an average; empty for any other stage. `compile_` compiles a lineage that ends at a member."""
    average = stage.setting.average
    lineages = [resolve(curriculum.project, m.address.curriculum, curriculum.size_name, m.stages) for m in average]
    return tuple(
        CompiledMember(compiled=compile_(lineage), weight=weight, ema=member.ema)
        for member, lineage, weight in zip(average, lineages, whole_weights(average), strict=True)
    )


def _same_length_since(
    stage: ResolvedStage, parent: CompiledStage | None, used: Mapping[str, int]
) -> Mapping[str, int]:
    """The items of each source that the lineage had used when its windows took the length that `stage` has."""
    while parent is not None and parent.plan.sequence_length == stage.clock.sequence_length:
        used, parent = parent.plan.items(0), parent.parent
    return used


def _compile_stage(
    curriculum: ResolvedCurriculum,
    stage: ResolvedStage,
    parent: CompiledStage | None,
    choices: Mapping[str, SourceChoice],
    started_stage: StartedStageOf,
    tokenizer: Mapping[str, Any],
    members: tuple[CompiledMember, ...],
) -> CompiledStage:
    project, scaler = curriculum.project, curriculum.scaler
    setting, clock, mixture = stage.setting, stage.clock, stage.mixture
    parent_plan = parent.plan if parent else None
    notes = [stage.omitted] if stage.omitted else []
    origin = _origin(curriculum, stage, parent, notes)
    if mixture.rounded:
        notes.append(
            f"the weights of mixture `{mixture.name}` are as fine as 2^31 parts allow: shares are rounded by "
            "less than one part"
        )
    state = mixture_state(parent_plan, clock.start)
    started = started_stage(setting.curriculum, setting.stage)
    sources = source_plans(
        stage, parent_plan, state.items, choices, started, _same_length_since(stage, parent, state.items)
    )
    if setting.data_seeds:
        in_order = [name for name in mixture.weights if sources[name].order == "in-order"]
        notes += [f"`{name}` is read in order, which `data_seed` does not change" for name in in_order]
    notes += [
        f"shard {entry.shard} of `{entry.source}` is left out once the source is prepared"
        for entry in (*setting.left_out, *setting.leave_out)
        if choices[entry.source].digest is None
    ]
    declared_start = scaler.tokens(parent.left_at) if parent else 0
    phases, segments, ramp_sequences = mixture_phases(stage, scaler, state, parent_plan, declared_start, notes)
    scaling = rate_scaling(stage, scaler, parent_plan)
    plan = StagePlan(
        seed=setting.seed,
        model=scaler.model(setting),
        tokenizer=dict(tokenizer),
        optimizer=scaler.optimizer(setting),
        learning_rate=learning_rate(project, stage, scaler, parent_plan, parent.left_at if parent else 0, notes),
        sequence_length=clock.sequence_length,
        batch_sequences=clock.batches.changes[0].sequences,
        batch_changes=clock.batches.changes[1:],
        rate_batch=scaling.batch if scaling else None,
        rate_exponent=scaling.exponent if scaling else None,
        first_step=parent.plan.step_at(parent.stop) if parent else 0,
        steps=clock.steps,
        start=clock.start,
        sources=sources,
        blends=phases,
        pieces=segments,
        read_before=parent.plan.windows_read(parent.stop) if parent else {},
        parent=origin,
        reset_optimizer=setting.reset_optimizer or (setting.imported is not None and parent is None),
        mask_documents=setting.mask_documents,
        average=average_members(
            stage, [(m.stage.plan, m.stage.stop, m.weight, m.ema) for m in members], scaler.model(setting), tokenizer
        ),
        labels=_labels(setting, scaler),
    )
    notes += _forgets_at_once(plan)
    notes += idle_keys(curriculum, stage, plan, state)
    notes += high_rate(plan, clock.stop)
    if stage is curriculum.stages[-1]:
        notes += unfinished_decay(plan.learning_rate, clock.stop)
    limits = passes_allowed(mixture, choices)
    if not members:
        check_drawn(stage, plan, scaler, notes)
    command = f"curriculum prepare {setting.curriculum}{project.options(scaler.size_name)}"
    check_passes(stage, plan, limits, command, notes)
    every = cadence.cadence(setting, scaler, plan, [] if members else notes)
    total = sum(mixture.weights.values())
    return CompiledStage(
        setting=setting,
        plan=plan,
        declared_end=clock.declared_end,
        stop=clock.stop,
        left_at=stage.left_at,
        parent=parent,
        checkpoint_every=every.checkpoint,
        evaluate_every=every.evaluate,
        held_out_windows=cadence.held_out_windows(setting, scaler),
        keep=every.keep,
        task_every=cadence.task_cadence(setting, scaler, plan, notes),
        shares={name: Fraction(weight, total) for name, weight in sorted(mixture.weights.items())},
        ramp_sequences=ramp_sequences,
        limits=limits,
        notes=tuple(notes),
        members=members,
    )


def _forgets_at_once(plan: StagePlan) -> list[str]:
    """A note where a step is longer than the half-life of the moving average: a size may scale one below the other."""
    half_life = plan.optimizer.get("ema")
    if half_life is None or not plan.steps or half_life >= plan.batch_tokens:
        return []
    return [
        f"the moving average of the weights forgets half of them in {show_count(half_life)} tokens, less than one step "
        f"of {show_count(plan.batch_tokens)}: it is little else than the last weights"
    ]


def _origin(
    curriculum: ResolvedCurriculum, stage: ResolvedStage, parent: CompiledStage | None, notes: list[str]
) -> Parent | None:
    """The weights that the stage starts from: its parent's, an import's, or none for a root with drawn weights."""
    imported, start = stage.setting.imported, stage.clock.start
    if imported is not None and stage.setting.rope_theta is None and stage.setting.rope_scaling is None:
        _check_positions(curriculum, stage, imported.model["max_position_embeddings"])
    if parent is not None:
        return Parent(fingerprint=parent.plan.history(parent.stop), position=start)
    if imported is None:
        return None
    digest = imported_models.digest(curriculum.project, imported)
    notes += [*imported.unread, *_import_notes(curriculum.scaler, imported=digest is not None)]
    return Parent(fingerprint=digest or OPEN, position=0)


def _check_positions(curriculum: ResolvedCurriculum, stage: ResolvedStage, most: int) -> None:
    sequence_length = stage.clock.sequence_length
    if sequence_length > most:
        raise PlanError(
            f"a `sequence_length` of {sequence_length:,} is more than the {most:,} positions of the imported model",
            place=size_place(curriculum.project, curriculum.size_name, "sequence_length")
            or stage.setting.place("sequence_length"),
            hint=f"{most} or less fits, as its config.json says; or state `rope_theta:` or `rope_scaling:` there",
        )


def _import_notes(scaler: Scaler, *, imported: bool) -> list[str]:
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
        notes.append("the directory is not imported yet, or was touched since: `run` and `prepare` read it first")
    return notes


def _check_vocabulary(curriculum: ResolvedCurriculum, setting: Setting, vocabulary: int | None) -> None:
    """PlanError for a tokenizer with more ids than the model's embedding has rows."""
    project, size_name, name = curriculum.project, curriculum.size_name, curriculum.tokenizer
    imported = setting.imported is not None
    rows = _model(project, setting, curriculum.scaler)["vocab_size"]
    if vocabulary is None and not imported:
        vocabulary = project.sources.tokenizers[name].vocab_size
    if vocabulary is not None and vocabulary > rows:
        raise PlanError(
            f"tokenizer `{name}` has {vocabulary:,} ids, the model's vocabulary only {rows:,}",
            place=setting.place("from")
            if imported
            else size_place(project, size_name, "model", "vocab_size") or setting.place("model"),
            hint="tokenizer and weights of the directory do not belong together"
            if imported
            else f"give the model `vocab_size: {vocabulary}` or more, or take another tokenizer",
        )


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


def _labels(setting: Setting, scaler: Scaler) -> dict[str, Any]:
    """What a plan carries for people; its fingerprint does not depend on it."""
    return {
        "curriculum": setting.curriculum,
        "stage": setting.stage,
        "declared_end": setting.until,
        "mixture": setting.mixture,
        "size_scale": str(scaler.scale),
        "skip": [entry.model_dump(by_alias=True) for entry in setting.skip],
        "leave_out": [entry.model_dump() for entry in setting.leave_out],
    }


def spans(stages: Sequence[CompiledStage]) -> Lineage:
    """A compiled lineage as the names and plans that `plan.diff` compares."""
    return tuple(Span(stage.name, stage.plan, stage.stop) for stage in stages)

"""What people write, compiled: a lineage at a size becomes one plan of numbers per stage.

Every fault that needs more than one file is refused here, before any machine is busy. Nothing is read but YAML
and the manifests of prepared text; at 2T tokens this takes milliseconds, since no step is visited.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Literal

from curriculum import schema
from curriculum.errors import CurriculumError, Place, PlanError, did_you_mean
from curriculum.lineage import Leg, Setting, batch_sequences, length_in_tokens, lineage, parse_address
from curriculum.mixing import Ramp, Tree, integer_weights
from curriculum.plan import Blend, Parent, Piece, Segment, SourcePlan, StagePlan
from curriculum.project import Project
from curriculum.schedule import LARGEST_POSITION, LearningRate, Rewarm
from curriculum.units import Length, show_count, show_exact, show_share

DEFAULT_PASSES = Fraction(
    4
)  # Muennighoff et al. 2023: up to four passes are worth almost as much as fresh text
LR_JUMP = 0.01  # a branch whose own curve starts further than this from the parent's needs `rewarm:`


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known of a prepared dataset: windows of one pass at the size's sequence length, and its digest."""

    windows: int
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceChoice:
    """Which text stands for a source at this size, and how much of it one pass reads.

    `declared` is the full-size token count of `sources.yaml`; `windows` one pass at this size.
    """

    name: str
    dataset: str
    declared: int | None
    windows: int
    digest: str | None
    order: Literal["shuffled", "in-order"] = "shuffled"

    @property
    def stand_in(self) -> bool:
        return self.dataset != self.name


@dataclass(frozen=True, kw_only=True)
class CompiledStage:
    """A stage's plan with what only people need beside it. Positions in tokens at this size."""

    setting: Setting
    plan: StagePlan
    declared_end: int
    stop: int
    parent: CompiledStage | None
    checkpoint_every: int
    evaluate_every: int
    shares: Mapping[str, Fraction]
    ramp_sequences: int
    limits: Mapping[str, Fraction]
    notes: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.setting.curriculum}/{self.setting.stage}"

    @property
    def steps_run(self) -> int:
        """Steps this lineage takes of the stage: all of them, or those up to the branch point."""
        return (self.stop - self.plan.start) // self.plan.batch_tokens


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """A whole lineage at a size, root first."""

    curriculum: str
    size_name: str
    size: schema.SizeEntry
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
    facts: Callable[[str], Facts | None] = lambda dataset: None,
    tokenizer: Mapping[str, Any] | None = None,
) -> Compiled:
    """Compile curriculum `name` at size `size_name`.

    `facts(dataset)` tells what is prepared (None: not yet, declared sizes are used). `tokenizer` is
    `{"name", "digest", "vocab_size", "eos"}` once there is one. Raises ConfigError, NotFound or PlanError.
    """
    return compile_legs(project, name, lineage(project, name), size_name, facts=facts, tokenizer=tokenizer)


def compile_legs(
    project: Project,
    name: str,
    legs: tuple[Leg, ...],
    size_name: str,
    *,
    facts: Callable[[str], Facts | None] = lambda dataset: None,
    tokenizer: Mapping[str, Any] | None = None,
) -> Compiled:
    """`compile_curriculum` for a lineage that may stop short of its curriculum's end."""
    size = project.size(size_name)
    _check_stand_ins(project, size_name, size)
    scaler = _Scaler(size, size_name, legs[0].setting)
    choices: dict[tuple[str, int], SourceChoice] = {}
    compiled: list[CompiledStage] = []
    wanted_tokenizer = size.tokenizer or legs[0].setting.tokenizer
    if wanted_tokenizer not in project.sources.tokenizers:
        raise PlanError(
            f"unknown tokenizer `{wanted_tokenizer}`: sources.yaml binds no file to it",
            place=_size_place(project, size_name, "tokenizer") or legs[0].setting.place("tokenizer"),
            hint=did_you_mean(wanted_tokenizer, project.sources.tokenizers),
        )
    identity = dict(tokenizer) if tokenizer else {"name": wanted_tokenizer, "digest": None}
    entry = project.sources.tokenizers[wanted_tokenizer]
    vocabulary = identity.get("vocab_size") or entry.vocab_size
    for leg in legs:
        model = scaler.model(leg.setting)
        if vocabulary is not None and vocabulary > model["vocab_size"]:
            raise PlanError(
                f"tokenizer `{wanted_tokenizer}` has {vocabulary:,} ids, the model's vocabulary only "
                f"{model['vocab_size']:,}",
                place=_size_place(project, size_name, "model", "vocab_size") or leg.setting.place("model"),
                hint=f"give the model `vocab_size: {vocabulary}` or more, or take another tokenizer",
            )
        parent = compiled[-1] if compiled else None
        try:
            stage = _compile_stage(project, leg, scaler, parent, choices, facts, identity)
        except (ValueError, OverflowError) as error:
            # Arithmetic's own limits, which no file that is meant comes near.
            raise PlanError(
                f"stage `{leg.setting.stage}` cannot be planned: {error}",
                place=leg.setting.place("name"),
                hint="one of its lengths, or those of the stages before it, is far too large or too small",
            ) from None
        compiled.append(stage)
    return Compiled(
        curriculum=name,
        size_name=size_name,
        size=size,
        scale=scaler.scale,
        tokenizer=wanted_tokenizer,
        stages=tuple(compiled),
        sources={name: choice for (name, _), choice in sorted(choices.items())},
    )


def _size_place(project: Project, size_name: str, *keys: str) -> Place | None:
    """Where a size states what overrides the stage files; None when it does not."""
    path = (size_name, *keys)
    return project.sizes_document.place(path) if path in project.sizes_document else None


def _check_stand_ins(project: Project, size_name: str, size: schema.SizeEntry) -> None:
    sources, document = project.sources.sources, project.sizes_document
    for source, dataset in size.stand_ins.items():
        path = (size_name, "stand_ins", source)
        for name, place in ((source, document.key_place(path)), (dataset, document.place(path))):
            if name not in sources:
                raise PlanError(
                    f"unknown source `{name}` in the stand-ins of size `{size_name}`",
                    place=place,
                    hint=did_you_mean(name, sources),
                )


class _Scaler:
    """Full-size settings at a size: one scale for every length, the rest replaced by what the size states."""

    def __init__(self, size: schema.SizeEntry, size_name: str, root: Setting) -> None:
        self.size = size
        self.size_name = size_name
        self.root = root
        self.scale = size.tokens if size.tokens is not None else Fraction(1)
        self.root_batch = self.batch(root)

    def tokens(self, full: int) -> int:
        return math.ceil(full * self.scale)

    def sequence_length(self, setting: Setting) -> int:
        return self.size.sequence_length or setting.sequence_length

    def batch(self, setting: Setting) -> int:
        full = batch_sequences(setting)
        if self.size.batch is None:
            return full
        scaled = Fraction(full * self.size.batch.to, self.size.batch.from_)
        if scaled.denominator == 1:
            return int(scaled)
        step = self.size.batch.from_ // math.gcd(self.size.batch.from_, self.size.batch.to)
        near = [n for n in (full // step * step, (full // step + 1) * step) if n]
        raise PlanError(
            f"a batch of {full} sequences is {float(scaled):.2f} sequences at this size "
            f"({self.size.batch.from_} become {self.size.batch.to})",
            place=setting.place("batch"),
            hint=f"the nearest that fit: {' or '.join(f'{n} sequences' for n in near)}",
        )

    def model(self, setting: Setting) -> dict[str, Any]:
        numbers = setting.model.model_dump(exclude_none=True)
        if self.size.model is not None:
            numbers.update(self.size.model.model_dump(exclude_unset=True, exclude_none=True))
        numbers["max_position_embeddings"] = self.sequence_length(setting)
        return {key: float(value) if isinstance(value, Fraction) else value for key, value in numbers.items()}

    def length(self, setting: Setting, length: Length, key: str) -> int:
        """The length that stands at `key`, in scaled tokens; steps are those of the stage's full-size batch."""
        return self.tokens(length_in_tokens(setting, length, key))

    def small(self, setting: Setting, length: Length) -> int:
        """A length stated by the size itself: steps and sequences are the scaled ones, tokens are taken as they are."""
        return length.tokens(
            sequence_length=self.sequence_length(setting), batch_sequences=self.batch(setting)
        )

    def learning_rate(self, setting: Setting) -> LearningRate:
        entry = setting.learning_rate
        own = self.size.learning_rate
        low, high, warmup = entry.min, entry.max, None
        if own is not None:
            # Another curve than the root's keeps its ratio to the root's, whose ends the size states.
            root = self.root.learning_rate
            if own.max is not None:
                high = entry.max * own.max / root.max
            if own.min is not None:
                low = entry.min * own.min / root.min if root.min else own.min
            if own.warmup is not None:
                warmup = self.small(self.root, own.warmup)
        if warmup is None:
            warmup = self.length(self.root, entry.warmup, "learning_rate") if entry.warmup else 0
        decay = self.length(self.root, entry.decay, "learning_rate") if entry.decay else 0
        return LearningRate(
            shape=entry.shape,
            max=float(high),
            min=float(low),
            warmup=warmup,
            horizon=self.length(self.root, entry.horizon, "learning_rate"),
            decay=decay,
        )


def _compile_stage(
    project: Project,
    leg: Leg,
    scaler: _Scaler,
    parent: CompiledStage | None,
    choices: dict[tuple[str, int], SourceChoice],
    facts: Callable[[str], Facts | None],
    tokenizer: Mapping[str, Any],
) -> CompiledStage:
    setting = leg.setting
    notes: list[str] = []
    start = parent.stop if parent else 0
    sequence_length = scaler.sequence_length(setting)
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
    weights, limits = _mixture(project, setting, sequence_length, scaler, choices, facts)
    before = _Before.of(parent)
    sources = _sources(setting, parent, before, choices, weights, sequence_length)
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
    blends, virtual = _blends(before, weights, n)
    pieces = _skip(setting, scaler, virtual, start, sequence_length, batch, declared_end)
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
        parent=Parent(fingerprint=parent.plan.history(parent.stop), position=start) if parent else None,
        reset_optimizer=setting.reset_optimizer,
        mask_documents=setting.mask_documents,
        labels={
            "curriculum": setting.curriculum,
            "stage": setting.stage,
            "declared_end": setting.until,
            "mixture": setting.mixture,
            "size_scale": str(scaler.scale),
        },
    )
    stop = plan.end
    if leg.cut is not None:
        cut_steps = -((start - scaler.tokens(leg.cut)) // batch_tokens)
        stop = start + min(max(cut_steps, 0), steps) * batch_tokens
    _check_drawn(project, setting, plan, weights, scaler, notes)
    _check_passes(project, setting, plan, limits, stop)
    checkpoint_every, evaluate_every = _cadence(setting, scaler, plan, notes)
    total = sum(weights.values())
    return CompiledStage(
        setting=setting,
        plan=plan,
        declared_end=declared_end,
        stop=stop,
        parent=parent,
        checkpoint_every=checkpoint_every,
        evaluate_every=evaluate_every,
        shares={name: Fraction(weight, total) for name, weight in sorted(weights.items())},
        ramp_sequences=n,
        limits=limits,
        notes=tuple(notes),
    )


# --- mixture and sources ---------------------------------------------------------------------------------


def _mixture(
    project: Project,
    setting: Setting,
    sequence_length: int,
    scaler: _Scaler,
    choices: dict[tuple[str, int], SourceChoice],
    facts: Callable[[str], Facts | None],
) -> tuple[dict[str, int], dict[str, Fraction]]:
    if setting.mixture not in project.names("mixtures"):
        # Told where the stage names it, which says more than the missing file.
        raise PlanError(
            f"unknown mixture `{setting.mixture}` in stage `{setting.stage}`",
            place=setting.place("mixture"),
            hint=did_you_mean(setting.mixture, project.names("mixtures")),
        )
    file, document = project.mixture(setting.mixture)
    for name in (*file.weights, *file.passes):
        if name not in project.sources.sources:
            key = "weights" if name in file.weights else "passes"
            raise PlanError(
                f"unknown source `{name}` in mixture `{setting.mixture}`",
                place=document.key_place((key, name)),
                hint=did_you_mean(name, project.sources.sources),
            )
    try:
        weights = integer_weights(file.weights)
    except ValueError as error:
        raise PlanError(
            str(error), place=document.place(("weights",)), hint="leave that source out, or raise its weight"
        ) from None
    for name in weights:
        if (name, sequence_length) not in choices:
            choices[name, sequence_length] = _choose(project, name, scaler, sequence_length, facts)
    return weights, {name: file.passes.get(name, DEFAULT_PASSES) for name in weights}


def _choose(
    project: Project,
    name: str,
    scaler: _Scaler,
    sequence_length: int,
    facts: Callable[[str], Facts | None],
) -> SourceChoice:
    entry = project.sources.sources[name]
    dataset = scaler.size.stand_ins.get(name, name)
    known = facts(dataset)
    declared = entry.tokens
    if declared is None and known is None:
        windows = 0
    elif scaler.scale == 1 and known is not None:
        windows = known.windows
    else:
        full = declared if declared is not None else (known.windows * sequence_length if known else 0)
        windows = int(full * scaler.scale) // sequence_length
        if known is not None and known.windows < windows:
            raise PlanError(
                f"`{dataset}` has too little text to stand for `{name}`: {known.windows:,} windows of "
                f"{sequence_length} tokens where {windows:,} are needed",
                place=project.sources_document.key_place(("sources", dataset)),
                hint=f"give `{dataset}` more text, or lower the scale of the size",
            )
    if windows == 0 and (declared is not None or known is not None):
        raise PlanError(
            f"source `{name}` has less than one window of {sequence_length} tokens at this size",
            place=project.sources_document.key_place(("sources", name)),
            hint="a larger size, a shorter sequence_length, or more text",
        )
    return SourceChoice(
        name=name,
        dataset=dataset,
        declared=declared,
        windows=windows,
        digest=known.digest if known else None,
        order=entry.order,
    )


def _sources(
    setting: Setting,
    parent: CompiledStage | None,
    before: _Before,
    choices: Mapping[tuple[str, int], SourceChoice],
    weights: Mapping[str, int],
    sequence_length: int,
) -> dict[str, SourcePlan]:
    """Each source's segments: those of the lineage, and a new one where `positions: restart` asks for it."""
    inherited = dict(parent.plan.sources) if parent else {}
    changed = parent is not None and parent.plan.sequence_length != sequence_length
    if changed and setting.positions is None:
        raise PlanError(
            f"`sequence_length` changes from {parent.plan.sequence_length if parent else 0} to "
            f"{sequence_length}, which redefines every window",
            place=setting.place("sequence_length"),
            hint="say `positions: restart` in the stage: every source then begins its next pass",
        )
    if changed and setting.positions == "unseen":
        raise PlanError(
            "`positions: unseen` cannot follow windows of another length",
            place=setting.place("positions"),
            hint="say `positions: restart`, or keep the sequence_length",
        )
    names = set(inherited) | set(weights)
    plans: dict[str, SourcePlan] = {}
    for name in sorted(names):
        old = inherited.get(name)
        choice = choices.get((name, sequence_length))
        if choice is None:
            # Inherited and no longer in the mixture: it keeps its place for a later stage that takes it up again.
            assert old is not None
            plans[name] = old
            continue
        if old is None:
            segments: tuple[Segment, ...] = (
                Segment(first_item=0, pass_number=0, windows=choice.windows, digest=choice.digest),
            )
        elif setting.positions == "restart":
            used = before.items.get(name, 0)
            last = old.segments[-1]
            begun = -(-(used - last.first_item) // last.windows) if last.windows else 0
            fresh = Segment(
                first_item=used,
                pass_number=last.pass_number + begun,
                windows=choice.windows,
                digest=choice.digest,
            )
            segments = (*(s for s in old.segments if s.first_item < used), fresh)
        else:
            segments = old.segments
        plans[name] = SourcePlan(dataset=choice.dataset, segments=segments, order=choice.order)
    return plans


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


# --- the order -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Before:
    """Where the lineage's mixture stood when this stage began: the blend in force, and items used of each source."""

    blend: Blend | None
    index: int
    items: Mapping[str, int]

    @staticmethod
    def of(parent: CompiledStage | None) -> _Before:
        if parent is None:
            return _Before(None, 0, {})
        plan = parent.plan
        sequence = (parent.stop - plan.start) // plan.sequence_length
        piece = next(p for p in reversed(plan.pieces) if p.first <= max(sequence - 1, 0))
        blend = plan.blends[piece.blend]
        index = piece.index + sequence - piece.first
        return _Before(blend, index, blend.items(index))


def _blends(before: _Before, weights: dict[str, int], ramp: int) -> tuple[tuple[Blend, ...], list[Piece]]:
    """The stage's blends and their pieces, before any skip is cut out."""
    old = before.blend
    if old is not None and ramp == 0 and dict(old.weights) == weights:
        # The same mixture goes on counting where the parent stopped; a ramp left half-way is over.
        if old.before is None:
            return (old,), [Piece(first=0, blend=0, index=before.index)]
        mixer = old.mixer
        assert isinstance(mixer, Ramp)
        after = int(mixer.after_index(before.index))
        counts = Tree(weights).counts(after)
        base = {name: before.items.get(name, 0) - counts.get(name, 0) for name in {*before.items, *counts}}
        return (Blend(weights=weights, base=base),), [Piece(first=0, blend=0, index=after)]
    if old is None or ramp == 0:
        return (Blend(weights=weights, base=before.items),), [Piece(first=0, blend=0, index=0)]
    if old.before is None:
        from_weights, from_index = dict(old.weights), before.index
    else:
        mixer = old.mixer
        assert isinstance(mixer, Ramp)
        from_weights, from_index = integer_weights(mixer.shares(before.index)), 0
    rising = Blend(
        weights=weights, base=before.items, before=from_weights, before_index=from_index, ramp=ramp
    )
    mixer = rising.mixer
    assert isinstance(mixer, Ramp)
    after = int(mixer.after_index(ramp))
    reached = rising.items(ramp)
    counts = Tree(weights).counts(after)
    steady = Blend(weights=weights, base={name: reached[name] - counts.get(name, 0) for name in reached})
    return (rising, steady), [Piece(first=0, blend=0, index=0), Piece(first=ramp, blend=1, index=after)]


def _skip(
    setting: Setting,
    scaler: _Scaler,
    virtual: list[Piece],
    start: int,
    sequence_length: int,
    batch: int,
    declared_end: int,
) -> tuple[Piece, ...]:
    """Cut skipped ranges out: from the step boundary at or past `from`, draws go on where `to` would have been."""
    pieces = list(virtual)
    for entry in setting.skip:
        begin, end = scaler.tokens(entry.from_), scaler.tokens(entry.to)
        if not start <= begin < end <= declared_end:
            raise PlanError(
                f"`skip` from {show_count(entry.from_)} to {show_count(entry.to)} does not lie inside stage "
                f"`{setting.stage}`",
                place=setting.place("skip"),
                hint="give positions from the root, inside the stage, `from` before `to`",
            )
        batch_tokens = batch * sequence_length
        first = -((start - begin) // batch_tokens) * batch
        length = -(-(end - begin) // batch_tokens) * batch
        ahead = [p for p in pieces if p.first <= first]
        moved: list[Piece] = []
        for at, piece in enumerate(pieces):
            stop = pieces[at + 1].first if at + 1 < len(pieces) else None
            inside = max(piece.first, first + length)
            if stop is None or inside < stop:
                moved.append(
                    Piece(first=inside - length, blend=piece.blend, index=piece.index + inside - piece.first)
                )
        pieces = [*(p for p in ahead if p.first < first), *moved]
    return tuple(pieces)


# --- learning rate, checks, cadence ----------------------------------------------------------------------


def _learning_rate(
    project: Project,
    setting: Setting,
    scaler: _Scaler,
    parent: CompiledStage | None,
    start: int,
    notes: list[str],
    declared_end: int,
) -> LearningRate:
    if parent is not None and not setting.own_learning_rate:
        curve = parent.plan.learning_rate
    else:
        try:
            curve = scaler.learning_rate(setting)
        except ValueError as error:
            raise PlanError(
                str(error),
                place=_size_place(project, scaler.size_name, "learning_rate")
                or setting.place("learning_rate"),
                hint="the rates and the warm-up are the size's where it states them, and the horizon is scaled"
                if scaler.size.learning_rate
                else "warm-up, decay and horizon lie on one line of tokens, in this order",
            ) from None
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


def _check_drawn(
    project: Project,
    setting: Setting,
    plan: StagePlan,
    weights: Mapping[str, int],
    scaler: _Scaler,
    notes: list[str],
) -> None:
    _, document = project.mixture(setting.mixture)
    drawn_before = plan.read_before
    drawn = plan.windows_read(plan.end)
    tree = Tree(dict(weights))
    for name in weights:
        if drawn.get(name, 0) > drawn_before.get(name, 0):
            continue
        smallest = (int(tree.where(name, 0)) + 1) * plan.sequence_length
        what = (
            f"source `{name}` has weight but is never drawn in stage `{setting.curriculum}/{setting.stage}`"
        )
        if scaler.scale == 1:
            raise PlanError(
                what,
                place=document.place(("weights", name)),
                hint=f"its share of {show_share(Fraction(weights[name], tree.total))} is first served by a stage of "
                f"{show_count(smallest)} tokens; lengthen the stage or raise the weight",
            )
        notes.append(f"{what}: at this size it is first served after {show_count(smallest)} tokens")


def _check_passes(
    project: Project, setting: Setting, plan: StagePlan, limits: Mapping[str, Fraction], stop: int
) -> None:
    _, document = project.mixture(setting.mixture)
    used = plan.items((stop - plan.start) // plan.sequence_length)
    for name, limit in limits.items():
        source = plan.sources[name]
        if source.windows == 0:
            continue  # neither declared nor prepared yet: checked again once it is
        unseen = setting.positions == "unseen"
        allowed = Fraction(1) if unseen else limit
        last = source.segments[-1]
        most = last.first_item + (allowed - last.pass_number) * last.windows
        if used.get(name, 0) > most:
            raise PlanError(
                f"source `{name}` is too small: stage `{setting.curriculum}/{setting.stage}` would bring it to "
                f"{source.passes(used[name]):.3f} passes over the lineage; {_passes(allowed)} is the limit",
                place=setting.place("positions") if unseen else document.place(("weights", name)),
                hint="lower its weight, shorten the stage, or "
                + (
                    "leave `positions: unseen` out"
                    if unseen
                    else f"allow more: `passes: {{{name}: {math.ceil(source.passes(used[name]))}}}`"
                ),
            )


def _passes(limit: Fraction) -> str:
    return str(limit) if limit.denominator == 1 else f"{float(limit):g}"


def _cadence(setting: Setting, scaler: _Scaler, plan: StagePlan, notes: list[str]) -> tuple[int, int]:
    length = plan.end - plan.start
    cadence = []
    most = scaler.size.at_most
    for what, stated, at_most in (
        ("checkpoint", setting.every.checkpoint, most.checkpoints if most else None),
        ("evaluate", setting.every.evaluate, most.evaluations if most else None),
    ):
        tokens = scaler.length(setting, stated, "every") if stated is not None else length
        if at_most is not None and length > tokens * at_most:
            tokens = -(-length // at_most)
            notes.append(
                f"`every: {what}` becomes {show_count(tokens)} tokens: at most {at_most} a stage at this size"
            )
        cadence.append(tokens)
    return cadence[0], cadence[1]


def kept_positions(project: Project, compiled: CompiledStage, scale: Fraction) -> tuple[int, ...]:
    """Positions inside this stage that some stage file branches from: a checkpoint is taken and kept at each."""
    plan = compiled.plan
    positions = set()
    for name in project.names("stages"):
        try:
            file, _ = project.curriculum(name)
            address = parse_address(file.from_) if file.from_ else None
        except CurriculumError:  # a broken file elsewhere is its author's error, not this run's
            continue
        if address is None or address.position is None or address.curriculum != compiled.setting.curriculum:
            continue
        scaled = math.ceil(address.position * scale)
        steps = -((plan.start - scaled) // plan.batch_tokens)
        if 0 < steps <= plan.steps:
            positions.add(plan.start + steps * plan.batch_tokens)
    return tuple(sorted(positions))

"""A curriculum at a size with its names resolved: stages, mixtures, sources and tokenizer, each to its entry.

Nothing here depends on prepared text: it is resolved once, and compiled once for each state of that text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

from curriculum import config
from curriculum.compiler.clock import StageClock, stage_clock
from curriculum.compiler.lineage import LineageStage, Setting, length_in_tokens, lineage
from curriculum.compiler.scaling import Scaler, size_place
from curriculum.config.project import Project
from curriculum.config.yaml import Document
from curriculum.errors import PlanError, did_you_mean
from curriculum.plan.mixing import integer_weights
from curriculum.units import Length, show_count


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """A mixture file: the weights of its sources as integers, the limits of passes and the parts of texts it states.

    `rounded` is whether the proportions of the file are finer than integers up to 2^31.
    """

    name: str
    weights: Mapping[str, int]
    rounded: bool
    passes: Mapping[str, Fraction]
    take: Mapping[str, Fraction]
    document: Document = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedStage:
    """A stage of a lineage, its mixture and its clock; the lineage leaves it at `left_at` (full-size tokens).

    `ramp_of` is the stage that states the ramp, where it is not this one; `due` are the entries of `skip` that come
    from the stage before, which was left at the step at which they begin; `omitted` is said of a stage that the file
    states before this one and that has no step at this size.
    """

    setting: Setting
    left_at: int
    mixture: Mixture
    clock: StageClock
    ramp_of: Setting | None = None
    due: tuple[config.SkipEntry, ...] = ()
    omitted: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedCurriculum:
    """A lineage at a size, root first, and the name of its tokenizer."""

    project: Project
    name: str
    scaler: Scaler
    tokenizer: str
    stages: tuple[ResolvedStage, ...]

    @property
    def size(self) -> config.SizeEntry:
        return self.scaler.size

    @property
    def size_name(self) -> str:
        return self.scaler.size_name

    @property
    def datasets(self) -> dict[str, str]:
        """Every source that the lineage draws from or measures to the dataset that it reads at this size."""
        names = sorted({name for stage in self.stages for name in (*stage.mixture.weights, *stage.setting.measure)})
        return {name: self.size.stand_ins.get(name, name) for name in names}


def resolve(
    project: Project, name: str, size_name: str, stages: Sequence[LineageStage] | None = None
) -> ResolvedCurriculum:
    """Resolve curriculum `name` at size `size_name`, or the `stages` of a lineage that ends before it does.

    Raises ConfigError, NotFound or PlanError at the line of the first name that does not exist.
    """
    stages = lineage(project, name) if stages is None else stages
    size = project.size(size_name)
    _check_stand_ins(project, size_name, size)
    root = stages[0].setting
    scaler = Scaler(size, size_name, root)
    tokenizer = (size.tokenizer if root.imported is None else None) or root.tokenizer
    if root.imported is None and tokenizer not in project.sources.tokenizers:
        raise PlanError(
            f"unknown tokenizer `{tokenizer}`: sources.yaml binds no file to it",
            place=size_place(project, size_name, "tokenizer") or root.place("tokenizer"),
            hint=did_you_mean(tokenizer, project.sources.tokenizers),
        )
    mixtures: dict[str, Mixture] = {}
    resolved: list[ResolvedStage] = []
    ahead: _Ahead | None = None
    omitted: str | None = None
    for at, stage in enumerate(stages):
        start, before = resolved[-1].clock.stop if resolved else 0, stages[at - 1] if at else None
        setting, ramp_of, due = ahead.of(stage.setting) if ahead else (stage.setting, None, ())
        ahead = None
        can_go = (not setting.average and stage.cut is not None) or (
            at + 1 < len(stages) and before is not None and _is_rest(setting, before)
        )
        if resolved and can_go and scaler.tokens(stage.left_at) <= start:
            # the boundary at or past the branch position, or the declared end, is the end of the stage before
            skips = tuple(entry for entry in setting.skip if entry.from_ < stage.left_at)
            ahead = _Ahead(setting, ramp_of, (*due, *skips))
            if stage.cut is None:
                omitted = f"`{stage.name}` has no step: what comes before it ends at {show_count(start)} tokens"
            continue
        for source in setting.measure:
            if source not in project.sources.sources:
                raise PlanError(
                    f"unknown source `{source}` in `measure` of stage `{setting.stage}`",
                    place=setting.place("measure"),
                    hint=did_you_mean(source, project.sources.sources),
                )
        if setting.mixture not in mixtures:
            mixtures[setting.mixture] = _mixture(project, setting)
        clock = stage_clock(stage, scaler, start)
        if stage.cut is not None:
            ahead = _Ahead(None, None, _due_at_end(stage, clock, scaler))
        resolved.append(
            ResolvedStage(
                setting=setting,
                left_at=stage.left_at,
                mixture=mixtures[setting.mixture],
                clock=clock,
                ramp_of=ramp_of,
                due=due,
                omitted=omitted,
            )
        )
        omitted = None
    return ResolvedCurriculum(project=project, name=name, scaler=scaler, tokenizer=tokenizer, stages=tuple(resolved))


@dataclass(frozen=True, slots=True)
class _Ahead:
    """What a lineage leaves undone where it leaves a stage, and the stage after it does unless it says otherwise.

    `setting` is a stage of which it takes no step at this size: its events happen where the next stage starts.
    """

    setting: Setting | None
    ramp_of: Setting | None
    due: tuple[config.SkipEntry, ...]

    def of(self, after: Setting) -> tuple[Setting, Setting | None, tuple[config.SkipEntry, ...]]:
        """The stage `after` with these events, the stage whose ramp it follows, and the skips that are due in it."""
        due = () if after.own_mixture else self.due
        before = self.setting
        if before is None:
            return after, None, due
        ramp_of = None
        changes: dict[str, Any] = {
            "positions": after.positions or before.positions,
            "reset_optimizer": after.reset_optimizer or before.reset_optimizer,
            "left_out": before.left_out,
            "leave_out": (*before.leave_out, *after.leave_out),
            "earlier_data_seeds": before.earlier_data_seeds,
            "data_seeds": (*before.data_seeds, *after.data_seeds),
        }
        if not after.own_mixture and after.ramp is None:
            changes |= {"ramp": before.ramp, "own_mixture": before.own_mixture}
            ramp_of = self.ramp_of or (before if before.ramp is not None else None)
        if not after.own_learning_rate:
            rewarm = before.rewarm and Length(length_in_tokens(before, before.rewarm, "rewarm"), "tokens")
            changes |= {"own_learning_rate": before.own_learning_rate, "rewarm": rewarm}
        return replace(after, **changes), ramp_of, due


def _is_rest(setting: Setting, before: LineageStage) -> bool:
    """Whether a stage is the rest of `before`, which a branch cuts, as `runs.branch` writes it."""
    cut = before.setting
    return before.cut is not None and setting.stage == cut.stage and setting.until <= cut.until


def _due_at_end(stage: LineageStage, clock: StageClock, scaler: Scaler) -> tuple[config.SkipEntry, ...]:
    """The skips of a cut stage that begin before the branch position, and at the step at which the stage is left."""

    def begins(entry: config.SkipEntry) -> int:
        return clock.batches.position(clock.batches.step_from(scaler.tokens(entry.from_)))

    return tuple(entry for entry in stage.setting.skip if entry.from_ < stage.left_at and begins(entry) >= clock.stop)


def _check_stand_ins(project: Project, size_name: str, size: config.SizeEntry) -> None:
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


def _mixture(project: Project, setting: Setting) -> Mixture:
    """The mixture that a stage names; PlanError for an unknown one, or one that names an unknown source."""
    name = setting.mixture
    if name not in project.names("mixtures"):  # the stage's line is more useful than the missing file
        raise PlanError(
            f"unknown mixture `{name}` in stage `{setting.stage}`",
            place=setting.place("mixture"),
            hint=did_you_mean(name, project.names("mixtures")),
        )
    file, document = project.mixture(name)
    for source in (*file.weights, *file.passes):
        if source not in project.sources.sources:
            key = "weights" if source in file.weights else "passes"
            raise PlanError(
                f"unknown source `{source}` in mixture `{name}`",
                place=document.key_place((key, source)),
                hint=did_you_mean(source, project.sources.sources),
            )
    try:
        weights = integer_weights(file.weights)
    except ValueError as error:
        raise PlanError(
            str(error), place=document.place(("weights",)), hint="leave that source out, or raise its weight"
        ) from None
    parts, total = sum(weights.values()), sum(file.weights.values())
    return Mixture(
        name=name,
        weights=weights,
        rounded=any(file.weights[source] * parts != weight * total for source, weight in weights.items()),
        passes=file.passes,
        take=file.take,
        document=document,
    )

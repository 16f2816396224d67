"""The sources of a stage: the dataset of each at a size, its windows, and the segments that the stage reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, TypeAlias

from curriculum.compiler.lineage import Setting
from curriculum.compiler.resolve import Mixture, ResolvedCurriculum, ResolvedStage
from curriculum.compiler.segments import (
    ExcludedWindows,
    PreparedState,
    ending_early,
    extend,
    first_segments,
    next_epoch,
)
from curriculum.errors import PlanError, did_you_mean
from curriculum.plan.source import Reseed, SourcePlan
from curriculum.plan.stage import StagePlan

DEFAULT_PASSES = Fraction(4)
"""Muennighoff et al. 2023: up to four passes are worth almost as much as fresh text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedInfo:
    """A prepared dataset: its windows of one pass at a sequence length, and its digest.

    `states` are those after each preparation, the present one last; empty means that there was one preparation.
    `shards` are the windows of each shard, `held_out` those that are held out.
    """

    windows: int
    digest: str
    held_out: int | None = None
    states: tuple[PreparedState, ...] = ()
    shards: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StartedStage:
    """A stage with a checkpoint: the plan that trains it, and the items used of each source at its last checkpoint."""

    plan: StagePlan
    items: Mapping[str, int]


PreparedInfoOf: TypeAlias = Callable[[str, int], PreparedInfo | None]
"""Of a dataset at a sequence length; None while it is not prepared."""
StartedStageOf: TypeAlias = Callable[[str, str], StartedStage | None]
"""Of a curriculum and its stage; None before its first checkpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceChoice:
    """The dataset of a source at a size, and the windows of one pass.

    `declared` is the full-size token count of `sources.yaml`; `windows` are spread evenly over `out_of` prepared
    windows where a size takes fewer; a `probe` is held out as a whole, so that it has none. `held_out` are the windows
    held out, None while the text is not prepared.
    """

    name: str
    dataset: str
    declared: int | None
    windows: int
    digest: str | None
    held_out: int | None = None
    order: Literal["shuffled", "in-order"] = "shuffled"
    out_of: int | None = None
    declared_from: str | None = None
    assumed: bool = False
    probe: bool = False
    states: tuple[PreparedState, ...]
    shards: tuple[int, ...] = ()

    @property
    def stand_in(self) -> bool:
        return self.dataset != self.name


def choose_sources(curriculum: ResolvedCurriculum, prepared_info: PreparedInfoOf) -> dict[int, dict[str, SourceChoice]]:
    """The dataset of every source at each sequence length of the lineage.

    A source that a stage no longer draws from is counted in the stage's windows too: a later stage may draw from it.
    """
    names: dict[str, None] = {}
    choices: dict[int, dict[str, SourceChoice]] = {}
    for stage in curriculum.stages:
        length = stage.clock.sequence_length
        names.update(dict.fromkeys((*stage.mixture.weights, *stage.setting.measure)))
        of_length = choices.setdefault(length, {})
        for name in names:
            if name not in of_length:
                of_length[name] = _choose(curriculum, name, length, prepared_info)
            if of_length[name].probe and name in stage.mixture.weights:
                raise PlanError(
                    f"`{name}` is held out as a whole: there is no text of it to train on",
                    place=stage.mixture.document.key_place(("weights", name)),
                    hint=f"leave it out of the mixture; `measure: [{name}]` in a stage, or a study's goal, measures it",
                )
    return choices


def _choose(
    curriculum: ResolvedCurriculum, name: str, sequence_length: int, prepared_info: PreparedInfoOf
) -> SourceChoice:
    """The dataset of source `name` and the windows of one pass; PlanError when that is too little."""
    project, scaler = curriculum.project, curriculum.scaler
    entry = project.sources.sources[name]
    dataset = scaler.size.stand_ins.get(name, name)
    info = prepared_info(dataset, sequence_length)
    declared = entry.tokens
    probe = project.sources.sources[dataset].is_probe
    if probe or (declared is None and info is None):
        windows = 0
    elif scaler.scale == 1 and info is not None:
        windows = info.windows
    else:
        full = declared if declared is not None else (info.windows * sequence_length if info else 0)
        windows = int(full * scaler.scale) // sequence_length
        if info is not None and info.windows < windows:
            raise PlanError(
                f"`{dataset}` has too little text to replace `{name}`: {info.windows:,} windows of "
                f"{sequence_length} tokens where {windows:,} are needed",
                place=project.sources_document.key_place(("sources", dataset)),
                hint=f"give `{dataset}` more text, or lower the scale of the size",
            )
    digest: str | None = None
    out_of: int | None = None
    states: tuple[PreparedState, ...] = ()
    if info is not None:
        digest, states = info.digest, info.states
        if info.windows != windows and not probe:
            # A size takes its share of the earliest state that holds it: text appended later moves nothing.
            present = PreparedState(info.windows, info.digest)
            state = next((state for state in states if state.windows >= windows), present)
            digest, states = state.digest, ()
            out_of = state.windows if state.windows > windows else None
    if windows == 0 and not probe and (declared is not None or info is not None):
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
        declared_from=entry.tokens_from,
        assumed=entry.assumed,
        probe=probe,
        out_of=out_of,
        digest=digest,
        held_out=info.held_out if info else None,
        order=entry.order,
        states=states or (PreparedState(windows, digest),),
        shards=info.shards if info else (),
    )


def passes_allowed(mixture: Mixture, choices: Mapping[str, SourceChoice]) -> dict[str, Fraction]:
    """The limit of passes of each source of the mixture; one pass of a corpus in order unless it allows more."""
    defaults = {"in-order": Fraction(1), "shuffled": DEFAULT_PASSES}
    return {name: mixture.passes.get(name, defaults[choices[name].order]) for name in mixture.weights}


def source_plans(
    stage: ResolvedStage,
    parent: StagePlan | None,
    used_before: Mapping[str, int],
    choices: Mapping[str, SourceChoice],
    started: StartedStage | None,
    since: Mapping[str, int],
) -> dict[str, SourcePlan]:
    """Each source's segments: those of the lineage, and new ones where it restarts, grew or excludes a shard.

    Where the mixture takes a part of its text, the first epoch ends early. A data seed reorders what is left of them.

    `used_before` counts the items that the lineage has used of each source, `since` those that it had used when its
    windows took their present length; the segments of a `started` stage stay.
    """
    setting = stage.setting
    inherited = dict(parent.sources) if parent else {}
    _check_sequence_length(stage, parent)
    names = {*inherited, *stage.mixture.weights}
    excluded_windows = _excluded_windows(setting, choices, names)
    plans: dict[str, SourcePlan] = {}
    for name in sorted(names):
        choice, excluded, used = choices[name], excluded_windows.get(name, ()), used_before.get(name, 0)
        states, old = choice.states, inherited.get(name)
        digests = {state.digest for state in states}
        stored = started.plan.sources.get(name) if started else None
        if (
            started is not None
            and stored is not None
            and len(states) > 1
            and all(segment.digest in digests for segment in stored.segments)
        ):
            segments = extend(stored.segments, states, started.items.get(name, 0), excluded, since.get(name, 0))
        elif old is None:
            states, out_of = _taken(stage, name, choice)
            segments = first_segments(states, out_of, excluded)
        elif setting.positions == "restart" or any(e.source == name for e in setting.leave_out):
            segments = next_epoch(old.segments, used, states, choice.out_of, excluded)
        else:
            segments = extend(old.segments, states, used, excluded, since.get(name, 0))
            if (part := stage.mixture.take.get(name, Fraction(1))) < 1:
                segments = ending_early(segments, used, _taken_windows(stage, name, choice, part))
        reseeds = () if choice.order == "in-order" else _reseeds(setting, old, used)
        plans[name] = SourcePlan(dataset=choice.dataset, segments=segments, order=choice.order, reseeds=reseeds)
    return plans


def _taken(stage: ResolvedStage, name: str, choice: SourceChoice) -> tuple[tuple[PreparedState, ...], int | None]:
    """The states of a source that is new to the lineage, and out of how many windows; a mixture may take a part."""
    part = stage.mixture.take.get(name, Fraction(1))
    if part == 1 or not choice.windows:
        return choice.states, choice.out_of
    windows = _taken_windows(stage, name, choice, part)
    return (PreparedState(windows, choice.states[-1].digest),), choice.out_of or choice.windows


def _taken_windows(stage: ResolvedStage, name: str, choice: SourceChoice, part: Fraction) -> int:
    """The windows in a part of a source's text; PlanError where a text that is known has none in it."""
    windows = int(choice.windows * part)
    if windows == 0 and choice.windows:
        raise PlanError(
            f"`take` leaves less than one window of `{name}` at this size",
            place=stage.mixture.document.place(("take", name)),
            hint="take more of it, or a larger size",
        )
    return windows


def _reseeds(setting: Setting, old: SourcePlan | None, used: int) -> tuple[Reseed, ...]:
    """Where the order of a source changes: at the data seeds of the lineage, also those from before it was read."""
    if old is None:
        inherited = tuple(Reseed(first_item=0, data_seed=data_seed) for data_seed in setting.earlier_data_seeds)
    else:
        inherited = old.reseeds
    return (*inherited, *(Reseed(first_item=used, data_seed=data_seed) for data_seed in setting.data_seeds))


def _check_sequence_length(stage: ResolvedStage, parent: StagePlan | None) -> None:
    """PlanError for windows of another length whose positions do not restart."""
    setting, length = stage.setting, stage.clock.sequence_length
    if parent is None or parent.sequence_length == length:
        return
    if setting.positions is None:
        raise PlanError(
            f"`sequence_length` changes from {parent.sequence_length} to {length}, which redefines every window",
            place=setting.place("sequence_length"),
            hint="say `positions: restart` in the stage: every source then begins its next pass",
        )
    if setting.positions == "unseen":
        raise PlanError(
            "`positions: unseen` cannot follow windows of another length",
            place=setting.place("positions"),
            hint="say `positions: restart`, or keep the sequence_length",
        )


def _excluded_windows(
    setting: Setting, choices: Mapping[str, SourceChoice], names: set[str]
) -> dict[str, ExcludedWindows]:
    """The windows of the shards that this stage and its ancestors exclude, by source."""
    excluded: dict[str, set[tuple[int, int]]] = {}
    for entry in (*setting.left_out, *setting.leave_out):
        if entry.source not in names:
            raise PlanError(
                f"`leave_out` names `{entry.source}`, which stage `{setting.stage}` does not read",
                place=setting.place("leave_out"),
                hint=did_you_mean(entry.source, names),
            )
        choice = choices[entry.source]
        if choice.digest is None:
            continue  # the windows of its shards are unknown until it is prepared; a note says so
        if not entry.shard < len(choice.shards):
            raise PlanError(
                f"`{entry.source}` has no shard {entry.shard} to leave out",
                place=setting.place("leave_out"),
                hint=f"it has {len(choice.shards)}, counted from 0",
            )
        if choice.shards[entry.shard]:
            first = sum(choice.shards[: entry.shard])
            excluded.setdefault(entry.source, set()).add((first, choice.shards[entry.shard]))
    for name, windows in excluded.items():
        if sum(count for _, count in windows) >= sum(choices[name].shards):
            raise PlanError(
                f"`leave_out` leaves nothing of `{name}`",
                place=setting.place("leave_out"),
                hint="take the source out of the mixture instead",
            )
    return {name: tuple(sorted(windows)) for name, windows in excluded.items()}

"""Which text stands for each source of a mixture at a size, how much of it there is, and where reading goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

from curriculum import config
from curriculum.compiler.lineage import Setting
from curriculum.compiler.scaling import Scaler
from curriculum.compiler.segments import ExcludedWindows, Part, extend, next_epoch
from curriculum.compiler.segments import first_segments as first_segments
from curriculum.config.project import Project
from curriculum.errors import PlanError, did_you_mean
from curriculum.plan.mixing import integer_weights
from curriculum.plan.stage import SourcePlan, StagePlan

DEFAULT_PASSES = Fraction(4)
"""Muennighoff et al. 2023: up to four passes are worth almost as much as fresh text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedInfo:
    """What is known of a prepared dataset: windows of one pass at a sequence length, and its digest.

    `parts` are the states that it had after each preparation, the last the present one; left out, there was one.
    `shards` are the windows of each shard.
    """

    windows: int
    digest: str
    parts: tuple[Part, ...] = ()
    shards: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StartedStage:
    """What is trained already of a stage: the plan it runs by, and the items of each source at its last checkpoint."""

    plan: StagePlan
    items: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceChoice:
    """Which text stands for a source at this size, and how much of it one pass reads.

    `declared` is the full-size token count of `sources.yaml`; `windows` one pass at this size, spread evenly
    over `out_of` prepared windows where that is more.
    """

    name: str
    dataset: str
    declared: int | None
    windows: int
    digest: str | None
    order: Literal["shuffled", "in-order"] = "shuffled"
    out_of: int | None = None
    declared_from: str | None = None
    assumed: bool = False
    parts: tuple[Part, ...] = ()
    shards: tuple[int, ...] = ()

    @property
    def states(self) -> tuple[Part, ...]:
        """The states of the text, first to present."""
        return self.parts or (Part(self.windows, self.digest),)

    @property
    def stand_in(self) -> bool:
        return self.dataset != self.name


def check_stand_ins(project: Project, size_name: str, size: config.SizeEntry) -> None:
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


def mixture(
    project: Project,
    setting: Setting,
    sequence_length: int,
    scaler: Scaler,
    choices: dict[tuple[str, int], SourceChoice],
    facts: Callable[[str, int], PreparedInfo | None],
    inherited: Iterable[str],
) -> tuple[dict[str, int], dict[str, Fraction]]:
    """The stage's weights and limits of passes, by source; fills `choices` for them and for `inherited` sources.

    A source that the lineage left behind is cut into windows anew with the others, for whoever takes it up again.
    """
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
    for name in (*weights, *inherited):
        if (name, sequence_length) not in choices:
            choices[name, sequence_length] = choose(project, name, scaler, sequence_length, facts)
    return weights, {
        name: file.passes.get(name, _default_passes(choices[name, sequence_length])) for name in weights
    }


def _default_passes(choice: SourceChoice) -> Fraction:
    """A corpus that is ordered already is read through once, unless a mixture allows more."""
    return Fraction(1) if choice.order == "in-order" else DEFAULT_PASSES


def choose(
    project: Project,
    name: str,
    scaler: Scaler,
    sequence_length: int,
    facts: Callable[[str, int], PreparedInfo | None],
) -> SourceChoice:
    """The text that source `name` stands on, and its windows of one pass; PlanError when that is too little."""
    entry = project.sources.sources[name]
    dataset = scaler.size.stand_ins.get(name, name)
    known = facts(dataset, sequence_length)
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
    scaled = known is not None and known.windows != windows
    digest = known.digest if known else None
    parts = known.parts if known else ()
    if known is not None and scaled and parts:
        # A size takes its share of the earliest state that holds it: what was appended later moves nothing.
        enough = next(part for part in parts if part.windows >= windows)
        known, digest, parts = replace(known, windows=enough.windows), enough.digest, ()
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
        declared_from=entry.tokens_from,
        assumed=entry.assumed,
        out_of=known.windows if known is not None and scaled else None,
        digest=digest,
        order=entry.order,
        parts=parts,
        shards=known.shards if known else (),
    )


def source_plans(
    setting: Setting,
    parent: StagePlan | None,
    used_before: Mapping[str, int],
    choices: Mapping[tuple[str, int], SourceChoice],
    weights: Mapping[str, int],
    sequence_length: int,
    begun: StartedStage | None,
) -> dict[str, SourcePlan]:
    """Each source's segments: those of the lineage, and new ones where something restarts, was appended or left out.

    `used_before` counts the items that the lineage has used of each source; `begun` is what is already trained
    of this very stage, whose segments stand.
    """
    inherited = dict(parent.sources) if parent else {}
    changed = parent is not None and parent.sequence_length != sequence_length
    if changed and setting.positions is None:
        raise PlanError(
            f"`sequence_length` changes from {parent.sequence_length if parent else 0} to "
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
    left_out = _excluded_windows(setting, choices, {*inherited, *weights}, sequence_length)
    names = set(inherited) | set(weights)
    plans: dict[str, SourcePlan] = {}
    for name in sorted(names):
        old = inherited.get(name)
        choice = choices[name, sequence_length]
        states, holes = choice.states, left_out.get(name, ())
        used = used_before.get(name, 0)
        restarts = setting.positions == "restart" or any(e.source == name for e in setting.leave_out)
        stored = begun.plan.sources.get(name) if begun else None
        known = {state.digest for state in states}
        if (
            begun is not None
            and stored is not None
            and len(states) > 1
            and all(segment.digest in known for segment in stored.segments)
        ):
            segments = extend(stored.segments, states, begun.items.get(name, 0), holes)
        elif old is None:
            segments = first_segments(states, choice.out_of, holes)
        elif restarts:
            segments = next_epoch(old.segments, used, states, choice.out_of, holes)
        else:
            segments = extend(old.segments, states, used, holes)
        plans[name] = SourcePlan(dataset=choice.dataset, segments=segments, order=choice.order)
    return plans


def _excluded_windows(
    setting: Setting,
    choices: Mapping[tuple[str, int], SourceChoice],
    names: Iterable[str],
    sequence_length: int,
) -> dict[str, ExcludedWindows]:
    """The windows of the shards that this stage and those before it leave out, by source."""
    holes: dict[str, set[tuple[int, int]]] = {}
    known = set(names)
    for entry in (*setting.left_out, *setting.leave_out):
        if entry.source not in known:
            raise PlanError(
                f"`leave_out` names `{entry.source}`, which stage `{setting.stage}` does not read",
                place=setting.place("leave_out"),
                hint=did_you_mean(entry.source, known),
            )
        choice = choices[entry.source, sequence_length]
        if choice.digest is not None and not entry.shard < len(choice.shards):
            raise PlanError(
                f"`{entry.source}` has no shard {entry.shard} to leave out",
                place=setting.place("leave_out"),
                hint=f"it has {len(choice.shards)}, counted from 0",
            )
        if choice.digest is None:
            continue  # which windows the shard has is known once it is prepared; the planner says so
        if choice.shards[entry.shard]:
            first = sum(choice.shards[: entry.shard])
            holes.setdefault(entry.source, set()).add((first, choice.shards[entry.shard]))
    for name, each in holes.items():
        if sum(count for _, count in each) >= sum(choices[name, sequence_length].shards):
            raise PlanError(
                f"`leave_out` leaves nothing of `{name}`",
                place=setting.place("leave_out"),
                hint="take the source out of the mixture instead",
            )
    return {name: tuple(sorted(each)) for name, each in holes.items()}

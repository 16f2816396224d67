"""Which text stands for each source of a mixture at a size, how much of it there is, and where reading goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from curriculum import schema
from curriculum.errors import PlanError, did_you_mean
from curriculum.lineage import Setting
from curriculum.mixing import integer_weights
from curriculum.plan import Segment, SourcePlan, StagePlan
from curriculum.project import Project
from curriculum.scaling import Scaler

DEFAULT_PASSES = Fraction(4)
"""Muennighoff et al. 2023: up to four passes are worth almost as much as fresh text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known of a prepared dataset: windows of one pass at the size's sequence length, and its digest."""

    windows: int
    digest: str


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

    @property
    def stand_in(self) -> bool:
        return self.dataset != self.name


def check_stand_ins(project: Project, size_name: str, size: schema.SizeEntry) -> None:
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
    facts: Callable[[str], Facts | None],
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
    return weights, {name: file.passes.get(name, DEFAULT_PASSES) for name in weights}


def choose(
    project: Project,
    name: str,
    scaler: Scaler,
    sequence_length: int,
    facts: Callable[[str], Facts | None],
) -> SourceChoice:
    """The text that source `name` stands on, and its windows of one pass; PlanError when that is too little."""
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
        declared_from=entry.tokens_from,
        assumed=entry.assumed,
        out_of=known.windows if known is not None and known.windows != windows else None,
        digest=known.digest if known else None,
        order=entry.order,
    )


def source_plans(
    setting: Setting,
    parent: StagePlan | None,
    used_before: Mapping[str, int],
    choices: Mapping[tuple[str, int], SourceChoice],
    weights: Mapping[str, int],
    sequence_length: int,
) -> dict[str, SourcePlan]:
    """Each source's segments: those of the lineage, and a new one where `positions: restart` asks for it.

    `used_before` counts the items that the lineage has used of each source.
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
    names = set(inherited) | set(weights)
    plans: dict[str, SourcePlan] = {}
    for name in sorted(names):
        old = inherited.get(name)
        choice = choices[name, sequence_length]
        if old is None:
            segments: tuple[Segment, ...] = (
                Segment(
                    first_item=0,
                    pass_number=0,
                    windows=choice.windows,
                    digest=choice.digest,
                    out_of=choice.out_of,
                ),
            )
        elif setting.positions == "restart":
            used = used_before.get(name, 0)
            last = old.segments[-1]
            begun = -(-(used - last.first_item) // last.windows) if last.windows else 0
            fresh = Segment(
                first_item=used,
                pass_number=last.pass_number + begun,
                windows=choice.windows,
                digest=choice.digest,
                out_of=choice.out_of,
            )
            segments = (*(s for s in old.segments if s.first_item < used), fresh)
        else:
            segments = old.segments
        plans[name] = SourcePlan(dataset=choice.dataset, segments=segments, order=choice.order)
    return plans

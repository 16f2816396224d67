"""A curriculum at a size with its names resolved: stages, mixtures, sources and tokenizer, each to its entry.

Nothing here depends on prepared text: it is resolved once, and compiled once for each state of that text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from curriculum import config
from curriculum.compiler.clock import StageClock, stage_clock
from curriculum.compiler.lineage import LineageStage, Setting, lineage
from curriculum.compiler.scaling import Scaler, size_place
from curriculum.config.project import Project
from curriculum.config.yaml import Document
from curriculum.errors import PlanError, did_you_mean
from curriculum.plan.mixing import integer_weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """A mixture file: the weights of its sources as integers, and the limits of passes that it states.

    `rounded` is whether the proportions of the file are finer than integers up to 2^31.
    """

    name: str
    weights: Mapping[str, int]
    rounded: bool
    passes: Mapping[str, Fraction]
    document: Document = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedStage:
    """A stage of a lineage, its mixture and its clock; the lineage leaves it at `left_at` (full-size tokens)."""

    setting: Setting
    left_at: int
    mixture: Mixture
    clock: StageClock


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
        """Every source that the lineage draws from to the dataset that it reads at this size."""
        names = sorted({name for stage in self.stages for name in stage.mixture.weights})
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
    for stage in stages:
        setting, start = stage.setting, resolved[-1].clock.stop if resolved else 0
        if stage.cut is not None and resolved and scaler.tokens(stage.cut) <= start:
            continue  # the boundary at or past the branch position is the end of the stage before
        if setting.mixture not in mixtures:
            mixtures[setting.mixture] = _mixture(project, setting)
        resolved.append(
            ResolvedStage(
                setting=setting,
                left_at=stage.left_at,
                mixture=mixtures[setting.mixture],
                clock=stage_clock(stage, scaler, start),
            )
        )
    return ResolvedCurriculum(project=project, name=name, scaler=scaler, tokenizer=tokenizer, stages=tuple(resolved))


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
        document=document,
    )

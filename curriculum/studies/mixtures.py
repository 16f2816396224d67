"""The mixtures of a study's arms: those of files, and those that a study drafts, with the limits that hold for both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import lcm

from curriculum.config.project import Project
from curriculum.errors import PlanError, did_you_mean
from curriculum.studies.study import Study

_DIGITS = 10**15


@dataclass(frozen=True, kw_only=True)
class ArmMixture:
    """What an arm reads: exact weights on any scale, limits of passes, and parts of texts.

    `file` is the mixture file that says the same; None of a mixture that no file has.
    """

    weights: Mapping[str, Fraction]
    passes: Mapping[str, Fraction]
    take: Mapping[str, Fraction]
    file: str | None = None

    @property
    def shares(self) -> dict[str, Fraction]:
        """The share of each source that has one, by name; they sum to 1."""
        total = sum(self.weights.values())
        return {name: weight / total for name, weight in sorted(self.weights.items()) if weight}

    def text(self, about: str) -> str:
        """The mixture as the file that a person would write."""
        weights = {name: weight for name, weight in self.weights.items() if weight}
        if any(_DIGITS * weight % 1 for weight in weights.values()):  # no decimals state it: parts of a whole do
            parts = lcm(*(weight.denominator for weight in weights.values()))
            weights = {name: weight * parts for name, weight in weights.items()}
        lines = [f"about: {about}", f"weights: {{{_flow(weights)}}}"]
        for key, values in (("passes", self.passes), ("take", self.take)):
            if stated := {name: value for name, value in values.items() if name in weights}:
                lines.append(f"{key}: {{{_flow(stated)}}}")
        return "\n".join(lines) + "\n"


def _flow(values: Mapping[str, Fraction]) -> str:
    return ", ".join(f"{name}: {exact(value)}" for name, value in values.items())


def exact(value: Fraction) -> str:
    """The number as YAML states it, exactly where it has at most 15 decimals, else rounded to 15 significant digits."""
    if value.denominator == 1:
        return str(value.numerator)
    scaled = value * _DIGITS
    if scaled.denominator == 1:
        digits = f"{scaled.numerator:016d}"
        return f"{digits[:-15]}.{digits[-15:]}".rstrip("0")
    return f"{float(value):.15g}"


def from_file(project: Project, name: str) -> ArmMixture:
    """The mixture of a file."""
    file, _ = project.mixture(name)
    return ArmMixture(weights=file.weights, passes=file.passes, take=file.take, file=name)


def named(study: Study, name: str, *path: str | int) -> ArmMixture:
    """The mixture that the study names at `path`; PlanError at that line for one that is not there."""
    names = study.project.names("mixtures")
    if name not in names:
        raise PlanError(
            f"unknown mixture `{name}` in study `{study.name}`",
            place=study.place(*path),
            hint=did_you_mean(name, names),
        )
    return from_file(study.project, name)


def kept(study: Study) -> ArmMixture | None:
    """What the parent of the arms reads; None without a branch point."""
    return from_file(study.project, study.parent.mixture) if study.parent is not None else None


def stated(study: Study) -> ArmMixture | None:
    """The mixture of the stage in question, or with `from:` that which the study varies; None where there is none."""
    vary = study.vary
    if study.stage is not None:
        return from_file(study.project, study.stage.setting.mixture)
    if vary.mixture is not None:
        return named(study, vary.mixture.around, "vary", "mixture", "around")
    if vary.add is not None and vary.add.into is not None:
        return named(study, vary.add.into, "vary", "add", "into")
    return None


def base(study: Study) -> ArmMixture:
    """The mixture whose proportions are varied."""
    vary = study.vary
    if vary.mixture is not None:
        return named(study, vary.mixture.around, "vary", "mixture", "around")
    mixture = stated(study) or kept(study)
    assert mixture is not None  # a study has a stage or a branch point
    return mixture


def varied(study: Study) -> dict[str, tuple[str | int, ...]]:
    """Every source that the study itself names to the place where it does."""
    vary = study.vary
    names: dict[str, tuple[str | int, ...]] = {}
    if vary.mixture is not None:
        for number, one in enumerate(vary.mixture.only or ()):
            names[one.name] = ("vary", "mixture", "only", number)
    if vary.share is not None:
        names[vary.share.of] = ("vary", "share", "of")
    if vary.add is not None:
        for number, name in enumerate(vary.add.sources):
            names[name] = ("vary", "add", "sources", number)
    for key in ("lower", "keep"):
        for name in getattr(study.file.goal, key):
            names.setdefault(name, ("goal", key, name))
    return names


def all_sources(study: Study) -> list[str]:
    """The union of the sources of all arms and of the goal: what every arm measures, sorted.

    PlanError at its line for a name that sources.yaml does not have, and for a probe that is to be read.
    """
    entries = study.project.sources.sources
    for name, path in varied(study).items():
        if name not in entries:
            measured = path[0] == "goal"
            raise PlanError(
                f"`{name}` cannot be measured: sources.yaml has no such source"
                if measured
                else f"unknown source `{name}` in study `{study.name}`",
                place=study.document.key_place(path) if measured else study.place(*path),
                hint=did_you_mean(name, entries),
            )
        if entries[name].is_probe and path[0] == "vary":
            raise PlanError(
                f"`{name}` is held out as a whole: no arm can read it",
                place=study.place(*path),
                hint="name it in `goal`, which measures it in every arm; to train on it, hold out a share of it",
            )
    vary = study.vary
    listed = [named(study, name, "vary", "list") for name in vary.list or ()]
    mixtures = [mixture for mixture in (kept(study), stated(study), base(study), *listed) if mixture is not None]
    return sorted({*varied(study), *(name for mixture in mixtures for name in mixture.weights)})

"""The points of a study: every setting that an arm is trained under, by name, before any is decided.

A point is a stage's entry as a file would state it, and what it reads. The points of the same file are the same on
any machine.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from fractions import Fraction
from functools import reduce
from itertools import product
from typing import Any, Final, Literal, TypeAlias

from curriculum.compiler.lineage import Setting
from curriculum.config.studies import (
    CONTROLS,
    GRID,
    LEAST_RUNS_OVER,
    READ,
    RUNS_A_SOURCE,
    AddEntry,
    ShareEntry,
    SwarmEntry,
)
from curriculum.errors import PlanError, did_you_mean
from curriculum.studies import design, drafts, mixtures
from curriculum.studies.block import Block, block_of
from curriculum.studies.bounds import SourceLimits
from curriculum.studies.mixtures import ArmMixture
from curriculum.studies.study import Study
from curriculum.units import Length, counted, parse_fraction, parse_length, show_share

Role: TypeAlias = Literal["swarm", "control", "proposal"]

OF_MIXTURES: Final = ("mixture", "share", "list")
"""Questions to which natural and uniform proportions are controls."""
DRAFTED: Final = ("natural", "uniform")
"""Controls whose mixture depends on the text that there is."""
_SHORT: Final = {"learning_rate": "rate", "mask_documents": "mask", "list": "mixture"}
_REWARM: Final = "1 step"
"""How long the rate moves to a curve that is varied, where the study does not say."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """A setting that is trained: `entry` are its stage's keys, as a file states them, without name and length.

    `settings` are what is varied, by the key of `vary`; `tokens` is the length of the arm at full size, or None where
    it ends as the stage in question does. `same_as` are controls that are the same.
    """

    name: str
    role: Role
    mixture: ArmMixture = field(repr=False)
    entry: Mapping[str, Any]
    settings: Mapping[str, Any]
    tokens: int | None = None
    same_as: tuple[str, ...] = ()

    @property
    def identity(self) -> tuple[Any, ...]:
        """What the arm does: two points with equal ones are one."""
        entry = {key: str(value) for key, value in self.entry.items() if key != "mixture"}
        return (*sorted(self.mixture.shares.items()), *sorted(entry.items()), self.tokens)


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A control that is not trained, and the reason."""

    name: str
    reason: str


def points(study: Study, limits: SourceLimits) -> tuple[tuple[Point, ...], tuple[LeftOut, ...]]:
    """The points of the study, varied ones first, and the controls that it leaves out."""
    started = design.read(study)
    controls, left_out = _controls(study, limits, started)
    distinct = _distinct(controls)
    identities = {point.identity for point in distinct}
    varied = list(_varied(study, limits, distinct, started))
    _check_distinct(study, varied)
    own = [point for point in varied if point.identity not in identities]
    return (*own, *distinct), tuple(left_out)


def _distinct(controls: list[Point]) -> list[Point]:
    """Controls that are the same, as one that names the others."""
    kept: dict[tuple[Any, ...], Point] = {}
    for point in controls:
        first = kept.get(point.identity)
        kept[point.identity] = replace(first, same_as=(*first.same_as, point.name)) if first else point
    return list(kept.values())


def _check_distinct(study: Study, own: list[Point]) -> None:
    seen: dict[tuple[Any, ...], str] = {}
    for point in own:
        if point.identity in seen:
            raise PlanError(
                f"`{seen[point.identity]}` and `{point.name}` are the same arm",
                place=study.place("vary"),
                hint="leave one of the two out",
            )
        seen[point.identity] = point.name


# --- controls ---------------------------------------------------------------------------------------------


def _controls(study: Study, limits: SourceLimits, started: design.Weights | None) -> tuple[list[Point], list[LeftOut]]:
    file, vary = study.file, study.vary
    names = file.controls or CONTROLS
    of_mixtures = any(getattr(vary, key) is not None for key in OF_MIXTURES)
    controls: list[Point] = []
    left_out = [LeftOut(name=name, reason="the study names the others") for name in CONTROLS if name not in names]
    for name in CONTROLS:
        if name not in names:
            continue
        point = _control(study, limits, name, of_mixtures=of_mixtures)
        if point is None:
            continue
        if started is not None and name in DRAFTED:
            if name in started:
                controls.append(replace(point, mixture=replace(point.mixture, weights=started[name])))
            else:
                left_out.append(LeftOut(name=name, reason="it was none when the study started"))
        elif name in DRAFTED and (
            reason := limits.exceeded(point.mixture.shares) or limits.unread(point.mixture.shares)
        ):
            left_out.append(LeftOut(name=name, reason=reason))
        else:
            controls.append(point)
    return controls, left_out


def _control(study: Study, limits: SourceLimits, name: str, *, of_mixtures: bool) -> Point | None:
    entry = dict(_base_entry(study))
    if name == "kept":
        mixture = mixtures.kept(study)
        if mixture is None:
            return None
        dropped = {"mixture", "ramp"} if _reads(study) else set()
        dropped |= {key for key in GRID if getattr(study.vary, key, None) is not None}
        entry = {key: value for key, value in entry.items() if key not in dropped}
        entry = _stating_what_varies(study, entry, study.parent)
        if "mixture" in entry:
            mixture = mixtures.from_file(study.project, entry["mixture"])
        return Point(
            name=name, role="control", mixture=mixture, entry=entry, settings=_grid_settings(study, entry, mixture)
        )
    if name == "stated":
        stated = mixtures.stated(study)
        if stated is None:
            return None
        if study.stage is None:
            entry["mixture"] = stated.file
        entry = _stating_what_varies(study, entry, study.asked.setting)
        return Point(
            name=name, role="control", mixture=stated, entry=entry, settings=_grid_settings(study, entry, stated)
        )
    if not of_mixtures:
        return None
    base = mixtures.base(study)
    sources = sorted({*(name for name, weight in base.weights.items() if weight), *_added(study)})
    weights = {source: Fraction(1) for source in sources}
    if name == "natural":
        weights = {source: Fraction(limits.declared(source)) for source in sources}
        if not all(weights.values()):
            return None
    return Point(name=name, role="control", mixture=_of(base, weights), entry=_drafted(entry), settings={})


def _stating_what_varies(study: Study, entry: Mapping[str, Any], inherited: Setting | None) -> dict[str, Any]:
    """`entry` with the varied keys spelled as a point of the grid spells them, so that it is one with that point."""
    found, vary = dict(entry), study.vary
    if vary.batch is not None and inherited is not None:
        found.setdefault("batch", str(inherited.batch))
    if vary.mask_documents is not None and inherited is not None:
        found.setdefault("mask_documents", inherited.mask_documents)
    for key in ("batch", "ramp", "rewarm"):
        if getattr(vary, key) is not None and isinstance(found.get(key), str):
            found[key] = _length(study, key, parse_length(found[key]))
    return found


def _length(study: Study, key: str, length: Length) -> str:
    """A length of a stage as its file states it: a batch in sequences, another one with its unit or its scale."""
    sequence_length = study.asked.setting.sequence_length
    if key == "batch" and length.unit == "tokens" and length.amount % sequence_length == 0:
        length = Length(length.amount // sequence_length, "sequences")
    return drafts.length_text(length)


def _tokens(study: Study, length: Length) -> int | None:
    """A length that is varied, in tokens; None for that of an arm whose point states none."""
    usual = study.stage_tokens or max(study.tokens(one, "vary", "tokens") for one in study.vary.tokens or ())
    tokens = study.tokens(length, "vary", "tokens")
    return tokens if tokens != usual else None


def _grid_settings(study: Study, entry: Mapping[str, Any], mixture: ArmMixture) -> dict[str, Any]:
    """Where a control is in the grid of what is varied: the values of the keys that it has."""
    settings: dict[str, Any] = {
        "list": mixture.file,
        "batch": entry.get("batch") or (study.parent.batch if study.parent is not None else None),
        "learning_rate": Fraction(1),
        "tokens": next((one for one in study.vary.tokens or () if _tokens(study, one) is None), None),
        **{key: entry.get(key) for key in ("ramp", "rewarm", "mask_documents")},
    }
    varied = [key for key in GRID if getattr(study.vary, key) is not None]
    return {key: settings[key] for key in varied if settings.get(key) is not None}


def _added(study: Study) -> list[str]:
    swarm = study.vary.mixture
    return [one.name for one in (swarm.only if swarm is not None else None) or ()]


def _reads(study: Study) -> bool:
    return any(getattr(study.vary, key) is not None for key in READ)


def _base_entry(study: Study) -> Mapping[str, Any]:
    return {key: value for key, value in study.entry.items() if key not in ("until", "tokens", "keep", "skip")}


def _drafted(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The entry of an arm whose mixture is not a file's; its name is stated when the arm is drafted."""
    return {**entry, "mixture": None}


def _of(base: ArmMixture, weights: Mapping[str, Fraction]) -> ArmMixture:
    return ArmMixture(weights=weights, passes=base.passes, take=base.take)


# --- what is varied ---------------------------------------------------------------------------------------


def _varied(
    study: Study, limits: SourceLimits, controls: list[Point], started: design.Weights | None
) -> Iterator[Point]:
    vary = study.vary
    if vary.mixture is not None:
        yield from _swarm(study, vary.mixture, limits, controls, started)
    elif vary.share is not None:
        yield from _line(study, vary.share)
    elif vary.add is not None:
        yield from _additions(study, vary.add)
    else:
        yield from _grid(study)


def _swarm(
    study: Study, vary: SwarmEntry, limits: SourceLimits, controls: list[Point], started: design.Weights | None
) -> Iterator[Point]:
    base = mixtures.base(study)
    block = block_of(study, vary, base)
    runs, numbers = vary.runs, len(block.centre)
    if numbers < 2:
        raise PlanError(
            f"a swarm around `{vary.around}` over one source: nothing can vary",
            place=study.place("vary", "mixture", "only" if vary.only else "around"),
            hint=f"give `{vary.around}` a second source; or add one, as in `only: [NAME from 0]`",
        )
    least, rule = numbers + LEAST_RUNS_OVER, numbers * RUNS_A_SOURCE
    if runs is not None and runs < least:
        raise PlanError(
            f"{counted(runs, 'run')} cannot fit the {numbers + LEAST_RUNS_OVER - 1} numbers of a law of {numbers} "
            "sources",
            place=study.place("vary", "mixture", "runs"),
            hint=f"{least} is the least, {rule} the rule: {RUNS_A_SOURCE} a source",
        )
    kept = {name: weights for name, weights in (started or {}).items() if name not in DRAFTED}
    drawn = kept or _draw(study, limits, block, runs or rule, controls)
    for name, weights in drawn.items():
        yield Point(
            name=name,
            role="swarm",
            mixture=_of(base, weights),
            entry=_drafted(_base_entry(study)),
            settings={"mixture": weights},
        )


def _draw(
    study: Study, limits: SourceLimits, block: Block, runs: int, controls: list[Point]
) -> dict[str, dict[str, Fraction]]:
    """The weights of a swarm of `runs` by the names of its points; PlanError where the limits leave too few."""
    from curriculum.studies import designs

    low, high = limits.of_block(study, block)
    trained = [block.narrow(point.mixture.shares) for point in controls]
    try:
        rows = designs.swarm(
            list(block.centre.values()),
            low,
            high,
            runs,
            name=study.name,
            seed=study.root.seed,
            controls=[row for row in trained if row is not None],
            least=limits.least_of_block(block),
        )
    except ValueError as error:
        raise PlanError(
            f"the limits leave no swarm of {counted(runs, 'run')}: {error}",
            place=study.place("vary", "mixture"),
            hint="fewer runs, wider `always:`, longer arms, or more `passes:` in the mixture",
        ) from None
    width = max(2, len(str(runs)))
    return {f"swarm-{number:0{width}}": block.widen(row) for number, row in enumerate(rows, start=1)}


def _line(study: Study, line: ShareEntry) -> Iterator[Point]:
    base = mixtures.base(study)
    others = {name: share for name, share in base.shares.items() if name != line.of}
    total = sum(others.values(), Fraction(0))
    if not total:
        raise PlanError(
            f"`{line.of}` is the only source of `{base.file}`: nothing can vary",
            place=study.place("vary", "share", "of"),
            hint="name a stage whose mixture has another source, too",
        )
    for share in line.at:
        weights = {name: other / total * (1 - share) * 100 for name, other in others.items()}
        if share:
            weights[line.of] = share * 100
        shares = dict(sorted(weights.items()))
        yield Point(
            name=f"share-{_word(show_share(share))}",
            role="swarm",
            mixture=_of(base, shares),
            entry=_drafted(_base_entry(study)),
            settings={"share": share},
        )


def _additions(study: Study, add: AddEntry) -> Iterator[Point]:
    into = mixtures.named(study, add.into, "vary", "add", "into") if add.into else mixtures.kept(study)
    if into is None:
        into = mixtures.base(study)
    for number, source in enumerate(add.sources):
        if source in into.shares:
            raise PlanError(
                f"`{into.file}` has `{source}` already: it is no new source",
                place=study.place("vary", "add", "sources", number),
                hint="leave it out; `share: {of: …, at: […]}` varies a source that is there",
            )
        weights = {name: share * (1 - add.share) * 100 for name, share in into.shares.items()}
        weights[source] = add.share * 100
        yield Point(
            name=f"add-{_word(source)}",
            role="swarm",
            mixture=_of(into, weights),
            entry=_drafted(_base_entry(study)),
            settings={"add": source},
        )


def _grid(study: Study) -> Iterator[Point]:
    vary, base_entry = study.vary, dict(_base_entry(study))
    keys = [key for key in GRID if getattr(vary, key) is not None]
    for values in product(*(getattr(vary, key) for key in keys)):
        settings = dict(zip(keys, values, strict=True))
        entry, mixture, tokens = dict(base_entry), mixtures.stated(study) or mixtures.kept(study), None
        assert mixture is not None
        for key, value in settings.items():
            if key == "list":
                mixture = mixtures.named(study, value, "vary", "list")
                entry["mixture"] = value
            elif key == "learning_rate":
                if value != 1:
                    entry["learning_rate"] = scaled_rate(study, value)
                    entry.setdefault("rewarm", _REWARM)
            elif key == "tokens":
                tokens = _tokens(study, value)
            else:
                entry[key] = value if isinstance(value, bool) else _length(study, key, value)
        yield Point(
            name="-".join(_word(f"{_SHORT.get(key, key)}-{_value(value)}") for key, value in settings.items()),
            role="swarm",
            mixture=mixture,
            entry=entry,
            settings=settings,
            tokens=tokens,
        )


def scaled_rate(study: Study, factor: Fraction) -> dict[str, Any]:
    """The curve of the stage in question, multiplied; PlanError for one that begins where its branch point is."""
    setting = study.asked.setting
    rate = setting.learning_rate
    if rate.shape == "decay":
        raise PlanError(
            f"the rate of `{setting.name}` falls from where its branch point is, which no factor changes",
            place=study.place("vary", "learning_rate"),
            hint="vary another key; or ask about a stage whose curve has a `max`",
        )
    written = _written_rate(study)

    def scaled(key: str, value: Any) -> Any:
        if key in ("max", "min", "rate"):
            return Decimal(mixtures.exact(parse_fraction(value) * factor))
        if key == "points":
            return [{name: scaled(name, part) for name, part in point.items()} for point in value]
        return value

    return {key: scaled(key, value) for key, value in written.items()}


def _written_rate(study: Study) -> Mapping[str, Any]:
    """The curve of the stage in question, as the nearest file of its lineage states it."""
    lineage = [*study.before, study.stage] if study.stage is not None else list(study.before)
    for stage in reversed(lineage):
        document, path = stage.setting.document.value, stage.setting.path
        entry = reduce(operator.getitem, path, document)
        above = document if path == ("stages", 0) else {}
        for owner in (entry, above):
            if "learning_rate" in owner:
                written: Mapping[str, Any] = owner["learning_rate"]
                return written
    raise AssertionError("a root states its curve")


def _value(value: Any) -> str:
    if isinstance(value, Fraction):
        return "kept" if value == 1 else f"x{mixtures.exact(value)}"
    return str(value).lower().removesuffix("sequences").removesuffix("sequence").strip()


def _word(text: str) -> str:
    """`text` as a part of a name, without a point: what follows the last one in an address is a replicate."""
    return "-".join(text.lower().replace("%", "").replace(".", "-").replace("_", "-").split())


def proposal(study: Study, weights: Mapping[str, Fraction]) -> Point:
    """The point that a law proposes, by its shares."""
    base = mixtures.base(study)
    unknown = [name for name in weights if name not in mixtures.all_sources(study)]
    if unknown:
        raise PlanError(
            f"a proposal of study `{study.name}` has `{unknown[0]}`, which no arm reads",
            hint=did_you_mean(unknown[0], mixtures.all_sources(study)),
        )
    return Point(
        name="proposal",
        role="proposal",
        mixture=_of(base, {name: weight for name, weight in sorted(weights.items()) if weight}),
        entry=_drafted(_base_entry(study)),
        settings={"mixture": dict(weights)},
    )

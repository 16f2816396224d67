"""A study compiled: every arm as the curriculum that a person would have written, with its plans.

An arm is a stage of the study, `STUDY/ARM` or `STUDY/ARM.REPLICATE`, that leaves the branch point: a project with a
draft of its stage file and mixture, which everything that plans, trains, resumes or compares a stage takes as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from fractions import Fraction
from functools import cached_property
from typing import Any, Final

from curriculum.compiler.mixture_phases import ramp_tokens
from curriculum.compiler.prepared_text import PreparedText
from curriculum.compiler.schedules import highest
from curriculum.compiler.segments import in_first_epoch
from curriculum.config.project import Project
from curriculum.config.stages import EveryEntry
from curriculum.errors import ConfigError, NotFound, PlanError, did_you_mean
from curriculum.studies import design, drafts, drops, mixtures, points, proposal as fixed
from curriculum.studies.arm import FIRST, FORK, Arm, arm_name
from curriculum.studies.bounds import SourceLimits
from curriculum.studies.drops import Drops
from curriculum.studies.mixtures import ArmMixture
from curriculum.studies.points import LeftOut, Point
from curriculum.studies.study import Study, open_study
from curriculum.units import Length, counted, parse_length, show_count

SECOND_TRUNK: Final = Fraction(1, 4)
"""Of the tokens of all arms: a second trunk that costs less is trained where the study does not say."""
FULL: Final = "full"
ANNEALED: Final = Fraction(1, 10)
"""Of an arm's tokens: how long the rate of a fork falls."""
_REPLICATE = re.compile(r"(?P<point>.+)\.(?P<number>[1-9][0-9]{0,3})")


@dataclass(frozen=True, kw_only=True)
class CompiledStudy:
    """A study with its arms: the swarm, the controls in replicates, and a proposal's where one is known.

    `sources` are measured in every arm; `seeds` is the number of trunks; `left_out` are the controls that are not
    trained; `limits` what sources may have. `forks` are the first ends of arms that may be dropped there, and `drops`
    what was dropped by them, so that it is no longer among the arms; None before that.
    """

    study: Study
    arms: tuple[Arm, ...]
    sources: tuple[str, ...]
    seeds: int
    left_out: tuple[LeftOut, ...]
    limits: SourceLimits = field(repr=False)
    forks: tuple[Arm, ...] = ()
    drops: Drops | None = None

    @property
    def name(self) -> str:
        return self.study.name

    @property
    def fork_plans(self) -> dict[str, str]:
        """The fingerprint of the plan of every fork, by address."""
        return {arm.address: arm.stage.plan.fingerprint for arm in self.forks}

    @property
    def awaits_forks(self) -> bool:
        """Whether arms are still to be judged by their forks."""
        return bool(self.forks) and self.drops is None

    @property
    def replicates(self) -> int:
        return self.study.file.replicates

    def of_role(self, role: points.Role) -> tuple[Arm, ...]:
        return tuple(arm for arm in self.arms if arm.role == role)

    @cached_property
    def has_proposal(self) -> bool:
        """Whether a law proposes a point, which is trained in replicates after the others."""
        return self.study.vary.mixture is not None or self.study.vary.share is not None

    @property
    def plans(self) -> dict[str, str]:
        """The fingerprint of the plan of every arm that a law is fitted to, by address."""
        return {arm.address: arm.stage.plan.fingerprint for arm in self.arms if arm.role != "proposal"}

    def arm(self, name: str) -> Arm:
        """The arm `name`, as in `kept`, `kept.1` or `kept.2`; NotFound with the nearest."""
        match = _REPLICATE.fullmatch(name)
        if match is not None and match["number"] == "1":
            name = match["point"]
        for arm in (*self.arms, *self.forks):
            if arm.name == name:
                return arm
        known = [arm.name for arm in self.arms]
        if name == "proposal" and self.has_proposal:
            raise NotFound(
                f"study `{self.name}` has no proposal yet",
                hint=f"`curriculum decide {self.name}` makes it when its arms have ended",
            )
        raise NotFound(f"study `{self.name}` has no arm `{name}`", hint=did_you_mean(name, known))


def compile_study(
    project: Project, name: str, size: str, proposal: Mapping[str, Fraction] | None = None
) -> CompiledStudy:
    """The study `name` with every arm compiled; `proposal` are the weights of its proposal, else those that are fixed.

    Raises ConfigError, NotFound or PlanError for what cannot be asked or planned.
    """
    study = open_study(project, name, size)
    sources = mixtures.all_sources(study)
    _check_always(study, sources)
    drafting = _Drafting(study, tuple(sources))
    limits = drafting.limits()
    found, left_out = points.points(study, limits)
    seeds = _seeds(study, drafting, found)
    arms = [
        drafting.arm(point, replicate, 1 + (replicate - 1) % seeds)
        for point in found
        if point.role == "control"
        for replicate in range(1, study.file.replicates + 1)
    ]
    swarm = [drafting.arm(point, 1, 1 + at % seeds) for at, point in enumerate(p for p in found if p.role == "swarm")]
    compiled = CompiledStudy(
        study=study, arms=(*swarm, *arms), sources=tuple(sources), seeds=seeds, left_out=left_out, limits=limits
    )
    if proposal is None and compiled.has_proposal and fixed.is_fixed(project, name, size):
        proposal = fixed.read(project, name, size, compiled.plans)
    if proposal is not None:
        point = points.proposal(study, proposal)
        runs = [drafting.arm(point, r, 1 + (r - 1) % seeds) for r in range(1, study.file.replicates + 1)]
        compiled = replace(compiled, arms=(*compiled.arms, *runs))
    if study.file.drop is not None:
        compiled = _with_forks(compiled, drafting)
    _check_budget(compiled)
    return compiled


def _with_forks(compiled: CompiledStudy, drafting: _Drafting) -> CompiledStudy:
    """The study with a fork of every arm, without the arms that were dropped by them."""
    study = compiled.study
    forks = tuple(drafting.arm(arm.point, arm.replicate, arm.seed, fork=True) for arm in compiled.arms)
    compiled = replace(compiled, forks=forks)
    found = drops.read(study.project, study.name, study.size, compiled.fork_plans)
    if found is None:
        return compiled
    arms = tuple(arm for arm in compiled.arms if arm.point.name not in found.dropped)
    return replace(compiled, arms=arms, drops=found)


def fix_design(compiled: CompiledStudy) -> None:
    """Keep the mixtures that the study drafted, before its first arm is trained; all its text should be prepared."""
    drafted = {
        arm.point.name: arm.point.mixture.weights
        for arm in compiled.arms
        if arm.role != "proposal" and (arm.point.name in points.DRAFTED or "mixture" in arm.point.settings)
    }
    for arm in compiled.arms:
        drafted |= {name: arm.point.mixture.weights for name in arm.point.same_as if name in points.DRAFTED}
    design.write(compiled.study, drafted)


def _check_always(study: Study, sources: Sequence[str]) -> None:
    for name in study.file.always:
        if name not in sources:
            raise PlanError(
                f"`always` names `{name}`, which no arm reads",
                place=study.document.key_place(("always", name)),
                hint=did_you_mean(name, sources),
            )


def _seeds(study: Study, drafting: _Drafting, found: Iterable[Point]) -> int:
    """How many trunks are trained."""
    stated = study.file.seeds
    imported = study.root.imported is not None
    if not study.before or imported:
        if stated is not None and stated > 1:
            raise PlanError(
                f"study `{study.name}` has no trunk that could be trained again under another seed",
                place=study.place("seeds"),
                hint="leave `seeds` out: the weights that the arms start from are given"
                if imported
                else "leave `seeds` out: each replicate draws its own initial weights",
            )
        return 1
    if stated is not None:
        return stated
    if study.project.size(study.size).tokens in (None, 1):
        return 1
    tokens = sum(drafting.tokens(point) * (1 if point.role == "swarm" else study.file.replicates) for point in found)
    return 2 if study.file.replicates > 1 and study.start < SECOND_TRUNK * tokens else 1


def _check_budget(compiled: CompiledStudy) -> None:
    """PlanError when the runs of a study, those of a proposal counted, take more tokens than its budget."""
    study = compiled.study
    budget = study.file.budget
    if budget is None or budget.unit != "tokens":
        return
    expected = expected_tokens(compiled)
    runs = sum(expected.values())
    total = sum(length * number for length, number in expected.items())
    if total <= budget.amount:
        return
    longest = max(expected)
    fewer, shorter = int(budget.amount // longest), int(budget.amount // runs)
    ways = []
    if shorter > study.tokens(Length(1, "steps"), "budget"):
        ways.append(f"`tokens: {_round_down(shorter)}` for each arm")
    if fewer > 0:
        ways.append(f"{counted(fewer, 'run')} of {show_count(longest)}")
    raise PlanError(
        f"{counted(runs, 'run')} {'is' if runs == 1 else 'are'} {show_count(total)} tokens, "
        f"{show_count(int(budget.amount))} allowed",
        place=study.place("budget"),
        hint=f"{' or '.join(ways) or 'no arm of a whole step'} would fit; lengths and budget are full-size at every "
        "size",
    )


def expected_tokens(compiled: CompiledStudy) -> dict[int, int]:
    """The full-size lengths of all runs, those of a proposal that is not decided yet counted, to how many have it."""
    lengths: dict[int, int] = {}
    for arm in compiled.arms:
        lengths[arm.tokens] = lengths.get(arm.tokens, 0) + 1
    for fork in compiled.forks:
        annealed = int(fork.tokens * ANNEALED)
        lengths[annealed] = lengths.get(annealed, 0) + 1
    if compiled.has_proposal and not compiled.of_role("proposal"):
        longest = max(lengths)
        lengths[longest] += compiled.replicates
    return lengths


def _round_down(tokens: int) -> str:
    digits = max(0, len(str(tokens)) - 2)
    return str(Length(tokens // 10**digits * 10**digits, "tokens"))


class _Drafting:
    """Drafts and compiles the arms of a study; what they share is looked up once."""

    def __init__(self, study: Study, sources: tuple[str, ...]) -> None:
        self.study = study
        self.sources = sources
        self.places = drafts.study_places(study)
        self._texts: dict[tuple[str, int], PreparedText] = {}

    @cached_property
    def reference(self) -> PreparedText:
        """The text of an arm that goes on as its parent does: it knows the branch point and every text."""
        study = self.study
        mixture = mixtures.kept(study) or mixtures.stated(study)
        assert mixture is not None
        entry = {key: value for key, value in study.entry.items() if key in ("batch", "sequence_length", "positions")}
        if not study.before:
            entry = {key: value for key, value in study.entry.items() if key not in ("until", "tokens")}
        entry |= {"name": "kept", **self._length(self._tokens(None)), "measure": list(self.sources)}
        text = drafts.stage_file(study, study.name, study.name, [{**entry, "mixture": mixture.file}], 1)
        with self.places.of_arm("kept"):
            texts = PreparedText.open(study.project.with_draft(study.name, text), study.name, study.size)
            texts.compiled  # noqa: B018  an error in it is one of the study's file
        return texts

    def _tokens(self, point: Point | None) -> int:
        study = self.study
        if point is not None and point.tokens is not None:
            return point.tokens
        if study.file.tokens is not None:
            return study.tokens(study.file.tokens, "tokens")
        if study.stage_tokens is not None:
            return study.stage_tokens
        lengths = study.vary.tokens
        assert lengths is not None  # the file's schema
        return max(study.tokens(length, "vary", "tokens") for length in lengths)

    def tokens(self, point: Point) -> int:
        """The length of an arm at full size."""
        return self._tokens(point)

    def _length(self, tokens: int) -> dict[str, Any]:
        """The keys that end an arm: as the stage in question does, or after `tokens`."""
        if self.study.stage is not None and tokens == self.study.stage_tokens:
            return {key: value for key, value in self.study.entry.items() if key in ("until", "tokens")}
        return {"tokens": str(Length(tokens, "tokens"))}

    def limits(self) -> SourceLimits:
        compiled, study = self.reference.compiled, self.study
        stage = compiled.stages[-1]
        base = mixtures.base(study)
        length = study.stage_tokens if study.stage_tokens is not None else self._tokens(None)
        ramp = self._ramp_sequences()
        return SourceLimits(
            choices=compiled.sources,
            plan=stage.plan,
            items=stage.plan.items(0),
            passes=base.passes,
            sequences=max(1, int(length * compiled.scale) // stage.plan.sequence_length),
            arm_sequences=max(1, stage.plan.sequences - int(ramp * self._part(self._tokens(None))) // 2),
            ramp_sequences=ramp,
            exact=compiled.scale == 1,
        )

    def _ramp_sequences(self) -> int:
        """The windows of the ramp of the stage in question, 0 without one."""
        setting, reference = self.study.asked.setting, self.reference
        if self.study.stage is None or setting.ramp is None:
            return 0
        _, tokens = ramp_tokens(setting, setting.ramp, reference.curriculum.scaler)
        return -(-tokens // reference.compiled.stages[-1].plan.sequence_length)

    def _part(self, tokens: int) -> Fraction:
        """Of the texts and the ramp of the stage in question, what an arm of `tokens` has: it repeats as much."""
        full = self.study.stage_tokens
        if full is None or tokens >= full or self.study.file.repetition == "free":
            return Fraction(1)
        return Fraction(tokens, full)

    def arm(self, point: Point, replicate: int, seed: int, *, fork: bool = False) -> Arm:
        """The arm, compiled; or its `fork` at its first end."""
        study, name = self.study, arm_name(point.name, replicate)
        tokens = self._tokens(point)
        entry: dict[str, Any] = {"name": name, **self._length(tokens), **point.entry}
        mixture, drafted = self._mixture(point, tokens)
        mixture_name = f"{study.name}.{point.name}"
        if drafted:
            entry["mixture"] = mixture_name
        if "ramp" in entry and (part := self._part(tokens)) < 1:
            ramp = parse_length(entry["ramp"])
            entry["ramp"] = drafts.length_text(Length(max(1, int(ramp.amount * part)), ramp.unit))
        if "learning_rate" not in entry and study.file.learning_rate is not None:
            entry["learning_rate"] = self._annealed(tokens)
        if measured := [source for source in self.sources if source not in mixture.weights]:
            entry["measure"] = measured
        entry["every"] = self._every(tokens)
        if not study.before:
            seed = replicate
        elif replicate > 1:
            entry["data_seed"] = replicate
        entries = (entry,) if study.file.drop is None else self._in_two(entry, tokens, study.file.drop, fork=fork)
        about = f"arm {name} of study {study.name}"
        draft = drafts.Draft(
            stage_file=drafts.stage_file(study, study.name, about, entries, seed),
            mixtures={mixture_name: mixture.text(f"arm {point.name} of study {study.name}")} if drafted else {},
        )
        with self.places.of_arm(name):
            project = study.project.with_draft(study.name, draft.stage_file, draft.mixtures)
            texts = PreparedText.open(project, study.name, study.size, like=self.reference)
        return Arm(
            study=study.name,
            point=point,
            replicate=replicate,
            seed=1 if not study.before else seed,
            tokens=tokens,
            entries=entries,
            draft=draft,
            texts=texts,
            places=self.places,
            fork=fork,
        )

    def _in_two(
        self, entry: Mapping[str, Any], tokens: int, share: Fraction, *, fork: bool
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """An arm as two stages, the first of `share` of its tokens; or the first with an annealed fork behind it."""
        name, part = entry["name"], max(1, int(tokens * share))
        lasting = {key: entry[key] for key in ("measure",) if key in entry}
        first = {key: value for key, value in entry.items() if key != "until"}
        first |= {"name": FIRST.format(name), "tokens": str(Length(part, "tokens")), "every": {}}
        if fork:
            annealed = max(1, int(tokens * ANNEALED))
            length = {"tokens": str(Length(annealed, "tokens")), "learning_rate": self._annealed(annealed)}
            return first, {"name": FORK.format(name), **length, **lasting, "every": {}}
        rest = {"tokens": str(Length(tokens - part, "tokens"))} if "until" not in entry else {"until": entry["until"]}
        return first, {"name": name, **rest, **lasting, "every": entry["every"]}

    def _mixture(self, point: Point, tokens: int) -> tuple[ArmMixture, bool]:
        """What an arm reads, and whether no file has it: a shorter one takes a part of what was not read whole."""
        mixture, part = point.mixture, self._part(tokens)
        if part < 1:
            taken = {name: mixture.take.get(name, Fraction(1)) for name in mixture.weights}
            shorter = {name: whole * part for name, was in taken.items() if (whole := self._unread_whole(name, was))}
            if shorter:
                return replace(mixture, take={**mixture.take, **shorter}, file=None), True
        return mixture, "mixture" in point.entry and point.entry["mixture"] is None

    def _unread_whole(self, source: str, stated: Fraction) -> Fraction:
        """Of the text of a source, what the stage in question may read before it repeats; 0 where it repeats already.

        That is what its mixture states of a source that is new to the lineage, else what is left of the first epoch.
        """
        compiled = self.reference.compiled
        plan, windows = compiled.stages[-1].plan, compiled.sources[source].windows
        used = plan.items(0).get(source, 0)
        if not used or not windows:
            return stated
        segments = plan.sources[source].segments
        if not in_first_epoch(segments, used):
            return Fraction(0)
        return min(stated, Fraction(segments[-1].windows, windows))

    def _annealed(self, tokens: int) -> dict[str, Any]:
        """A fall in a straight line from the rate at the branch point, as a file would state it at full size."""
        study, anneal = self.study, self.study.file.learning_rate
        assert anneal is not None
        stage, scaler = self.reference.compiled.stages[-1], self.reference.curriculum.scaler
        rate = Fraction(stage.plan.learning_rate.at(stage.plan.start))
        own = scaler.size.learning_rate if study.root.imported is None else None
        if own is not None and own.max is not None:
            rate = rate * highest(study.root.learning_rate) / own.max
        if rate <= anneal.to:
            raise PlanError(
                f"the rate at the branch point is {float(rate):.3g}, no higher than {float(anneal.to):g}",
                place=study.place("learning_rate", "to"),
                hint="anneal to a lower rate, as in `{to: 0}`",
            )
        return {
            "shape": "decay",
            "min": Decimal(mixtures.exact(anneal.to)),
            "decay": drafts.length_text(Length(tokens, "tokens")),
        }

    def _every(self, tokens: int) -> dict[str, Any]:
        """The cadence of an arm: the study's, else an evaluation in the middle where a loss is kept, and its end."""
        stated: EveryEntry | None = self.study.file.every
        if stated is not None:
            return dict(self.study.document.value["every"])
        if self.study.vary.share is not None and tokens > 1:
            return {"evaluate": f"{-(-tokens // 2)} tokens"}
        return {}


# --- addresses --------------------------------------------------------------------------------------------


def find_arm(project: Project, address: str, size: str, proposal: Mapping[str, Fraction] | None = None) -> Arm:
    """The arm at `STUDY/ARM` or `STUDY/ARM.REPLICATE`; NotFound for an address that names none."""
    name, slash, arm = address.partition("/")
    if not slash or not arm:
        raise ConfigError(
            f"`{address}` is a study: name one of its arms",
            hint=f"as in `{name}/kept`; `curriculum plan {name}` lists them",
        )
    return compile_study(project, name, size, proposal).arm(arm)


def texts_of(project: Project, names: Iterable[str], size: str) -> list[PreparedText]:
    """The text of each of `names`, curricula or arms of studies by address; an arm's lineage is called by its address.

    A study is compiled once for all its arms.
    """
    studies: dict[str, CompiledStudy] = {}
    texts = []
    for name in names:
        study, slash, arm = name.partition("/")
        if not slash or study not in project.names("studies"):
            texts.append(PreparedText.open(project, name, size))
            continue
        if study not in studies:
            studies[study] = compile_study(project, study, size)
        found = studies[study].arm(arm)
        texts.append(found.texts.named(found.address))
    return texts

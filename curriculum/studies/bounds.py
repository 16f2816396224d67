"""How much of each source an arm may read: the limits of passes at the end of the stage it stands for, and `always`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from curriculum.compiler.sources import DEFAULT_PASSES, SourceChoice
from curriculum.errors import PlanError
from curriculum.plan.stage import StagePlan
from curriculum.studies.block import Block
from curriculum.studies.study import Study
from curriculum.units import show_share

PARTS = 100
"""Caps are whole numbers of this many parts: text and lengths that a size rounds give the same ones."""
READ_FROM = 3
"""Windows of a source by its share, from which an arm reads one: an order is at most 1.68 windows from each share."""
SLACK = Fraction(99, 100)
"""Of a cap: a stage reads whole windows, and a little more or less than it asks for."""


@dataclass(frozen=True, kw_only=True)
class SourceLimits:
    """Shares that sources may have over `sequences` windows of a stage, as the planner would refuse more.

    `choices` are the texts at the size, `plan` that of an arm, whose branch point has used `items` of each source.
    `arm_sequences` is the length of an arm in windows, a ramp counted by half; `ramp_sequences` is the ramp of the
    stage that it stands for. With `exact` lengths, which no size
    scales, an arm that gives weight to a source of which it reads nothing is refused.
    """

    choices: Mapping[str, SourceChoice]
    plan: StagePlan
    items: Mapping[str, int]
    passes: Mapping[str, Fraction]
    sequences: int
    arm_sequences: int
    ramp_sequences: int
    exact: bool

    @property
    def least(self) -> Fraction:
        """The smallest share of which an arm reads a window in any case."""
        return min(Fraction(1), Fraction(READ_FROM, self.arm_sequences))

    def declared(self, source: str) -> int:
        """The full-size tokens of a source, declared or counted; 0 while it is not known."""
        choice = self.choices[source]
        return choice.declared or choice.windows

    def allowed_passes(self, source: str) -> Fraction:
        default = Fraction(1) if self.choices[source].order == "in-order" else DEFAULT_PASSES
        return self.passes.get(source, default)

    def cap(self, source: str) -> Fraction:
        """The largest share of a source."""
        choice, allowed = self.choices[source], self.allowed_passes(source)
        if not choice.windows:
            return Fraction(1)
        if source in self.plan.sources:
            last = self.plan.sources[source].segments[-1]
            most = last.first_item + (allowed - last.pass_number) * last.windows
        else:
            most = allowed * choice.windows
        share = max(Fraction(0), (most - self.items.get(source, 0)) / self.sequences * SLACK)
        return min(Fraction(1), Fraction(int(share * PARTS), PARTS))

    def exceeded(self, shares: Mapping[str, Fraction]) -> str:
        """Why a mixture is not trained: the source that it would read too often; empty where it may."""
        for source, share in shares.items():
            if share > self.cap(source):
                passes = f"{float(self.allowed_passes(source)):g} passes"
                return f"{show_share(share)} of `{source}` would be more than {passes}"
        return ""

    def unread(self, shares: Mapping[str, Fraction]) -> str:
        """Why a mixture is not trained: the source of which it may read nothing; empty where it may be trained."""
        for source, share in shares.items():
            if self.exact and 0 < share < self.least:
                return f"{show_share(share)} of `{source}` may be no window of an arm"
        return ""

    def least_of_block(self, block: Block) -> list[Fraction]:
        """The smallest share of each source of a swarm of which an arm reads all that is in it."""
        return [self.least / min(block.rest.values()) if name == block.REST else self.least for name in block.centre]

    def of_block(self, study: Study, block: Block) -> tuple[list[Fraction], list[Fraction]]:
        """The smallest and the largest share of each source of a swarm; PlanError where they leave nothing."""
        low: dict[str, Fraction] = {}
        high: dict[str, Fraction] = {}
        for name in block.centre:
            inside = block.rest if name == block.REST else {name: Fraction(1)}
            caps = [min(self.cap(source), self._always(study, source)[1]) / ratio for source, ratio in inside.items()]
            least = [self._always(study, source)[0] / ratio for source, ratio in inside.items()]
            low[name], high[name] = max(least), min(Fraction(1), *caps)
            if low[name] > high[name]:
                raise PlanError(
                    f"`always` asks for {show_share(low[name])} of `{name or 'the other sources'}`; its passes allow "
                    f"{show_share(high[name])}",
                    place=study.place("always", name),
                    hint="ask for less, or allow more `passes:` in the mixture",
                )
        if sum(low.values()) > 1 or sum(high.values()) < 1:
            total, what = (
                (sum(high.values()), "allow only") if sum(high.values()) < 1 else (sum(low.values()), "ask for")
            )
            raise PlanError(
                f"the limits of all sources together {what} {show_share(Fraction(total))} of the tokens",
                place=study.place("always") if study.file.always else study.place("vary", "mixture", "around"),
                hint="change `always:`, allow more `passes:` in the mixture, or ask about a shorter stage",
            )
        return list(low.values()), list(high.values())

    def binding(self) -> dict[str, Fraction]:
        """The caps below 1, by source."""
        return {source: cap for source in sorted(self.choices) if (cap := self.cap(source)) < 1}

    def _always(self, study: Study, source: str) -> tuple[Fraction, Fraction]:
        bounds = study.file.always.get(source)
        return (bounds.low, bounds.high) if bounds is not None else (Fraction(0), Fraction(1))

"""The sources of a swarm, of which those that are not asked about keep their ratios to each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar, Final

from curriculum.config.studies import SwarmEntry
from curriculum.errors import PlanError
from curriculum.studies.mixtures import ArmMixture
from curriculum.studies.study import Study
from curriculum.units import show_share

FROM_ZERO: Final = Fraction(1, 10)
"""The share around which a source is varied that the mixture gives no weight."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """The sources of a swarm: those that vary alone, and the others as one virtual source that keeps its ratios.

    `centre` are the shares around which it is varied, by name, `REST` the virtual source; `rest` the ratios in it.
    """

    centre: Mapping[str, Fraction]
    rest: Mapping[str, Fraction]

    REST: ClassVar = ""

    def widen(self, row: tuple[Fraction, ...]) -> dict[str, Fraction]:
        """The weights in percent of each source at a point of the swarm."""
        shares = dict(zip(self.centre, row, strict=True))
        rest = shares.pop(self.REST, Fraction(0))
        shares |= {name: ratio * rest for name, ratio in self.rest.items()}
        return {name: share * 100 for name, share in sorted(shares.items()) if share}

    def narrow(self, shares: Mapping[str, Fraction]) -> tuple[Fraction, ...] | None:
        """The point of the swarm at which a mixture is; None where the ratios of the others are not the swarm's."""
        rest = sum((shares.get(name, Fraction(0)) for name in self.rest), Fraction(0))
        if any(shares.get(name, Fraction(0)) != ratio * rest for name, ratio in self.rest.items()):
            return None
        if not shares.keys() <= {*self.centre, *self.rest}:
            return None
        return tuple(rest if name == self.REST else shares.get(name, Fraction(0)) for name in self.centre)


def block_of(study: Study, swarm: SwarmEntry, base: ArmMixture) -> Block:
    """The sources of the study's swarm around `base`; PlanError for one that has no weight there."""
    only, around = swarm.only, base.shares
    if only is None:
        return Block(centre=around, rest={})
    zero = [one.name for one in only if one.from_zero]
    for number, one in enumerate(only):
        if one.from_zero and around.get(one.name):
            raise PlanError(
                f"`{swarm.around}` gives `{one.name}` a weight already: it is not added from 0",
                place=study.place("vary", "mixture", "only", number),
                hint=f"write `{one.name}`, which varies it around its {show_share(around[one.name])} there",
            )
        if not one.from_zero and one.name not in around:
            raise PlanError(
                f"`{swarm.around}` gives `{one.name}` no weight: nothing can vary",
                place=study.place("vary", "mixture", "only", number),
                hint=f"give it a weight there, or write `{one.name} from 0`",
            )
    names = {one.name for one in only}
    scale = 1 - FROM_ZERO * len(zero)
    if scale <= 0:
        raise PlanError(
            f"{len(zero)} sources are varied from 0: at most {int(1 / FROM_ZERO) - 1} at once",
            place=study.place("vary", "mixture", "only"),
            hint="ask about fewer",
        )
    centre = {one.name: FROM_ZERO if one.from_zero else around[one.name] * scale for one in only}
    others = {name: share for name, share in around.items() if name not in names}
    total = sum(others.values(), Fraction(0))
    if total:
        centre[Block.REST] = total * scale
    return Block(centre=centre, rest={name: share / total for name, share in others.items()})

"""Along any chain of stages, ramps and branches in the middle of ramps every source keeps to its share.

Chains of up to six links over 1 to 300 sources, weights over six decades, positions to 1e12: at every edge and in
between, what a source has had is its exact share of each link to within the bounds of a tree and of a ramp.
"""

from __future__ import annotations

import random
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from curriculum.compiler.mixture_phases import MixtureState, _phases
from curriculum.plan.mixing import LARGEST_TOTAL, Ramp, integer_weights
from curriculum.plan.stage import MixturePhase, MixtureSegment

TREE, RAMP = Fraction(168, 100), Fraction(386, 100)
PART = Fraction(1, LARGEST_TOTAL)
"""What apportioning may move a share by, where shares in the middle of a ramp have no small common denominator."""


def mixture(draw: random.Random, names: list[str]) -> dict[str, int]:
    some = draw.sample(names, draw.randint(1, len(names)))
    return integer_weights({name: Fraction(round(10 ** draw.uniform(0, 6))) for name in some})


def ideal(blend: MixturePhase, index: int, name: str) -> Fraction:
    """The share of `name` summed up over the first `index` sequences, and over what the tree before a ramp drew."""
    mixer = blend.mixer
    if not isinstance(mixer, Ramp):
        return index * mixer.share(name) if name in mixer.weights else Fraction()
    was, becomes = (tree.share(name) if name in tree.weights else Fraction() for tree in (mixer.before, mixer.after))
    return (mixer.before_index + index) * was + Fraction(index**2, 2 * mixer.sequences) * (becomes - was)


def bounded(blend: MixturePhase, index: int) -> None:
    """Every source has had its ideal number at `index`, to within what the design promises."""
    mixer = blend.mixer
    counts = mixer.counts(index)
    assert sum(counts.values()) == index
    base = mixer.before.counts(mixer.before_index) if isinstance(mixer, Ramp) else {}
    for name, count in counts.items():
        off = abs(base.get(name, 0) + count - ideal(blend, index, name))
        assert off <= mixer.bound(name) < (RAMP if isinstance(mixer, Ramp) else TREE)


def shares_at(blend: MixturePhase, index: int) -> dict[str, Fraction]:
    mixer = blend.mixer
    found = mixer.shares(index) if isinstance(mixer, Ramp) else {n: mixer.share(n) for n in mixer.names}
    return {name: share for name, share in found.items() if share}


@pytest.mark.promise(
    "The bounds of shares hold along chains of ramps and branches: 1 to 300 sources, weights over six "
    "decades, to 1e12 sequences"
)
@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**9), st.sampled_from([1, 2, 3, 7, 40, 300]))
def test_along_any_chain_of_ramps_and_branches_every_source_keeps_to_its_share(seed: int, most: int) -> None:
    draw = random.Random(seed)
    names = [f"source-{number}" for number in range(draw.randint(1, most))]
    before, base = MixtureState(None, 0, {}), 0
    for link in range(draw.randint(2, 6)):
        old = before.phase
        weights = dict(old.weights) if old and draw.random() < 0.3 else mixture(draw, names)
        ramp = draw.randint(1, 10 ** draw.randint(1, 9)) if link and draw.random() < 0.7 else 0
        length = draw.randint(1, 10 ** draw.randint(2, 11))
        if ramp and draw.random() < 0.5:
            length = draw.randint(1, ramp)  # the next branches off in the middle of the ramp
        blends, pieces = _phases(before, weights, ramp, continues=False)
        for places in edges(draw, pieces, length):
            check(blends, pieces, places, base)
        if ramp and old is not None:
            joined(old, before.index, blends[0])
        piece = next(piece for piece in reversed(pieces) if piece.first <= max(length - 1, 0))
        blend, index = blends[piece.blend], piece.index + length - piece.first
        base += length
        before = MixtureState(blend, index, blend.items(index))
        assert sum(before.items.values()) == base <= 10**12


def edges(draw: random.Random, pieces: list[MixtureSegment], length: int) -> list[int]:
    around = {piece.first + step for piece in pieces for step in (-1, 0, 1)} | {0, 1, length - 1}
    return sorted({at for at in around if 0 <= at < length} | {draw.randrange(length) for _ in range(3)})


def check(blends: tuple[MixturePhase, ...], pieces: list[MixtureSegment], at: int, base: int) -> None:
    """At the link's sequence `at`: the counts so far, the one that is drawn next, and the bounds."""
    piece = next(piece for piece in reversed(pieces) if piece.first <= at)
    blend, index = blends[piece.blend], piece.index + at - piece.first
    bounded(blend, index)
    had = blend.items(index)
    assert sum(had.values()) == base + at
    assert min(had.values()) >= 0
    source, ordinal = blend.mixer.draw(np.array([index]))
    name = blend.mixer.names[int(source[0])]
    assert blend.base.get(name, 0) + int(ordinal[0]) == had[name], "it goes on where the lineage stands"
    if isinstance(blend.mixer, Ramp) and index + 1 > blend.mixer.sequences:
        return
    after = blend.items(index + 1)
    assert {n: after[n] - had.get(n, 0) for n in after if after[n] != had.get(n, 0)} == {name: 1}


def joined(old: MixturePhase, index: int, rising: MixturePhase) -> None:
    """A ramp begins from the shares in force, to within a part in 2^31, and goes to those of the mixture."""
    in_force, mixer = shares_at(old, index), rising.mixer
    assert isinstance(mixer, Ramp)
    first, last = mixer.shares(0), mixer.shares(mixer.sequences)
    assert all(abs(first.get(name, Fraction()) - in_force.get(name, 0)) <= PART for name in {*first, *in_force})
    total = sum(rising.weights.values())
    assert {name: share for name, share in last.items() if share} == {
        name: Fraction(weight, total) for name, weight in rising.weights.items()
    }


def test_a_branch_just_behind_the_start_of_a_ramp_leaves_out_a_share_below_a_part_in_2_to_31() -> None:
    trunk = MixtureState(MixturePhase(weights={"most": 1}, base={}), 10, {"most": 10})
    (risen, _), _ = _phases(trunk, {"most": 10**8, "rare": 1}, 10**6, continues=False)
    (rising, _), _ = _phases(MixtureState(risen, 40, risen.items(40)), {"most": 1, "rare": 1}, 1000, continues=False)
    assert rising.before == {"most": LARGEST_TOTAL}
    assert rising.items(1000) == {"most": 50 + 750, "rare": 250}

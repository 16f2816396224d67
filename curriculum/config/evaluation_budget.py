"""How much a drafted stage file evaluates: what keeps evaluations under a tenth of the compute."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Final

from curriculum.data.manifest import LEAST_HELD_OUT_WINDOWS

EVALUATED: Final = Fraction(1, 3)
"""The compute of a token that is evaluated, by that of one that is trained on: the forward pass alone."""
LARGEST_SHARE: Final = Fraction(1, 10)
"""Of the compute for evaluations."""


def evaluation_budget(ends: Sequence[int], sources: int, sequence_length: int, parts: Sequence[int]) -> tuple[int, int]:
    """In how many parts evaluations divide stages with these `ends` (tokens), and the windows of each source in one.

    The first of `parts` that leaves enough windows to judge by, else the last.
    """
    for number in parts:
        evaluations = number + 2 * len(ends)  # the cadence, and every stage's start and end
        affordable = ends[-1] * LARGEST_SHARE / (1 - LARGEST_SHARE) / EVALUATED
        windows = int(affordable / (evaluations * sources * sequence_length))
        if windows >= LEAST_HELD_OUT_WINDOWS:
            break
    return number, max(1, windows)

"""Measures what is missing at the checkpoints of lineages: one loop for held-out losses and benchmark scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from curriculum.errors import CurriculumError
from curriculum.runs.measurements import Gap


@dataclass(frozen=True, slots=True)
class FillResult:
    """How filling ended: results measured, and a line with the reason for each that is still missing."""

    stopped: bool
    measured: int = 0
    unmeasured: tuple[str, ...] = ()


def fill_gaps(gaps: Iterable[Gap], measure: Callable[[Gap], bool], *, separately: bool = False) -> FillResult:
    """Measure gap by gap; `measure` returns false when it was asked to stop. A failure ends nothing.

    With `separately`, where a gap of several names fails each is tried alone, and one that fails alone is not tried
    again at later positions.
    """
    unmeasured: list[str] = []
    measured = 0
    failed: set[str] = set()
    for gap in gaps:
        groups = [tuple(name for name in gap.names if name not in failed)]
        while groups:
            group = groups.pop(0)
            if not group:
                continue
            try:
                if not measure(replace(gap, names=group)):
                    return FillResult(True, measured, tuple(unmeasured))
                measured += len(group)
            except CurriculumError as error:
                if not separately:
                    unmeasured.append(f"{replace(gap, names=group)}: {error.what}")
                elif len(group) > 1:
                    groups += [(name,) for name in group]
                else:
                    failed.update(group)
                    reason = error.what + (f"; {error.hint}" if error.hint else "")
                    unmeasured.append(f"{group[0]}, from {gap.position:,} tokens on: {reason}")
    return FillResult(False, measured, tuple(unmeasured))

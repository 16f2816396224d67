"""What a search for the first difference can answer honestly: exactly there, at the latest there, or not found."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Found:
    """A first difference on the token clock.

    `position` is that of a token that is surely affected, or None where none was met though the parameters
    differ; everything before `same_until` is the same. With `exact` nothing before `position` differs.
    """

    position: int | None
    same_until: int
    exact: bool

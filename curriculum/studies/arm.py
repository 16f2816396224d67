"""An arm of a study, `STUDY/ARM` or `STUDY/ARM.REPLICATE`, as the curriculum that a person would have written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from curriculum.compiler.compile import Compiled, CompiledStage
from curriculum.compiler.prepared_text import PreparedText
from curriculum.config.project import Project
from curriculum.studies import drafts, points
from curriculum.studies.points import Point

FIRST: Final = "first-part.{}"
"""The name of the stage of an arm at whose end it may be dropped."""
FORK: Final = "annealed.{}"
"""The name of the fork by which an arm is judged there."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One run of a point: replicate `replicate`, counted from 1, on trunk `seed`, counted from 1.

    `project` has the drafts of its files; its curriculum is the study's name, its last stage the arm's. `entries` are
    the keys of its own stages: two where it may be dropped at the end of the first. Its `fork` leaves there, and is
    annealed. `places` are where the study says what its files state.
    """

    study: str
    point: Point
    replicate: int
    seed: int
    tokens: int
    entries: tuple[Mapping[str, Any], ...] = field(repr=False)
    draft: drafts.Draft = field(repr=False)
    texts: PreparedText = field(repr=False)
    places: drafts.StudyPlaces = field(repr=False)
    fork: bool = False

    @property
    def name(self) -> str:
        """The stage's name: the first replicate has no number."""
        name = arm_name(self.point.name, self.replicate)
        return FORK.format(name) if self.fork else name

    @property
    def address(self) -> str:
        return f"{self.study}/{self.name}"

    @property
    def project(self) -> Project:
        return self.texts.project

    @property
    def role(self) -> points.Role:
        return self.point.role

    @property
    def compiled(self) -> Compiled:
        """The curriculum compiled; what the files of the arm have wrong is an error in the study's."""
        with self.places.of_arm(self.name):
            return self.texts.compiled

    @property
    def stage(self) -> CompiledStage:
        """The arm itself, the last stage of its lineage."""
        return self.compiled.stages[-1]

    @property
    def own_stages(self) -> tuple[CompiledStage, ...]:
        """The stages behind the branch point, in order."""
        return self.compiled.stages[-len(self.entries) :]

    @property
    def first(self) -> CompiledStage:
        """The stage that leaves the branch point; the arm itself unless it has two."""
        return self.own_stages[0]

    @property
    def start(self) -> int:
        """The branch point in tokens, at this size."""
        return self.first.plan.start


def arm_name(point: str, replicate: int) -> str:
    return point if replicate == 1 else f"{point}.{replicate}"

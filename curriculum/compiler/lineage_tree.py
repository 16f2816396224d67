"""What several compiled lineages share: every stage once, who goes through it and how far, and the trunk of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from curriculum.compiler.compile import Compiled, CompiledStage


@dataclass(frozen=True, slots=True)
class TreeStage:
    """A stage as the lineage compiled it that goes furthest in it.

    `left_at` is the position (tokens from the root) at which each lineage that goes through the stage leaves it, by
    the lineage's name.
    """

    stage: CompiledStage
    lineage: Compiled
    left_at: Mapping[str, int]

    def leaving(self) -> dict[str, int]:
        """The lineages that leave before the furthest does, with where they leave."""
        return {name: at for name, at in self.left_at.items() if at < self.stage.stop}


@dataclass(frozen=True, slots=True)
class Trunk:
    """What all of several lineages go through together: the stages, the last as far as all do, and where that ends."""

    stages: tuple[CompiledStage, ...]
    position: int


def stage_tree(lineages: Sequence[Compiled], names: Sequence[str] | None = None) -> dict[str, TreeStage]:
    """Every stage of some lineages once, by name, parents first; `names` are those of the lineages, else curricula."""
    furthest: dict[str, tuple[CompiledStage, Compiled]] = {}
    left_at: dict[str, dict[str, int]] = {}
    for lineage, called in zip(lineages, names or [one.curriculum for one in lineages], strict=True):
        for stage in lineage.stages:
            left_at.setdefault(stage.name, {})[called] = stage.stop
            if stage.name not in furthest or stage.stop > furthest[stage.name][0].stop:
                furthest[stage.name] = (stage, lineage)
    return {name: TreeStage(*furthest[name], left_at[name]) for name in furthest}


def shared_trunk(lineages: Sequence[Compiled]) -> Trunk:
    """The trunk of `lineages`, without a stage where they differ from their first step."""
    shared: list[CompiledStage] = []
    position = 0
    for stages in zip(*(compiled.stages for compiled in lineages), strict=False):
        if len({(stage.name, stage.plan.fingerprint) for stage in stages}) > 1:
            break
        last = min(stages, key=lambda stage: stage.stop)
        position = last.stop
        shared.append(last)
        if any(stage.stop != position for stage in stages):
            break
    return Trunk(tuple(shared), position)

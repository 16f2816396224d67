"""The shipped curricula, each compiled once, and projects of the shipped files with others over them."""

from __future__ import annotations

import functools
import shutil
from collections import defaultdict
from pathlib import Path

import numpy as np

from curriculum.compiler.compile import Compiled, CompiledStage, compile_curriculum
from curriculum.config.project import Project

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = Project(ROOT)
VARIANTS = ("v1.1", "v1.1-math-code", "v1.1-chinese")


@functools.cache
def compiled(name: str, size: str) -> Compiled:
    return compile_curriculum(SHIPPED, name, size)


def full(name: str) -> Compiled:
    return compiled(name, "full")


def rehearsal(name: str) -> Compiled:
    return compiled(name, "rehearsal")


def project_with(folder: Path, files: dict[str, str]) -> Project:
    """The shipped files in `folder`, and over them `{path: text}`."""
    for name in ("stages", "mixtures"):
        shutil.copytree(ROOT / name, folder / name, dirs_exist_ok=True)
    for name in ("sources.yaml", "sizes.yaml", "machines.yaml"):
        shutil.copy(ROOT / name, folder)
    for path, text in files.items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(text)
    return Project(folder)


def branch(stages: str, point: str = "v1.1/basic") -> dict[str, str]:
    """The file of a curriculum `mine` with these stages."""
    return {"stages/mine.yaml": f"from: {point}\nstages:\n{stages}"}


def items_at_stop(stage: CompiledStage) -> dict[str, int]:
    return stage.plan.items((stage.stop - stage.plan.start) // stage.plan.sequence_length)


def drawn_over(compiled: Compiled) -> dict[tuple[str, int], list[int]]:
    """Every window that a lineage reads, by source and pass."""
    read: dict[tuple[str, int], list[int]] = defaultdict(list)
    for stage in compiled.stages:
        sequences = np.arange(stage.steps_run * stage.plan.batch_sequences, dtype=np.int64)
        draws = stage.plan.draws_at(sequences)
        for source, turn, window in zip(draws.source, draws.pass_number, draws.window, strict=True):
            read[draws.names[source], int(turn)].append(int(window))
    return read

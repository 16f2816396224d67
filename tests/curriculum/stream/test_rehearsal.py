"""Every token of the shipped curriculum's rehearsal, pinned for several numbers of ranks through both views.

The text is made by a formula, as large as the rehearsal's plan declares its sources: the package text that a rehearsal
prepares differs from one Python to the next. `python -m bench.stream --rehearsal` reads that text, with digests of its
own.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench.stream import views
from bench.text import write_ids
from curriculum.compiler.compile import compile_curriculum
from curriculum.config.project import Project
from curriculum.stream import Stream, StreamStage

PINNED = {
    1: "6b6b51da9b317cee5226ef3967fa7aab86b3517438e068d4fc3b393c7b1e89b9",
    2: "d43f18e8164555445df947b6d3f9132dcda0e1f07c04fe97cff58641ff933523",
    4: "fa2398d63201ff2837197e82bd2aa0f3e12670e37a12faef405fb3efcae9075a",
    8: "7f629058eb14a0ca570891a250107d2f83651f62ee24f955d13f5f79984e27d4",
}
"""SHA-256 of all tokens by the number of ranks: rank by rank what it reads in all steps, as little-endian int32.

They may change with a shipped file (say so in the change) or with ORDER_VERSION, and with nothing else.
"""


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory: pytest.TempPathFactory) -> Stream:
    """All 923 steps of `v1.1-math-code`, 1.9M tokens of three sources."""
    root = tmp_path_factory.mktemp("text")
    compiled = compile_curriculum(Project.find(Path(__file__)), "v1.1-math-code", "rehearsal")
    last = compiled.stages[-1].plan
    folders = {}
    for number, (name, source) in enumerate(sorted(last.sources.items())):
        tokens = max(segment.stop_window for segment in source.segments) * last.sequence_length + 1
        vocabulary = last.model["vocab_size"]
        ids = (np.arange(tokens, dtype=np.uint64) + np.uint64(number << 32)) * np.uint64(0x9E3779B97F4A7C15)
        folders[name] = str(root / name)
        write_ids(root / name, name, [(ids >> np.uint64(40)) % np.uint64(vocabulary)], vocabulary)
    return Stream(
        tuple(StreamStage(stage.name, stage.plan, stage.plan.stop_step, folders) for stage in compiled.stages)
    )


@pytest.mark.promise("Any training loop reads a plan's tokens as steps or as numbered samples, on any number of ranks")
@pytest.mark.parametrize("ranks", PINNED)
def test_steps_samples_and_the_trainer_s_ranks_read_the_pinned_tokens_of_the_rehearsal(
    rehearsal: Stream, ranks: int
) -> None:
    assert views(rehearsal, ranks) == dict.fromkeys(("batches", "samples", "trainer"), PINNED[ranks])

"""The collectives of a step are the same on every rank of 64, and in an order that hides them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import commands
import projects
import pytest
from projects import BuiltOnce
from small import CONFIG

if TYPE_CHECKING:
    from programs import Program  # with the compiler, which takes a second to import

pytestmark = pytest.mark.processes
SCRIPT = Path(projects.__file__).with_name("programs.py")
RANKS = (0, 1, 5, 63)
NODE = 4
"""The ranks of a node, as programs.py has them."""


@pytest.fixture(scope="module")
def programs(built_once: BuiltOnce) -> dict[int, Program]:
    """Of each rank, from a process of its own: torch keeps meshes of a process group that has ended."""
    folder = built_once("programs", printed)
    return {rank: json.loads((folder / str(rank)).read_text().splitlines()[-1]) for rank in RANKS}


def printed(folder: Path) -> None:
    folder.mkdir()
    for rank in RANKS:
        with (folder / str(rank)).open("w+") as out:
            process = commands.start_python(
                str(SCRIPT), str(rank), folder=folder, environment=dict(os.environ), out=out.fileno(), err=out.fileno()
            )
            assert process.wait(120) == 0, (folder / str(rank)).read_text()


@pytest.mark.promise("Ranks 0, 1, 5 and 63 of 64 issue the same collectives, in one order, with the same shapes")
@pytest.mark.parametrize("rank", [1, 5, 63])
def test_every_rank_issues_the_same_collectives(rank: int, programs: dict[int, Program]) -> None:
    assert programs[rank] == programs[0]


def test_the_gradient_of_the_output_weight_is_reduced_first_and_that_of_the_embedding_last(
    programs: dict[int, Program],
) -> None:
    first = programs[0]
    reduced = [shapes[1] for name, shapes in first if name == "_reduce_scatter_base_"]
    rows = -(-CONFIG.vocab_size // NODE) * NODE
    assert len(reduced) == CONFIG.num_hidden_layers + 3
    assert reduced[0] == reduced[-1] == [rows * CONFIG.hidden_size]
    assert reduced[-2] == [CONFIG.hidden_size], "the root is the last norm alone"
    assert [name for name, _ in first].count("_allgather_base_") == len(reduced), "each unit is gathered once a step"

"""When a save may take a second copy of the state in a node's memory."""

from __future__ import annotations

from typing import Any

import pytest

from curriculum.plan.host_memory import host_need

P = 1_100_048_384


@pytest.mark.parametrize(
    ("node", "state", "staging"),
    [
        ({"ranks": 1, "local_ranks": 1, "sharding": "auto", "on_cpu": True}, 16 * P, 12 * P),
        ({"ranks": 1, "local_ranks": 1, "sharding": "auto", "on_cpu": False}, 0, 12 * P),
        ({"ranks": 64, "local_ranks": 4, "sharding": "hybrid", "on_cpu": False}, 0, 12 * P),
        ({"ranks": 64, "local_ranks": 4, "sharding": "full", "on_cpu": False}, 0, 12 * P // 16),
        ({"ranks": 4, "local_ranks": 4, "sharding": "none", "on_cpu": True}, 64 * P, 12 * P),
    ],
    ids=["a CPU", "a GPU", "inside nodes", "over all", "copies"],
)
def test_a_save_copies_each_row_once_a_node_beside_what_a_cpu_trains_with(
    node: dict[str, Any], state: int, staging: int
) -> None:
    need = host_need(P, saved=12 * P, **node)
    assert (need.state, need.staging) == (state, staging)
    least = -(-(state + staging) * 4 // 3)
    assert need.node == least
    assert need.copies(least)
    assert not need.copies(least - 1)
    assert need.copies(least, free=staging * 4 // 3 + 1)
    assert not need.copies(least, free=staging * 4 // 3 - 1)

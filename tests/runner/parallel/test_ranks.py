"""One process by itself; what several do together is in test_sharding."""

from __future__ import annotations

from pathlib import Path

import commands
import pytest
import torch
import torch.distributed as dist

from runner.parallel.ranks import Ranks, join_ranks, leave_ranks

FAULTS = """\
import resource, sys
import torch
from runner.parallel import ranks
if sys.argv[1] == "kept":
    ranks.keep_freed_memory()
torch.set_num_threads(1)
def work():
    held = [torch.ones(10 << 20) for _ in range(4)]  # 160 MB, as the activations of a step
for _ in range(10):  # the heap takes up to four rounds to find its place
    work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_a_lone_process_is_rank_0_of_1_without_a_process_group(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    ranks = join_ranks("cpu")
    assert (ranks.rank, ranks.size, ranks.first, ranks.device) == (0, 1, True, torch.device("cpu"))
    assert not dist.is_initialized()
    assert (ranks.any(True), ranks.any(False)) == (True, False)
    assert ranks.agree("x") == "x"
    assert ranks.gather(5) == [5]
    assert ranks.add(torch.tensor(2.0)) == 2.0
    ranks.wait()
    leave_ranks(ranks)


def test_a_lone_process_can_have_a_mesh_of_itself_and_leaves_it_behind() -> None:
    ranks = Ranks(0, 1, 1, torch.device("cpu"))
    mesh = ranks.mesh(1)
    assert mesh.mesh_dim_names == ("replicate", "shard")
    assert mesh.size() == 1
    leave_ranks(ranks)
    assert not dist.is_initialized()


@pytest.mark.processes
def test_memory_freed_by_one_step_is_there_for_the_next_without_page_faults(tmp_path: Path) -> None:
    faults = {}
    for how in ("kept", "handed back"):
        done = commands.python("-c", FAULTS, how, folder=tmp_path, check=True)
        faults[how] = int(done.stdout)
    assert faults["handed back"] > 20_000
    assert faults["kept"] < faults["handed back"] / 20


def test_ranks_leave_together(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "barrier", lambda **_: done.append("barrier"))
    monkeypatch.setattr(dist, "destroy_process_group", lambda: done.append("destroy"))
    leave_ranks(Ranks(0, 2, 2, torch.device("cpu")))
    assert done == ["barrier", "destroy"]

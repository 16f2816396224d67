"""Canonical sums: the same bits on 1, 2 and 4 ranks, on every mesh, and across a change of ranks in mid-run."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import canonical
import numpy as np
import pytest
import small
import torch
from hypothesis import given, settings, strategies as st
from projects import BuiltOnce

from curriculum.artifacts import checkpoints
from curriculum.errors import PlanError
from curriculum.stream import reader
from runner.parallel.canonical import GROUPS_AT_MOST, GroupSums, groups_of, pairwise
from runner.parallel.ranks import Ranks, leave_ranks

pytestmark = pytest.mark.processes


def of(size: int, rank: int = 0) -> Ranks:
    return Ranks(rank, size, size, torch.device("cpu"))


@pytest.fixture(scope="session")
def reports(built_once: BuiltOnce) -> dict[str, Any]:
    """Every mesh; two ranks go on from one's checkpoint, four from two's, one from four's."""
    root = built_once("canonical-sums", summed)
    report: dict[str, Any] = json.loads((root / "reports.json").read_text())
    return {"folders": {size: root / str(size) for size in canonical.MESHES}, **report}


def summed(root: Path) -> None:
    folders = {size: root / str(size) for size in canonical.MESHES}
    for folder in folders.values():
        folder.mkdir(parents=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        report = canonical.run(small.ALONE, folders[1], None)
        script = Path(canonical.__file__)
        report |= small.launch(folders[2], str(folders[1] / "(1, 1)"), 2, script=script)
        report |= small.launch(folders[4], str(folders[2] / "(1, 2)"), 4, script=script)
        model, optimizer = canonical.build(small.ALONE, bf16=False)
        begin = canonical.tensors.load(folders[4] / "(2, 2)", model, optimizer)["step"]
        for step in range(begin, canonical.STEPS):
            canonical.take(model, optimizer, step, small.ALONE)
        report["(1, 1) resumed"] = {"digest": canonical.digest(model, optimizer)}
    finally:
        leave_ranks(small.ALONE)
        torch.set_num_threads(threads)
    (root / "reports.json").write_text(json.dumps(report))


MESHES = [mesh for meshes in canonical.MESHES.values() for mesh in meshes]


@pytest.mark.promise("Canonical exactness: the same bits on 1, 2 and 4 ranks and any mesh")
@pytest.mark.parametrize("precision", ["fp32", "bf16", *canonical.SWITCHES])
@pytest.mark.parametrize("mesh", MESHES[1:])
def test_weights_moments_and_norms_have_the_same_bits_on_every_mesh(
    reports: dict[str, Any], mesh: str, precision: str
) -> None:
    alone = reports[f"(1, 1) {precision}"]
    assert min(alone["norms"]) > 0.5, "every step is meant to clip"
    assert reports[f"{mesh} {precision}"] == alone


@pytest.mark.promise("Canonical exactness: the same bits on 1, 2 and 4 ranks and any mesh")
@pytest.mark.parametrize("mesh", MESHES)
def test_a_run_resumed_on_another_number_of_ranks_ends_with_the_same_bits(reports: dict[str, Any], mesh: str) -> None:
    assert reports[f"{mesh} resumed"]["digest"] == reports["(1, 1) fp32"]["digest"]


def test_a_checkpoint_s_digest_of_tensors_does_not_depend_on_who_wrote_it(reports: dict[str, Any]) -> None:
    saved = {mesh: reports["folders"][size] / mesh for size, meshes in canonical.MESHES.items() for mesh in meshes}
    assert len({checkpoints.tensors_digest(folder) for folder in saved.values()}) == 1
    files = {mesh: len(list(folder.glob("*.safetensors"))) for mesh, folder in saved.items()}
    assert files == {"(1, 1)": 1, "(1, 2)": 2, "(2, 1)": 1, "(1, 4)": 4, "(2, 2)": 2, "(4, 1)": 1}


def test_native_sums_do_differ_so_that_canonical_ones_are_worth_their_cost(reports: dict[str, Any]) -> None:
    model, optimizer = canonical.build(small.ALONE, bf16=False, canonical=False)
    for step in range(canonical.STEPS):
        read = canonical.batch(step, small.ALONE, 1)
        canonical.forward_backward(model, read, canonical.MICRO, canonical.PLAN)
        canonical.update(model, optimizer, canonical.PLAN, step, small.ALONE)
    assert canonical.digest(model, optimizer) != reports["(1, 1) fp32"]["digest"]


@settings(max_examples=30, deadline=None)
@given(power=st.integers(0, 5), seed=st.integers(0, 1000))
def test_groups_added_one_after_another_make_the_same_tree_as_all_at_once(power: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    parts = [torch.randn(3, 2, generator=draw) * 10**4 for _ in range(2**power)]
    model = torch.nn.Linear(2, 3, bias=False)
    sums = GroupSums(model)
    for part in parts:
        model.weight.grad = part.clone()
        sums.add()
        assert model.weight.grad is None
        assert len(sums._sums) <= power + 1
    sums.restore()
    assert torch.equal(model.weight.grad, pairwise(parts))


@given(power=st.integers(0, 3), share=st.integers(1, 5))
def test_ranks_take_every_slot_once_and_whole_groups_wherever_the_tree_is_cut(power: int, share: int) -> None:
    groups = 8
    batch, ranks = groups * share, 2**power
    parts = [reader.slots_of(batch, rank, ranks, groups) for rank in range(ranks)]
    assert sorted(np.concatenate(parts).tolist()) == list(range(batch))
    for number, (group, rank) in enumerate(itertools.product(range(groups // ranks), range(ranks))):
        mine = parts[rank][group * share : (group + 1) * share]
        assert mine.tolist() == list(range(number * share, (number + 1) * share))


def test_groups_follow_from_batch_and_micro_batch_and_never_from_the_ranks() -> None:
    assert [groups_of(24, 1, of(size)) for size in (1, 2, 4, 8)] == [8] * 4
    assert groups_of(24, 6, of(4)) == 4
    assert groups_of(3584, 7, of(8)) == GROUPS_AT_MOST


@pytest.mark.parametrize(("batch", "micro", "size"), [(24, 1, 3), (24, 6, 8), (24, 5, 1), (24, 24, 2)])
def test_ranks_that_cannot_be_dealt_whole_groups_are_refused(batch: int, micro: int, size: int) -> None:
    with pytest.raises(PlanError, match=r"`exactness: canonical` cannot divide a batch of 24") as refused:
        groups_of(batch, micro, of(size))
    assert refused.value.hint

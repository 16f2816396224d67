"""A plan inside PyTorch's loaders: the tokens of every step, for any number of workers, stopped and resumed."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.data_loader import BatchSamplerShard, prepare_data_loader
from torch.utils.data import DataLoader, DistributedSampler

import curriculum
from curriculum import stream
from curriculum.errors import PlanError
from curriculum.integrations import torch as integration
from curriculum.integrations.torch import (
    Batches,
    BatchSampler,
    Loader,
    PlannedLR,
    SampleNumber,
    Samples,
    any_rank,
    causal_lm,
    megatron,
    pair,
    tokens,
)
from curriculum.stream import Stream

MICRO = 2


@pytest.fixture(scope="module")
def variant(finished: Path) -> Stream:
    return curriculum.open(finished).stream("variant")


def witnesses(variant: Stream, inputs: Iterable[np.ndarray], start: int = 0, world_size: int = 1) -> list[int]:
    """The digest of each step's inputs, from micro-batches in order."""
    inputs, found = iter(inputs), []
    for step in range(start, variant.last_step):
        micros = variant.batch_size(step) // world_size // MICRO
        found.append(sum(stream.witness(next(inputs)) for _ in range(micros)) % 2**64)
    assert next(inputs, None) is None
    return found


@pytest.fixture(scope="module")
def planned(variant: Stream) -> list[int]:
    return [variant.witness(step) for step in range(variant.last_step)]


def batches_of(loader: Iterable[Any]) -> Iterator[np.ndarray]:
    for rows in loader:
        yield rows[:, :-1].numpy()


@pytest.mark.promise("PyTorch's DataLoader reads the plan's tokens with any number of workers, by fork and by spawn")
@pytest.mark.processes
@pytest.mark.parametrize(("workers", "method"), [(0, None), (2, "fork"), (2, "spawn")])
def test_a_dataloader_reads_each_step_s_tokens_whatever_its_workers(
    variant: Stream, planned: list[int], workers: int, method: str | None
) -> None:
    start = variant.stages[1].first_step - 3  # across a stage's boundary, a ramp and a batch that changes
    options: dict[str, Any] = {"num_workers": workers, "multiprocessing_context": method}
    by_number = DataLoader(
        Samples(variant), batch_sampler=BatchSampler(variant, start, micro_batch=MICRO), collate_fn=stack, **options
    )
    assert witnesses(variant, batches_of(by_number), start) == planned[start:]
    in_turn = DataLoader(Batches(variant, start, micro_batch=MICRO, shape=tokens), batch_size=None, **options)
    assert witnesses(variant, batches_of(in_turn), start) == planned[start:]
    assert len(by_number) == len(in_turn) == len(list(variant.batches(start, micro_batch=MICRO)))


def doubled(rows: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(2 * rows)


@pytest.mark.promise(
    "A loader's workers send several micro-batches at once, and it gives out each, resumed at any step"
)
@pytest.mark.processes
@pytest.mark.parametrize("shape", [tokens, pair, causal_lm, megatron, doubled])
@pytest.mark.parametrize("together", [1, 5])
def test_what_workers_send_together_is_given_out_a_micro_batch_at_a_time(
    variant: Stream, shape: Callable[[Any], Any], together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = MICRO * variant.sequence_length * 8
    monkeypatch.setattr(integration, "TOGETHER", together * row + 1)
    start = variant.stages[1].first_step - 3  # across a stage's boundary and a batch that changes
    alone = list(Loader(Batches(variant, start, micro_batch=MICRO, shape=shape)))
    loader = Loader(Batches(variant, start, micro_batch=MICRO, shape=shape), num_workers=2)
    groups = [len(group) for group in loader.dataset.groups()]  # type: ignore[attr-defined]
    assert max(groups) == (together if shape is not doubled else 1)
    found = []
    for number, item in enumerate(loader, start=1):
        found.append(item)
        step = variant.step_of(variant.sample(start) + number * MICRO) if number < len(loader) else variant.last_step
        assert loader.state_dict() == {"samples": variant.sample(step)}
    assert len(found) == len(alone) == len(loader)
    for one, other in zip(found, alone, strict=True):
        assert type(one) is type(other)
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_groups_end_with_their_stage_and_where_the_batch_of_a_step_is_another(variant: Stream) -> None:
    batches = Batches(variant)  # a micro-batch is a step
    batches.together = 1 << 30
    groups = list(batches.groups())
    sizes = [{len(numbers) for numbers, _ in group} for group in groups]
    assert all(len(size) == 1 for size in sizes)
    edges = {stage.first_sample for stage in variant.stages}
    assert edges <= {group[0][0].start for group in groups}
    assert [part for group in groups for part in group] == list(batches.micro_batches)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "together", 0)
        assert all(len(group) == 1 for group in batches.groups())


def test_the_numbers_of_a_batch_travel_to_a_worker_by_their_ends(variant: Stream) -> None:
    batch = next(iter(BatchSampler(variant, 3)))
    sent = pickle.loads(pickle.dumps(batch))
    assert sent == batch == [*range(variant.sample(3), variant.sample(4))]
    assert {type(number) for number in sent} == {SampleNumber}
    assert len(pickle.dumps(batch)) < 120
    batch.append(batch[0])
    assert pickle.loads(pickle.dumps(batch)) == batch
    assert pickle.loads(pickle.dumps(type(batch)(range(0)))) == []


def stack(rows: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack(rows)


@pytest.mark.parametrize("world_size", [2, 4])
def test_the_ranks_together_read_the_step(variant: Stream, planned: list[int], world_size: int) -> None:
    parts = [
        witnesses(
            variant,
            batches_of(Batches(variant, rank=rank, world_size=world_size, micro_batch=MICRO, shape=tokens)),
            world_size=world_size,
        )
        for rank in range(world_size)
    ]
    assert [sum(step) % 2**64 for step in zip(*parts, strict=True)] == planned


@pytest.mark.parametrize("given", [0, 1, 4, 100, 101, 102, 107])
def test_a_loader_resumes_from_one_number_at_the_beginning_of_a_step(
    variant: Stream, planned: list[int], given: int
) -> None:
    loader = Loader(Batches(variant, micro_batch=MICRO, shape=tokens))
    items = iter(loader)
    for _ in range(given):
        next(items)
    state = loader.state_dict()
    step = variant.step_of(state["samples"])
    assert state == {"samples": variant.sample(step)}
    assert given * MICRO - variant.batch_size(step) < state["samples"] <= given * MICRO
    resumed = Loader(Batches(variant, micro_batch=MICRO, shape=tokens))
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    assert witnesses(variant, batches_of(resumed), step) == planned[step:]


def test_a_loader_at_its_end_and_one_of_a_later_stage_keep_to_their_steps(variant: Stream) -> None:
    loader = Loader(Batches(variant, micro_batch=MICRO))
    for _ in loader:
        pass
    end = loader.state_dict()
    assert end == {"samples": variant.last_sample}
    loader.load_state_dict(end)
    assert list(loader) == []
    assert len(loader) == variant.last_sample // MICRO  # Lightning counts on from where it was
    later = Loader(Batches(variant.stage("cooldown"), micro_batch=MICRO, shape=tokens))
    later.load_state_dict({"samples": 3})  # of an earlier stage: it begins where it begins
    assert later.state_dict() == {"samples": variant.stages[2].first_sample}
    with pytest.raises(PlanError, match="is inside step"):
        later.load_state_dict({"samples": variant.stages[2].first_sample + 1})


def test_the_planned_rate_is_the_plan_s_at_every_step_and_after_a_resume(variant: Stream) -> None:
    def scheduled() -> tuple[torch.optim.Optimizer, PlannedLR]:
        groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (3.0, 7.0)]
        optimizer = torch.optim.SGD(groups)
        return optimizer, PlannedLR(optimizer, variant)

    optimizer, schedule = scheduled()
    for step in range(variant.last_step):
        assert [group["lr"] for group in optimizer.param_groups] == [variant.lr(step)] * 2
        if step == 20:
            saved = schedule.state_dict()
        optimizer.step()
        schedule.step()
    assert optimizer.param_groups[0]["lr"] == variant.lr(variant.last_step - 1)  # stepped after the last update
    with pytest.raises(PlanError, match="once an update"):
        schedule.step()
    optimizer, schedule = scheduled()
    schedule.load_state_dict(saved)
    assert [group["lr"] for group in optimizer.param_groups] == schedule.get_last_lr() == [variant.lr(20)] * 2


def test_the_rate_of_a_stage_is_clamped_to_its_steps_before_a_state_is_loaded(variant: Stream) -> None:
    stage = variant.stage("cooldown")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])
    schedule = PlannedLR(optimizer, stage)
    assert optimizer.param_groups[0]["lr"] == stage.lr(stage.first_step)
    schedule.load_state_dict({"start": 0, "last_epoch": stage.last_step - 1})
    assert optimizer.param_groups[0]["lr"] == stage.lr(stage.last_step - 1)


@pytest.mark.promise("A wrapper that would deal a rank's part of the plan to ranks again, or shuffle it, is refused")
def test_dealing_the_order_to_ranks_again_is_refused(variant: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PlanError, match="one rank's part"):
        BatchSamplerShard(BatchSampler(variant), 2, 0)
    batches = DataLoader(Batches(variant, rank=0, world_size=2), batch_size=None)
    with pytest.raises(PlanError, match="one rank's part"):
        prepare_data_loader(batches, num_processes=2, process_index=0)
    batches.dataset.set_epoch(0)  # as on one rank, where nothing is dealt
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(PlanError, match="one rank's part"):  # what accelerate calls before it dispatches
        batches.dataset.set_epoch(0)


def test_several_ranks_that_would_read_the_same_are_refused(variant: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    made_before_the_ranks = Batches(variant, micro_batch=MICRO)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for made in (BatchSampler, Batches):
        with pytest.raises(PlanError, match="there are 2 ranks, and each would read every sequence"):
            made(variant)
        assert len(made(variant, world_size=1)) == variant.last_step  # all of them are to read the same
    with pytest.raises(PlanError, match="there are 2 ranks"):
        next(iter(made_before_the_ranks))


@pytest.mark.parametrize("kind", [Batches, BatchSampler])
def test_a_resume_past_the_end_is_refused_and_not_an_empty_epoch(variant: Stream, kind: type) -> None:
    assert len(kind(variant, variant.last_step, world_size=1, micro_batch=MICRO)) == 0
    with pytest.raises(PlanError, match="are not all in"):
        kind(variant, variant.last_step + 1, world_size=1, micro_batch=MICRO)
    with pytest.raises(PlanError, match="no number of sequences"):
        kind(variant, world_size=1, micro_batch=0)


def test_samples_in_another_order_are_refused(variant: Stream) -> None:
    with pytest.raises(PlanError, match="another order"):
        list(DataLoader(Samples(variant), batch_size=8, shuffle=True))
    with pytest.raises(PlanError, match="another order"):
        Samples(variant).__getitems__([3, 3])
    in_order = DataLoader(Samples(variant), sampler=DistributedSampler(Samples(variant), 2, 1, shuffle=False))
    assert torch.equal(next(iter(in_order))[0], Samples(variant)[1])


def test_a_loader_of_anything_but_batches_is_refused(variant: Stream) -> None:
    with pytest.raises(PlanError, match="`Loader` was given a Stream, not `Batches`"):
        Loader(variant)  # type: ignore[arg-type]


def test_samples_are_a_random_access_source_of_grain(variant: Stream) -> None:
    """`grain.python.RandomAccessDataSource`: a length, any index alone and in any order, a stable representation."""
    source = Samples(variant, variant.stages[1].first_step)
    assert len(source) == variant.last_sample - variant.stages[1].first_sample
    for index in (5, 3, len(source) - 1):
        assert source[index].tolist() == variant.samples([source.first_sample + index])[0].tolist()
    assert repr(source) == repr(pickle.loads(pickle.dumps(source)))
    assert repr(source).startswith("<samples 192 to 383 of <stream of trunk/basic")


def test_a_batch_that_ranks_or_micro_batches_do_not_divide_is_refused_at_once(variant: Stream) -> None:
    for options in ({"world_size": 3}, {"micro_batch": 3}, {"world_size": 16, "micro_batch": 1}):
        for made in (BatchSampler, Batches):
            with pytest.raises(PlanError, match="divide"):
                made(variant, **options)
    with pytest.raises(PlanError, match="no rank 2 of 2"):
        Batches(variant, rank=2, world_size=2)


def test_items_have_the_shapes_that_trainers_take(variant: Stream) -> None:
    rows = variant.samples([0, 1])
    inputs, targets = pair(rows)
    assert inputs.is_contiguous()
    assert targets.is_contiguous()
    assert (inputs.tolist(), targets.tolist()) == (rows[:, :-1].tolist(), rows[:, 1:].tolist())
    assert torch.equal(causal_lm(rows)["shift_labels"], targets)
    batch = megatron(rows)
    assert batch["position_ids"].tolist() == [list(range(variant.sequence_length))] * 2
    assert batch["loss_mask"].sum() == targets.numel()
    assert any_rank(True)
    assert not any_rank(False)
    with pytest.raises(IndexError):
        Samples(variant, variant.last_step - 1)[32]


def test_the_project_and_its_streams_load_neither_torch_nor_the_integrations(finished: Path) -> None:
    code = (
        "import sys, curriculum; s = curriculum.open(sys.argv[1]).stream('variant'); s.batch(0);"
        "print(sorted({'torch', 'curriculum.integrations'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(finished)], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"

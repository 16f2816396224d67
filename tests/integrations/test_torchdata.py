"""torchdata's StatefulDataLoader: its own state, in the middle of a step, with and without workers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torchdata.stateful_dataloader import StatefulDataLoader

from curriculum.integrations.torch import Batches, BatchSampler, Samples, tokens
from curriculum.stream import Stream
from tests.integrations.witnessed import MICRO, Seen, require_plan

START = 20


def by_number(plan: Stream, workers: int) -> StatefulDataLoader[Any]:
    sampler = BatchSampler(plan, START, micro_batch=MICRO)
    return StatefulDataLoader(Samples(plan), batch_sampler=sampler, collate_fn=torch.stack, num_workers=workers)


def in_turn(plan: Stream, workers: int) -> StatefulDataLoader[Any]:
    batches = Batches(plan, START, micro_batch=MICRO, shape=tokens)
    return StatefulDataLoader(batches, batch_size=None, num_workers=workers)


@pytest.mark.holds("one loader for all stages; resumed from its own state, also within a step, with 0 and 2 workers")
@pytest.mark.parametrize("made", [by_number, in_turn])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_stateful_loader_goes_on_where_its_state_was_taken(variant: Stream, made: Any, workers: int) -> None:
    seen, loader = Seen(), made(variant, workers)
    micros = list(variant.batches(START, micro_batch=MICRO))
    taken = 31  # within the third stage's first step
    items = iter(loader)
    for batch in micros[:taken]:
        seen.read(batch.step, next(items)[:, :-1], batch.lr)
    assert not micros[taken - 1].last
    state = loader.state_dict()
    resumed = made(variant, workers)
    resumed.load_state_dict(state)
    for batch, rows in zip(micros[taken:], resumed, strict=True):
        seen.read(batch.step, rows[:, :-1], batch.lr)
    require_plan(variant, range(START, variant.last_step), seen)

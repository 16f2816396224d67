"""The public stream of a lineage: steps and numbered samples, equal to what the trainer reads, in any process."""

from __future__ import annotations

import hashlib
import itertools
import multiprocessing
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import curriculum
from curriculum import stream
from curriculum.errors import CurriculumError, DataError, PlanError
from curriculum.stream import Batch, Stream, StreamStage, reader
from curriculum.stream.batch import document_bounds

PINNED = "c26444e70e20cf365f6b3e9085651259d70f548b85e8b274dc517b4cfd51b559"
"""SHA-256 of all tokens of the small project's variant, step by step in slot order."""


@pytest.fixture(scope="module")
def variant(finished: Path) -> Stream:
    return curriculum.open(finished).stream("variant")


def tokens_of(steps: Stream) -> np.ndarray:
    return np.concatenate([batch.tokens for batch in steps.batches()])


@pytest.mark.promise("Any training loop reads a plan's tokens as steps or as numbered samples, on any number of ranks")
def test_every_number_of_ranks_reads_the_pinned_tokens_through_both_views(variant: Stream) -> None:
    everything = tokens_of(variant)
    assert hashlib.sha256(everything.astype("<i4")).hexdigest() == PINNED
    assert len(everything) == variant.last_sample - variant.first_sample
    assert np.array_equal(variant.samples(range(variant.last_sample)), everything)
    for world_size, micro_batch in ((1, 2), (2, 2), (4, 1), (8, 1)):
        ranks = [
            list(variant.batches(rank=rank, world_size=world_size, micro_batch=micro_batch, read_ahead=False))
            for rank in range(world_size)
        ]
        for step in range(variant.last_step):
            parts = [batch.tokens for batches in ranks for batch in batches if batch.step == step]
            begin = variant.sample(step)
            assert np.array_equal(np.concatenate(parts), everything[begin : begin + variant.batch_size(step)])


def test_the_stream_is_what_the_trainer_reads(variant: Stream) -> None:
    for stage in variant.stages:
        sources = reader.open_sources(stage.plan, stage.folders)
        read = reader.batches(stage.plan, sources, first_step=stage.first_step, last_step=stage.last_step)
        for mine, theirs in zip(variant.stage(stage.name).batches(), read, strict=True):
            assert np.array_equal(mine.tokens, theirs.tokens)
            assert mine.lr == stage.plan.lr(mine.step) == variant.lr(mine.step)


def test_the_clock_of_the_stream_is_the_plan_s_across_stages(variant: Stream) -> None:
    assert [stage.name for stage in variant.stages] == ["trunk/basic", "variant/continual", "variant/cooldown"]
    for before, after in itertools.pairwise(variant.stages):
        assert (before.last_step, before.last_sample) == (after.first_step, after.first_sample)
    for step in range(variant.last_step):
        assert variant.step_at(variant.position(step)) == step
        assert variant.position(step) == variant.sample(step) * variant.sequence_length
        assert variant.step_of(variant.sample(step)) == step
        assert variant.step_of(variant.sample(step + 1) - 1) == step
    assert variant.position(variant.last_step) == 12288 == variant.stages[-1].plan.end
    assert variant.step_at(12288) == variant.last_step


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_samples_in_any_order_are_those_of_their_steps(variant: Stream, data: st.DataObject) -> None:
    numbers = data.draw(st.lists(st.integers(0, variant.last_sample - 1), max_size=40))
    rows = variant.samples(numbers)
    assert rows.shape == (len(numbers), variant.sequence_length + 1)
    for number, row in zip(numbers, rows, strict=True):
        step = variant.step_of(number)
        assert np.array_equal(row, variant.batch(step).tokens[number - variant.sample(step)])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 9), st.integers(1, 12), st.integers(1, 3)), min_size=1, max_size=30))
def test_samples_asked_for_in_succession_are_those_asked_for_alone(
    variant: Stream, requests: list[tuple[int, int, int]]
) -> None:
    fresh: Stream = pickle.loads(pickle.dumps(variant))
    at = fresh.first_sample
    for gap, count, stride in requests:
        first = min(max(fresh.first_sample, at + gap), fresh.last_sample - 1)
        numbers = range(first, fresh.last_sample, stride)[:count]
        alone = pickle.loads(pickle.dumps(variant)).samples(numbers)
        assert np.array_equal(fresh.samples(numbers), alone)
        at = numbers[-1] + 1


def test_a_run_resumed_at_any_step_reads_what_was_left(variant: Stream) -> None:
    everything = tokens_of(variant)
    for start in (0, 1, variant.stages[1].first_step - 1, variant.stages[2].first_step, variant.last_step):
        rest = [batch.tokens for batch in variant.batches(start)]
        assert np.array_equal(np.concatenate([everything[:0], *rest]), everything[variant.sample(start) :])


def test_micro_batches_are_the_rank_s_part_in_order_and_say_which_is_last(variant: Stream) -> None:
    whole = variant.batch(30, rank=1, world_size=2)
    parts = list(variant.batches(30, 31, rank=1, world_size=2, micro_batch=2))
    assert [(part.micro, part.micros, part.last) for part in parts] == [(0, 2, False), (1, 2, True)]
    assert np.array_equal(np.concatenate([part.inputs for part in parts]), whole.tokens[:, :-1])
    assert np.array_equal(np.concatenate([part.targets for part in parts]), whole.tokens[:, 1:])
    assert np.concatenate([part.source for part in parts]).tolist() == whole.source.tolist()
    assert all(part.inputs.flags.c_contiguous and part.targets.flags.c_contiguous for part in parts)


def test_position_ids_restart_at_each_document_where_documents_are_kept_apart() -> None:
    tokens = np.array([[5, 9, 6, 7, 9], [9, 4, 3, 2, 1]])
    batch = Batch(0, 0.1, tokens, np.zeros(2, np.int32), ("a",), document_bounds(tokens, 9))
    assert batch.cu_seqlens is not None
    assert batch.cu_seqlens.tolist() == [0, 2, 4, 5, 8]
    assert batch.position_ids.tolist() == [[0, 1, 0, 1], [0, 0, 1, 2]]
    first, second = batch.micro_batches(1)
    assert (first.position_ids.tolist(), second.position_ids.tolist()) == ([[0, 1, 0, 1]], [[0, 0, 1, 2]])
    together = Batch(0, 0.1, tokens, np.zeros(2, np.int32), ("a",))
    assert together.position_ids.tolist() == [[0, 1, 2, 3]] * 2


def test_a_witness_adds_up_over_parts_and_notices_any_other_token(variant: Stream) -> None:
    step = variant.stages[1].first_step
    whole = variant.witness(step)
    parts = [stream.witness(variant.batch(step, rank=rank, world_size=4).inputs) for rank in range(4)]
    assert sum(parts) % 2**64 == whole
    inputs = variant.batch(step).inputs
    assert stream.witness(inputs[::-1]) == stream.witness(inputs.astype(np.uint16)) == whole
    inputs[3, 5] ^= 1
    assert stream.witness(inputs) != whole
    row = np.array([[1, 2]], "<i4")
    assert stream.witness(row) == int.from_bytes(hashlib.blake2b(row.tobytes(), digest_size=8).digest(), "little")


def _read(args: tuple[Stream, int]) -> int:
    steps, step = args
    return steps.witness(step)


@pytest.mark.processes
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_stream_pickles_without_its_open_files_and_reads_the_same_in_a_worker(variant: Stream, method: str) -> None:
    expected = [variant.witness(step) for step in (0, variant.last_step - 1)]  # opens the files
    assert len(pickle.dumps(variant)) < 20_000
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.map(_read, [(variant, 0), (variant, variant.last_step - 1)]) == expected


def test_a_plan_file_and_folders_alone_give_the_stage_s_stream(variant: Stream, finished: Path) -> None:
    cooldown = variant.stages[2]
    alone = stream.load(finished / "runs/full/variant/cooldown/plan.json", cooldown.folders)
    assert (alone.first_sample, alone.first_step) == (cooldown.first_sample, cooldown.first_step)
    assert np.array_equal(tokens_of(alone), tokens_of(variant.stage("cooldown")))
    assert alone.fingerprint == variant.stage("variant/cooldown").fingerprint != variant.fingerprint
    with pytest.raises(PlanError, match="reads `code`, for which no folder is given"):
        stream.load(finished / "runs/full/variant/cooldown/plan.json", {"prose": cooldown.folders["prose"]})


def test_the_stream_loads_no_torch_and_no_yaml(variant: Stream, finished: Path) -> None:
    code = "import sys, curriculum.stream; print(sorted({'torch', 'yaml', 'pydantic', 'runner'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.batches(rank=0, world_size=3), "cannot be divided evenly among 3 processes"),
        (lambda s: s.batches(world_size=2, micro_batch=3), "does not divide 4"),
        (lambda s: s.batches(micro_batch=0), "`micro_batch: 0` is no number of sequences"),
        (lambda s: s.batches(micro_batch=-4), "`micro_batch: -4` is no number of sequences"),
        (lambda s: s.batches(0, 10**9), "are not all in"),
        (lambda s: s.batches(rank=-1), "there is no rank -1 of 1"),
        (lambda s: s.batch(0, rank=2, world_size=2), "there is no rank 2 of 2"),
        (lambda s: s.lr(s.last_step), "is not in <stream"),
        (lambda s: s.samples([0, s.last_sample]), "are not all in"),
        (lambda s: s.samples([-1]), "are not all in"),
        (lambda s: s.samples([1.5]), "1.5 is no sample number"),
        (lambda s: s.stage("warmup"), "there is no stage named `warmup`"),
        (lambda s: s.step_at(7), "is not a step boundary"),
        (lambda s: s.stage("continual").sample(0), "is not in"),
    ],
)
def test_what_the_stream_does_not_hold_is_refused_before_anything_is_read(
    variant: Stream, call: Callable[[Stream], object], message: str
) -> None:
    with pytest.raises(CurriculumError, match=message):
        call(variant)


def test_a_stream_of_unprepared_text_is_refused_with_the_command_that_prepares_it(small_project: Path) -> None:
    with pytest.raises(DataError) as refusal:
        curriculum.open(small_project).stream("variant")
    assert "curriculum prepare variant" in (refusal.value.hint or "")


def test_stages_of_other_sequence_lengths_are_taken_one_by_one(variant: Stream) -> None:
    from dataclasses import replace

    first, second, _ = variant.stages
    longer = replace(second.plan, sequence_length=second.plan.sequence_length * 2)
    mixed = Stream((first, StreamStage(second.name, longer, second.last_step, second.folders)))
    with pytest.raises(PlanError, match="sequences of 32 and 64 tokens"):
        _ = mixed.sequence_length
    assert mixed.stage("continual").sequence_length == 64

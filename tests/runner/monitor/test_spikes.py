"""SpikeDetector that jump, gradients that are not finite: noticed, named, and nothing else changed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import ranks as steps

from curriculum import fs
from curriculum.artifacts import ledger
from curriculum.artifacts.stage_folder import StageFolder
from runner.monitor import spikes
from runner.monitor.spikes import MIN_JUMP, MIN_WINDOW, WINDOW, SpikeDetector


def noise(count: int, seed: int = 0) -> list[float]:
    return (4.0 + 0.02 * np.random.default_rng(seed).standard_normal(count)).tolist()


@pytest.mark.promise(
    "NaN, Inf and loss spikes are reported with steps and documents, and a non-finite state never becomes a checkpoint"
)
def test_a_loss_far_above_the_last_ones_is_a_spike_with_its_limit() -> None:
    losses = SpikeDetector(noise(WINDOW))
    assert losses.observe(4.05) is None
    spike = losses.observe(5.0)
    assert spike is not None
    assert spike.loss == 5.0
    assert 4.1 < spike.limit < 4.3
    assert losses.observe(4.0) is None, "one spike does not move the rule"


@pytest.mark.parametrize("seed", range(3))
def test_noise_and_a_steep_fall_are_no_spikes(seed: int) -> None:
    losses = SpikeDetector()
    assert not any(losses.observe(loss) for loss in noise(2000, seed))
    falling = SpikeDetector()
    assert not any(falling.observe(8 * 0.99**step + float(n)) for step, n in enumerate(noise(400, seed)))


def test_nothing_is_a_spike_before_enough_is_known_nor_a_hair_above_a_constant() -> None:
    assert SpikeDetector([4.0] * (MIN_WINDOW - 1)).observe(9.0) is None
    assert SpikeDetector([4.0] * MIN_WINDOW).observe(9.0) is not None
    assert SpikeDetector([4.0] * MIN_WINDOW).observe(4.0 + MIN_JUMP / 2) is None


def test_a_level_that_stays_is_the_rule_after_half_a_window() -> None:
    losses = SpikeDetector(noise(WINDOW))
    reported = [losses.observe(6.0) is not None for _ in range(WINDOW)]
    assert reported[0]
    assert not any(reported[WINDOW // 2 + 1 :])


def test_what_is_not_finite_is_not_learnt_from() -> None:
    losses = SpikeDetector([float("nan"), float("inf"), *noise(MIN_WINDOW)])
    assert losses.observe(float("nan")) is None
    assert losses.observe(9.0) is not None


def test_the_window_is_read_back_from_the_metrics_up_to_where_a_run_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    for position, loss in ((10, 4.0), (20, float("nan")), (30, 4.5), (40, 9.0)):
        fs.append_json_line(path, fs.finite_json({"position": position, "loss": loss}), sync=False)
    before = spikes.losses_before(path, 30)
    assert [before[0], before[2]] == [4.0, 4.5]
    assert np.isnan(before[1])
    assert spikes.losses_before(tmp_path / "none.jsonl", 30) == []


def plan_of(scale: str) -> Any:
    return replace(steps.small_plan(), labels={"curriculum": "v1", "stage": "basic", "size_scale": scale}, start=0)


@pytest.mark.promise(
    "NaN, Inf and loss spikes are reported with steps and documents, and a non-finite state never becomes a checkpoint"
)
def test_an_event_names_the_worst_sequences_and_their_documents(tmp_path: Path) -> None:
    plan = plan_of("1")
    texts = {
        name: SimpleNamespace(documents=lambda window, n=name: [SimpleNamespace(id=f"{n}-{window}")])
        for name in plan.names
    }
    losses = np.arange(steps.BATCH, dtype=float)
    losses[2] = np.nan
    event = spikes.event(plan, texts, 1, losses, kind="spike", generation=0, grad_norm=3.0, spike=spikes.Spike(9, 4, 5))
    spikes.record(StageFolder(tmp_path), event)
    (read,) = fs.read_json_lines(StageFolder(tmp_path).events)
    draws = plan.draws(1)
    assert [entry["slot"] for entry in read["sequences"]] == [2, 7, 6, 5, 4, 3, 1, 0]
    for entry in read["sequences"]:
        source = draws.names[draws.source[entry["slot"]]]
        assert entry["documents"] == [f"{source}-{draws.window[entry['slot']]}"]
    assert (read["step"], read["position"], read["median"], read["limit"]) == (1, 256, 4, 5)
    assert read["skip"] == {"from": 128, "to": 256}
    assert "`skip: [{from: 128, to: 256}]`" in read["hint"]
    json.dumps(event["sequences"][1:], allow_nan=False)
    ledger.cut_back(StageFolder(tmp_path).events, 255)
    assert fs.read_json_lines(StageFolder(tmp_path).events) == []


@pytest.mark.parametrize("scale", ["1", "1/1000000", "1/1000", "3/7"])
def test_the_skip_leaves_out_exactly_that_step_once_the_size_scales_it_again(scale: str) -> None:
    from fractions import Fraction
    from math import ceil

    plan, size = plan_of(scale), Fraction(scale)
    assert spikes.skip_of(plan, 0) is None, "position 0 cannot be skipped from"
    for step in (1, 2, 3):
        skip = spikes.skip_of(plan, step)
        assert skip is not None
        begin, end = ceil(skip["from"] * size), ceil(skip["to"] * size)  # as the planner scales them
        assert begin == plan.position_after(step - 1)
        assert end == plan.position_after(step)

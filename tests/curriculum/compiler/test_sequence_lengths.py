"""Chains of window lengths over a lineage, against a brute-force replay of what is read."""

from __future__ import annotations

import shutil
from collections import defaultdict
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from curriculum.compiler.compile import compile_curriculum
from curriculum.config.project import Project
from curriculum.errors import PlanError

ROOT = Path(__file__).resolve().parents[3]
LENGTHS = (1024, 2048, 4096, 8192)


def project_of(root: Path, stages: list[str], point: str) -> Project:
    for folder in ("stages", "mixtures"):
        shutil.copytree(ROOT / folder, root / folder, dirs_exist_ok=True)
    for name in ("sources.yaml", "sizes.yaml", "machines.yaml"):
        shutil.copy(ROOT / name, root)
    (root / "mixtures/again.yaml").write_text(
        "weights: {slimpajama: 3, proof-pile-2: 1}\npasses: {slimpajama: 99, proof-pile-2: 99}\n"
    )
    (root / "stages/mine.yaml").write_text("\n".join([f"from: {point}", "stages:", *stages]) + "\n")
    return Project(root)


@pytest.mark.promise("Windows of any chain of lengths are read once an epoch each, on one clock of tokens")
@settings(max_examples=20, deadline=None)
@given(
    lengths=st.lists(st.sampled_from(LENGTHS), min_size=1, max_size=4),
    tokens=st.integers(40, 900),
    at=st.sampled_from(["v1.1/basic", "v1.1@1.2T", "v1.1-math-code@1.6T"]),
)
def test_any_chain_of_lengths_reads_each_window_once_an_epoch_and_keeps_the_clock(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], tokens: int, at: str
) -> None:
    stages, before = [], 2048
    for number, length in enumerate(lengths):
        restart = ", positions: restart" if length != before else ""
        stages.append(f"  - {{name: s{number}, mixture: again, tokens: {tokens}B, sequence_length: {length}{restart}}}")
        before = length
    compiled = compile_curriculum(project_of(tmp_path_factory.mktemp("project"), stages, at), "mine", "rehearsal")
    position, step = 0, 0
    read: dict[tuple[str, int, int], list[int]] = defaultdict(list)
    rounds = 0  # windows are cut anew wherever their length changes
    for number, stage in enumerate(compiled.stages):
        plan = stage.plan
        if number and plan.sequence_length != compiled.stages[number - 1].plan.sequence_length:
            rounds += 1
        assert (plan.start, plan.first_step) == (position, step)
        assert plan.batch_tokens == 2048, "the tokens of a batch stay"
        assert Fraction(plan.sequence_length, 128) == Fraction(stage.setting.sequence_length, 2048)
        steps = (stage.stop - plan.start) // plan.batch_tokens
        position, step = stage.stop, step + steps
        draws = plan.draws_at(np.arange(steps * plan.batch_sequences, dtype=np.int64))
        for at_source, name in enumerate(draws.names):
            own = draws.source == at_source
            for epoch, window in zip(draws.pass_number[own].tolist(), draws.window[own].tolist(), strict=True):
                read[name, rounds, epoch].append(window)
    for (name, at_round, epoch), windows in read.items():
        assert len({*windows}) == len(windows), "no window twice in an epoch"
        if (name, at_round, epoch + 1) in read:
            assert sorted(windows) == list(range(len(windows))), "an epoch ends when all were read"


def test_a_length_that_a_size_cannot_scale_is_refused(tmp_path: Path) -> None:
    stages = ["  - {name: a, tokens: 100B, sequence_length: 3000, positions: restart, batch: 448 sequences}"]
    project = project_of(tmp_path, stages, "v1.1/basic")
    assert compile_curriculum(project, "mine", "full").stages[-1].plan.sequence_length == 3000
    with pytest.raises(PlanError, match=r"is 187\.50 tokens at this size") as refused:
        compile_curriculum(project, "mine", "rehearsal")
    assert refused.value.hint

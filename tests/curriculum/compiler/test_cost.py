"""The costs of a plan are arithmetic on what it trains on and evaluates."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import lineages
import pytest

from curriculum.compiler.compile import Compiled, compile_resolved
from curriculum.compiler.cost import checkpoints_kept, cost, evaluation_positions, tokens_evaluated
from curriculum.compiler.resolve import resolve
from curriculum.compiler.sources import PreparedInfo
from curriculum.config.project import Project

MACHINE = "local: {launcher: process, gpus_per_node: 2, throughput: 10 tokens/s/gpu, price: 3 USD/gpu-hour}\n"
LONGER = "from: root\nstages:\n  - {name: a, until: 3000, sequence_length: 8, positions: restart, batch: 2 sequences}\n"


def cost_of(project: Project, name: str = "root", unprepared: str | None = None) -> dict[str, Any]:
    def facts(dataset: str, length: int) -> PreparedInfo | None:
        if dataset == unprepared:
            return None
        return PreparedInfo(windows=400 // length, digest="d", held_out=5)

    return cost(
        project,
        [compile_resolved(resolve(project, name, "full"), prepared_info=facts)],
        "local",
        project.machine("local"),
    )


@pytest.mark.parametrize(("vocabulary", "width"), [(65_536, 2), (65_537, 4)])
def test_text_takes_two_bytes_a_token_up_to_65536_ids_at_the_length_of_its_windows(vocabulary: int, width: int) -> None:
    root = lineages.BASE["stages/root.yaml"].replace("vocab_size: 300}", f"vocab_size: {vocabulary}}}")
    project = lineages.project_of({"stages/root.yaml": root, "stages/mine.yaml": LONGER})
    for name in ("root", "mine"):
        assert cost_of(project, name)["token_bytes"] == 2 * 400 * width


def test_an_evaluated_token_costs_a_third_of_a_trained_one_in_time_and_money() -> None:
    found = cost_of(lineages.project_of({"machines.yaml": MACHINE}))
    evaluated = found["evaluations"] * 2 * 5 * 4
    assert (found["tokens"], found["tokens_evaluated"]) == (2000, evaluated)
    compute = 2000 + Fraction(evaluated, 3)
    assert found["evaluation_share"] == pytest.approx(float(Fraction(evaluated, 3) / compute))
    assert found["gpu_hours"] == pytest.approx(float(compute / 10 / 3600))
    assert found["days"] == pytest.approx(found["gpu_hours"] / 2 / 24)
    assert found["usd"] == pytest.approx(found["gpu_hours"] * 3)
    assert found["evaluation_seconds"] == pytest.approx(evaluated / 3 / 10 / 2)


def test_a_machine_without_a_throughput_has_no_time_and_no_money() -> None:
    found = cost_of(lineages.project_of({"machines.yaml": "local: {launcher: process, gpus_per_node: 2}\n"}))
    assert found["gpus"] == 2
    assert [found[key] for key in ("gpu_hours", "days", "usd", "evaluation_seconds")] == [None] * 4


def test_held_out_text_is_said_to_be_assumed_where_any_source_is_not_prepared() -> None:
    project = lineages.project_of({})
    for unprepared, assumed in ((None, False), ("b", True)):
        assert (
            any("what is not prepared" in line for line in cost_of(project, unprepared=unprepared)["assumptions"])
            == assumed
        )


def compiled(files: dict[str, str], name: str = "mine") -> tuple[Project, Compiled]:
    project = lineages.project_of(files)
    facts = PreparedInfo(windows=400, digest="d", held_out=5)
    return project, compile_resolved(resolve(project, name, "full"), prepared_info=lambda *_: facts)


def test_held_out_windows_are_counted_at_each_stage_s_own_length() -> None:
    _, lineage = compiled({"stages/mine.yaml": LONGER.replace("sequence_length: 8", "sequence_length: 6")})
    windows = {"root/first": 5 * 6 // 4, "mine/a": 5}  # what 5 windows of 6 tokens hold
    for stage in lineage.stages:
        tokens = 2 * windows[stage.name] * stage.plan.sequence_length
        assert tokens_evaluated(stage, lineage) == tokens * len(evaluation_positions(stage))


def test_a_stage_is_evaluated_at_its_start_at_its_cadence_and_where_the_lineage_leaves_it() -> None:
    every = "every: {evaluate: 300 tokens, checkpoint: 200 tokens}\n"
    mine = "from: root@700\nevery: {evaluate: 400 tokens, checkpoint: 100 tokens}\n"
    files = {
        "stages/root.yaml": lineages.BASE["stages/root.yaml"] + every,
        "stages/mine.yaml": mine + "stages:\n  - {name: a, until: 1600}\n",
        "stages/other.yaml": "from: root@500\nstages:\n  - {name: a, until: 1000}\n",
    }
    project, lineage = compiled(files)
    first, own = lineage.stages
    assert evaluation_positions(first) == [0, 300, 600, 700]
    assert evaluation_positions(own) == [700, 800, 1200, 1600]
    assert 500 in checkpoints_kept(project, first, lineage.scale)  # `other` leaves there, between two of the cadence
    assert cost(project, [lineage], "local", project.machine("local"))["tokens_at_risk"] == 200

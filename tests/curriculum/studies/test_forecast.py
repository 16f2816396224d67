"""From the metrics of curricula that ran to the order of schedules that did not: what `decide` says, and verifies."""

from __future__ import annotations

import json
import random
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from projects import InProcess
from shipped_lineages import ROOT, project_with

from curriculum import fs
from curriculum.compiler.prepared_text import PreparedText
from curriculum.config.project import Project
from curriculum.runs.folders import stage_folder
from curriculum.studies.laws.schedules import AnnealingLaw

LAW = AnnealingLaw(3.0, 0.35, 0.5, 4.0, 0.99, 0.0)
STUDY = """\
about: whether to fall late
arms: [v1.1, level, early]
forecast:
  late: {shape: wsd, horizon: 1.5T, min: 4e-5, decay: 100B}
  constant: {shape: constant, horizon: 1.5T}
law: annealing
goal: {lower: {slimpajama: 1}}
"""
RATES = {
    "level": "{shape: constant, max: 4e-4, warmup: 2000 steps}",
    "early": "{shape: wsd, max: 4e-4, min: 4e-5, warmup: 2000 steps, horizon: 1T, decay: 300B}",
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    stated = (ROOT / "stages/v1.1.yaml").read_text()
    curve = next(line for line in stated.splitlines() if line.startswith("learning_rate:"))
    stages = {name: stated.replace(curve, f"learning_rate: {rate}") for name, rate in RATES.items()}
    files = {f"stages/{name}.yaml": text for name, text in stages.items()}
    return project_with(tmp_path, {**files, "studies/schedules.yaml": STUDY}).root


@pytest.fixture
def say(project: Path, in_process: InProcess) -> InProcess:
    return partial(in_process, project)


def let_run(project: Path, name: str, until: int | None = None, size: str = "rehearsal") -> Path:
    """Write plans and metrics as a run of `name` leaves them; the last stage's metrics."""
    compiled = PreparedText.open(Project(project), name, size).compiled
    draw = random.Random(name)
    rates = [s.plan.lr(step) for s in compiled.stages for step in range(s.plan.first_step, s.plan.stop_step)]
    losses = LAW.predict(np.array(rates), np.arange(len(rates)), int(np.argmax(rates)))
    for stage in compiled.stages:
        plan = stage.plan
        folder = stage_folder(Project(project), compiled, stage)
        fs.make_directory(folder.path)
        plan.save(folder.plan, replace=True)
        records = []
        for step in range(plan.first_step, plan.stop_step):
            loss = float(losses[step]) + draw.gauss(0, 0.003)
            record: dict[str, Any] = {
                "step": step,
                "position": plan.position_after(step),
                "loss": loss,
                "lr": plan.lr(step),
            }
            record |= {"seconds": 1.0, "tokens_per_second": 1.0}
            record["sources"] = {"slimpajama": {"loss": loss, "tokens": plan.tokens_of(step)}}
            if until is None or plan.position_after(step) <= until:
                records.append(json.dumps(record))
        folder.metrics.write_text("".join(f"{line}\n" for line in records))
    return folder.metrics


def test_schedules_are_ordered_by_the_training_curves_of_those_that_ran(project: Path, say: InProcess) -> None:
    code, _, err = say("decide", "schedules")
    assert code == 2
    assert "no arm of study `schedules` has run at size rehearsal" in err
    for name in ("v1.1", *RATES):
        let_run(project, name)

    code, out, err = say("decide", "schedules", "--json")
    assert code == 0, err
    decided: dict[str, Any] = json.loads(out)
    assert [name for name in decided["order"]["names"] if "ran" not in name] == ["late", "constant"]
    pairs = {(pair["first"], pair["second"]): pair["confidence"] for pair in decided["order"]["pairs"]}
    assert pairs["late", "constant"] > 0.95
    assert decided["word"] == "suggested"
    assert any("there the batch changes" in note for note in decided["notes"])
    assert decided["laws"][0]["terms"]["gain"] == pytest.approx(LAW.gain, rel=0.2)

    code, out, _ = say("decide", "schedules")
    assert code == 0
    assert "order    early as it ran" in out
    assert "nothing is written" in out
    code, out, err = say("verify", "schedules")
    assert code == 0, err
    assert "decision schedules@0001" in out
    code, _, err = say("decide", "schedules", "--write", "mine")
    assert code == 2
    assert "proposes no mixture" in err


def test_a_loss_that_was_changed_after_the_decision_is_reported(project: Path, say: InProcess) -> None:
    for name in ("v1.1", *RATES):
        let_run(project, name)
    assert say("decide", "schedules")[0] == 0
    let_run(project, "early", until=1_000_000)  # a run that goes back is another run: no fault of the record
    assert say("verify", "schedules")[0] == 0
    path = let_run(project, "early").parents[1] / "basic/metrics.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records[-10:]:
        record["sources"]["slimpajama"]["loss"] += 0.1
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    code, out, err = say("verify", "schedules")
    assert code == 2
    assert "rests on a loss of `early`" in out + err


def test_a_horizon_beyond_three_times_what_was_seen_is_refused(project: Path, say: InProcess) -> None:
    for name in ("v1.1", *RATES):
        let_run(project, name, until=400_000)
    code, _, err = say("decide", "schedules")
    assert code == 2
    assert "times what was seen" in err
    assert "studies/schedules.yaml:4" in err


def test_runs_of_another_size_do_not_count(project: Path, say: InProcess) -> None:
    fs.make_directory(project / "runs/pilot/v1.1")
    code, _, err = say("decide", "schedules")
    assert code == 2
    assert "a law holds within one size: `--size pilot`" in err


def test_arms_that_differ_in_more_than_the_rate_are_refused(project: Path, say: InProcess) -> None:
    path = project / "stages/level.yaml"
    path.write_text(path.read_text().replace("weight_decay: 0.1", "weight_decay: 0.2"))
    code, _, err = say("decide", "schedules")
    assert code == 2
    assert "`level` differs from `v1.1` in more than its schedule: the optimizer" in err

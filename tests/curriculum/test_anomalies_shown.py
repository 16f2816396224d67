"""Loss spikes and gradients that are not finite, as people see them: in status, a report and a notebook's table."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from commands import run
from rich.console import Console

import curriculum
from curriculum import fs
from curriculum.artifacts import anomalies
from curriculum.artifacts.stage_folder import StageFolder
from curriculum.cli.follow import Watch
from curriculum.cli.view.anomalies import anomaly_counts, anomaly_line
from curriculum.config.project import Project
from curriculum.errors import DataError
from curriculum.plan.stage import StagePlan
from curriculum.report.html import write
from runner.monitor import spikes


@pytest.fixture
def project(finished: Path, tmp_path: Path) -> Path:
    """A finished run to which the trainer's own module has added two anomalies of its first stage."""
    root = tmp_path / "project"
    shutil.copytree(finished, root, symlinks=True)
    stage = trunk(root)
    plan = StagePlan.load(stage.plan)
    datasets: Any = {
        name: SimpleNamespace(documents=lambda window, n=name: [SimpleNamespace(id=f"{n}/{window}")])
        for name in plan.names
    }
    losses = np.linspace(4.0, 5.0, plan.batch_sequences)
    for step, kind, norm, spike in (
        (5, anomalies.NONFINITE, float("nan"), None),
        (7, anomalies.SPIKE, 3.5, spikes.Spike(4.5, 3.25, 3.75)),
    ):
        event = spikes.event(plan, datasets, step, losses, kind=kind, generation=0, grad_norm=norm, spike=spike)
        spikes.record(stage, event)
    return root


def trunk(project: Path) -> StageFolder:
    return StageFolder(project / "runs/full/trunk/basic")


def worst(project: Path, step: int) -> str:
    plan = StagePlan.load(trunk(project).plan)
    draws = plan.draws(step)
    return f"{draws.names[draws.source[-1]]}/{draws.window[-1]}"


@pytest.mark.promise("Status, report and notebook show loss spikes and non-finite steps, with the way to skip them")
def test_status_shows_step_documents_and_the_way_to_skip(project: Path) -> None:
    shown = " ".join(
        run("status", "trunk", "--size", "full", folder=project, check=True).stdout.replace("│", " ").split()
    )
    assert "1 gradient not finite, 1 loss spike" in shown
    assert f"step 5, up to 1,536 tokens: gradient not finite, loss 4.500; documents {worst(project, 5)}, " in shown
    assert "step 7, up to 2,048 tokens: loss spike, loss 4.500 (median 3.250); documents" in shown
    assert "branch before it with `skip: [{from: 1792, to: 2048}]`" in shown
    value = json.loads(run("status", "trunk", "--size", "full", "--json", folder=project, check=True).stdout)
    stages = {stage["name"]: stage for branch in value["branches"] for stage in branch["stages"]}
    assert stages["trunk/basic"]["anomalies"] == {"gradient not finite": 1, "spike": 1}
    assert [a["step"] for a in stages["trunk/basic"]["newest_anomalies"]] == [5, 7]
    assert stages["trunk/basic"]["newest_anomalies"][1]["skip"] == {"from": 1792, "to": 2048}
    assert all(not stage["anomalies"] for name, stage in stages.items() if name != "trunk/basic")


def test_a_report_has_them_in_a_table_and_none_without(project: Path, finished: Path) -> None:
    html = write.render(Project(project), ["trunk"], "full")
    assert "skip: [{from: 1792, to: 2048}]" in html
    assert worst(project, 7) in html
    assert 'id="anomalies"' in html
    assert 'id="anomalies"' not in write.render(Project(finished), ["trunk"], "full")


def test_a_notebook_has_a_flat_row_for_each_of_the_lineage(project: Path) -> None:
    rows = curriculum.open(project).anomalies("variant", size="full")
    assert [(row["stage"], row["kind"], row["step"]) for row in rows] == [
        ("trunk/basic", "gradient not finite", 5),
        ("trunk/basic", "spike", 7),
    ]
    assert np.isnan(rows[0]["grad_norm"])
    assert rows[0]["median"] is None
    assert (rows[1]["skip_from"], rows[1]["skip_to"]) == (1792, 2048)
    assert rows[1]["documents"].split(", ")[0] == worst(project, 7)
    assert all(not isinstance(value, dict | list | tuple) for row in rows for value in row.values())


def test_a_follower_reports_each_as_it_comes(project: Path) -> None:
    events = trunk(project).events
    later = events.read_bytes()
    events.write_bytes(later.splitlines(keepends=True)[0])
    out = io.StringIO()
    watch = Watch(Project(project), "trunk", "full", Console(file=out, width=300))
    with fs.Lock(trunk(project).lock, "training"):
        watch.poll()
        events.write_bytes(later)
        watch.poll()
    watch.poll()
    assert out.getvalue().count("trunk/basic: step 7, up to 2,048 tokens: loss spike") == 1
    assert "step 5" not in out.getvalue(), "it was there before"
    assert "trunk/basic: 1 gradient not finite, 1 loss spike; `curriculum status` names them" in out.getvalue()


def test_a_line_of_the_first_step_names_no_skip_and_many_documents_are_counted(project: Path) -> None:
    folder = trunk(project)
    (first, _) = anomalies.read_anomalies(folder, 10_000)
    line = anomaly_line(replace(first, skip=None, documents=tuple("abcdefg")))
    assert line.endswith("documents a, b, c, d and 3 more")
    assert anomaly_counts({"spike": 1200, "something else": 1}) == "1,200 loss spikes, 1 something else"
    assert [anomaly.step for anomaly in anomalies.read_anomalies(folder, 1536)] == [5]


def test_a_skipped_outlier_is_named_with_its_gradient_norm(project: Path) -> None:
    (first, _) = anomalies.read_anomalies(trunk(project), 10_000)
    line = anomaly_line(replace(first, kind=anomalies.OUTLIER, grad_norm=71.25))
    assert ": outlier of the gradient norm skipped, loss 4.500, gradient norm 71.2; documents " in line
    assert anomaly_counts({anomalies.OUTLIER: 2}) == "2 outliers of the gradient norm skipped"


def test_a_damaged_line_is_named(project: Path) -> None:
    folder = trunk(project)
    fs.append_json_line(folder.events, {"kind": "spike", "step": 9})
    with pytest.raises(DataError, match=r"events.jsonl` is damaged in line 3"):
        anomalies.read_anomalies(folder, 10_000)

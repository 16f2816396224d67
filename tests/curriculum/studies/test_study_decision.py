"""From arms that ended to a written mixture: what `decide` says of a study whose arms are trained here."""

from __future__ import annotations

import json
import math
import random
import re
import shutil
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pretend_arms import pretend
from projects import InProcess
from shipped_lineages import project_with

from curriculum.config.project import Project
from curriculum.runs.folders import stage_folder
from curriculum.studies import proposal
from curriculum.studies.arm import Arm
from curriculum.studies.arms import compile_study
from curriculum.studies.summary import summarise

CODE, MATH, WEB = "starcoder-python-jupyter", "proof-pile-2", "slimpajama"
BEFORE = {CODE: 10.3, MATH: 10.6, WEB: 4.47}
STUDY = """\
about: how much code
for: v1.1-math-code/continual
vary: {mixture: {around: math-code, runs: 12}}
goal:
  lower: {starcoder-python-jupyter: 1, proof-pile-2: 1}
  keep: {slimpajama: before + 4}
"""


def loss(arm: Arm, source: str) -> float:
    """Losses with an optimum inside: much better where a source has a share, and worse for the others."""
    own = float(arm.point.mixture.shares.get(source, 0))
    value = {WEB: 4.2, CODE: 4.5, MATH: 4.3}[source] + 1.2 * math.exp(-1.5 * own) * ((own + 0.01) / 1.01) ** -0.2
    return value + 0.01 * (arm.seed - 1) + random.Random(f"{arm.name} {source}").gauss(0, 0.002)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return project_with(tmp_path, {"studies/code.yaml": STUDY}).root


def fixed_weights(project: Path) -> dict[str, Fraction] | None:
    study = compile_study(Project(project), "code", "rehearsal")
    return proposal.read(Project(project), "code", "rehearsal", study.plans)


def said_of_noise(project: Path) -> list[dict[str, Any]]:
    opened = Project(project)
    summary = summarise(compile_study(opened, "code", "rehearsal"), "local", opened.machine("local"))
    noise: list[dict[str, Any]] = summary["noise"]
    assert [one["source"] for one in noise] == [CODE, MATH, WEB]
    assert all(0 < one["tells"] < 0.1 and one["runs_each"] == 3 for one in noise)
    return noise


def test_a_study_goes_from_its_arms_to_a_mixture_that_names_its_decision(project: Path, in_process: InProcess) -> None:
    run = partial(in_process, project)
    code, _, err = run("decide", "code")
    assert code == 2
    assert "no arm of study `code` has ended" in err

    first = compile_study(Project(project), "code", "rehearsal")
    pretend(first, loss, BEFORE)
    missing = first.arm("uniform.3")
    end = stage_folder(missing.project, missing.compiled, missing.stage).evaluation(0, missing.stage.stop)
    kept = end.read_bytes()
    end.unlink()
    code, out, _ = run("decide", "code", "--json")
    assert code == 0
    so_far: dict[str, Any] = json.loads(out)
    assert any("1 of 24 arms have not ended: code/uniform.3" in note for note in so_far["notes"])
    assert fixed_weights(project) is None
    end.write_bytes(kept)

    code, out, _ = run("decide", "code")
    assert code == 0
    assert "next     curriculum run code trains the proposal" in out
    assert "runs of the proposal, at least two, which `curriculum run code` trains" in " ".join(out.split())
    told = said_of_noise(project)
    shutil.rmtree(project / "runs/rehearsal/code/decisions")
    assert said_of_noise(project) == told  # of the controls that ran, as of the record
    fixed = fixed_weights(project)
    assert fixed is not None
    assert sum(fixed.values()) == proposal.PARTS
    code, out, _ = run("plan", "code/proposal.2")
    assert code == 0
    assert "code/proposal.2" in out

    second = compile_study(Project(project), "code", "rehearsal")
    assert len(second.of_role("proposal")) == 3
    pretend(second, loss, BEFORE)
    code, out, _ = run("decide", "code", "--json")
    decided: dict[str, Any] = json.loads(out)
    assert decided["word"] == "shown", decided["verdicts"]
    assert {
        name: Fraction(share).limit_denominator(1000) for name, share in decided["proposal"]["shares"].items() if share
    } == {name: weight / proposal.PARTS for name, weight in fixed.items()}
    assert fixed_weights(project) == fixed  # what is fixed stays

    code, out, err = run("decide", "code", "--write", "more-code")
    assert code == 0, err
    (project / "stages/mine.yaml").write_text(
        "from: v1.1/basic\nstages:\n  - {name: continual, until: 1.85T, mixture: more-code, ramp: 6B}\n"
    )
    text = (project / "mixtures/more-code.yaml").read_text()
    assert f"passes: {{{CODE}: 8}}\n" in text  # those of the mixture that the arms are around
    code, out, _ = run("plan", "mine")
    assert code == 0
    assert "weights of `more-code` rest on code@" in out
    assert "27 runs at rehearsal, shown" in out


@pytest.mark.parametrize(
    ("shares", "weights"),
    [
        ({"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}, {"a": 334, "b": 333, "c": 333}),
        ({"a": 0.63549, "b": 0.17481, "c": 0.1897}, {"a": 635, "b": 175, "c": 190}),
        ({"a": 1.0, "b": 1e-5}, {"a": 1000}),
    ],
)
def test_a_proposal_is_whole_parts_that_sum_to_all(shares: dict[str, float], weights: dict[str, int]) -> None:
    assert proposal.rounded(shares) == weights


def test_of_arms_that_are_each_a_mixture_the_one_that_is_proposed_is_named(
    project: Path, in_process: InProcess
) -> None:
    asks = "for: v1.1-math-code/continual\nvary: {list: [math-code, chinese]}\ngoal: {lower: {slimpajama: 1}}\n"
    (project / "studies/named.yaml").write_text(asks)
    study = compile_study(Project(project), "named", "rehearsal")
    lower = {"mixture-chinese": 4.1}
    pretend(study, lambda arm, source: lower.get(arm.point.name, 4.3) + random.Random(arm.name).gauss(0, 0.001), BEFORE)
    code, out, err = in_process(project, "decide", "named")
    assert code == 0, err
    assert re.search(r"^proposal  mixture-chinese +share", out, re.MULTILINE)
    code, out, err = in_process(project, "report", "named")
    assert code == 0, err
    assert "Proposed is the arm mixture-chinese." in next((project / "runs").rglob("*named*.html")).read_text()


def test_a_name_of_a_column_that_is_too_long_is_shortened_in_what_is_shown(
    tmp_path: Path, in_process: InProcess
) -> None:
    project = project_with(tmp_path, {}).root
    long = "pages_" + "x" * 300
    for file, at_one in (("shares", "{a:.2f},{b:.2f}"), ("losses", "{l:.4f},{m:.4f}")):
        rows = (
            at_one.format(a=at / 10, b=1 - at / 10, l=3 - at / 20 + at % 2 / 100, m=2 + at / 30) for at in range(1, 10)
        )
        text = "\n".join([f"index,{long},code", *(f"{at},{row}" for at, row in enumerate(rows))])
        (project / f"{file}.csv").write_text(text + "\n")
    (project / "studies").mkdir()
    (project / "studies/csv.yaml").write_text(
        f"table: {{shares: shares.csv, losses: losses.csv}}\ngoal: {{lower: {{code: 1}}, keep: {{{long}: 2.9}}}}\n"
    )
    for command in (("decide", "csv"), ("compare", "csv")):
        code, out, err = in_process(project, *command)
        assert code == 0, err
        assert f"{long[:39]}…" in out
        assert long[:41] not in out

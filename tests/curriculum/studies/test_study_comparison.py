"""The arms of a study side by side, and a study of runs that are there as tables."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
from pretend_arms import pretend

from curriculum.__main__ import main
from curriculum.config.project import Project
from curriculum.errors import NotFound, PlanError
from curriculum.report.notebook import ProjectTables
from curriculum.studies.arm import Arm
from curriculum.studies.arm_evidence import measure
from curriculum.studies.arms import compile_study
from curriculum.studies.compare import compare_study, difference_words
from curriculum.studies.verdicts import difference

ROOT = Path(__file__).resolve().parents[3]
CODE, MATH, WEB = "starcoder-python-jupyter", "proof-pile-2", "slimpajama"
BEFORE = {CODE: 10.3, MATH: 10.6, WEB: 4.475}
STUDY = f"""\
for: v1.1-math-code/continual
vary: {{share: {{of: {WEB}, at: [20%, 60%]}}}}
goal: {{lower: {{{CODE}: 1, {MATH}: 3}}}}
controls: [kept, stated]
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    for name in ("sources.yaml", "sizes.yaml", "machines.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("stages", "mixtures", "studies"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / "studies/mine.yaml").write_text(STUDY)
    monkeypatch.chdir(tmp_path)
    return Project(tmp_path)


def loss(arm: Arm, source: str) -> float:
    own = float(arm.point.mixture.shares.get(source, 0))
    return 5 - own + 0.05 * arm.seed + random.Random(f"{arm.name} {source}").gauss(0, 0.004)


def said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["curriculum", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, out, err


@pytest.mark.promise("`compare STUDY` shows every arm less a control, with the noise of runs")
def test_every_arm_stands_beside_the_control_with_the_noise_of_its_runs(project: Project) -> None:
    study = compile_study(project, "mine", "rehearsal")
    pretend(study, loss, BEFORE)
    evidence = measure(study).evidence
    found = compare_study(project, "mine", "rehearsal")
    assert found.against == "kept"
    assert [row.arm for row in found.arms] == ["before", "share-20", "share-60", "kept", "stated"]
    assert not found.notes
    rows = {row.arm: row for row in found.arms}
    assert rows["kept"].differences == {}
    assert (rows["stated"].runs, rows["share-20"].runs) == (3, 1)
    for source in (CODE, MATH, WEB):
        assert rows["stated"].losses[source] == evidence.mean("stated", {source: 1.0})
        assert rows["stated"].differences[source] == difference(evidence, "stated", "kept", {source: 1.0})
    lower = rows["stated"].lower_difference
    assert lower == difference(evidence, "stated", "kept", {CODE: 1.0, MATH: 3.0})
    assert lower is not None
    assert difference_words(lower) == f"{lower.mean:+.4f} ±{lower.error:.4f} *"
    assert compare_study(project, "mine", "rehearsal", "mine/stated").against == "stated"
    with pytest.raises(NotFound, match="no arm `share-70` of study `mine` has ended"):
        compare_study(project, "mine", "rehearsal", "share-70")


def test_what_has_not_ended_is_named_and_before_any_end_nothing_is_compared(project: Project) -> None:
    with pytest.raises(PlanError, match="no arm of study `mine` has ended"):
        compare_study(project, "mine", "rehearsal")
    study = compile_study(project, "mine", "rehearsal")
    pretend(study, loss, BEFORE)
    shutil.rmtree(project.runs / "rehearsal/mine/stated.2")
    found = compare_study(project, "mine", "rehearsal")
    assert any("1 of 8 arms have not ended: mine/stated.2" in line for line in found.notes)


def test_the_verb_shows_a_study_as_a_table_and_as_json(
    project: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(compile_study(project, "mine", "rehearsal"), loss, BEFORE)
    code, out, _ = said(capsys, monkeypatch, "compare", "mine")
    assert code == 0
    assert out.startswith("mine  4 arms, each less `kept`")
    row = next(line for line in out.splitlines() if line.startswith("stated"))
    assert row.split()[1] == "3"
    code, out, _ = said(capsys, monkeypatch, "compare", "mine", "--json", "--against", "before")
    value = json.loads(out)
    assert (value["format"], value["against"]) == (1, "before")
    assert value["arms"][0]["differences"] == {}
    assert set(value["arms"][1]["differences"]) == {CODE, MATH, WEB}
    code, _, err = said(capsys, monkeypatch, "compare", "schedules")  # the curricula under its `arms:`
    assert code == 2
    assert "v1.1-wsd" in err or "v1.1" in err


# --- tables --------------------------------------------------------------------------------------------------


@pytest.mark.promise("A study of runs that are there is tables, too")
def test_a_study_of_curricula_is_tables_of_their_runs(project: Project) -> None:
    (project.root / "studies/there.yaml").write_text(
        "arms: [v1.1, v1.1-math-code]\nforecast: {late: {shape: wsd, horizon: 2T, decay: 100B}}\n"
        f"goal: {{lower: {{{WEB}: 1}}}}\n"
    )
    study = ProjectTables(project.root).study("there")
    assert [(row["address"], row["role"], row["state"]) for row in study.arms] == [
        ("v1.1", "curriculum", "not started"),
        ("v1.1-math-code", "curriculum", "not started"),
    ]
    assert study.responses == []
    assert study.decision is None
    with pytest.raises(PlanError, match="varies no mixture"):
        study.law(WEB)


def test_a_study_of_a_table_is_tables_of_its_rows(project: Project) -> None:
    shares = ["index,web,code", *(f"{at},{at / 10},{1 - at / 10}" for at in range(1, 10))]
    losses = ["index,web,code", *(f"{at},{3 - at / 20},{2 + at / 30}" for at in range(1, 10))]
    (project.root / "shares.csv").write_text("\n".join(shares) + "\n")
    (project.root / "losses.csv").write_text("\n".join(losses) + "\n")
    (project.root / "studies/csv.yaml").write_text(
        "table: {shares: shares.csv, losses: losses.csv}\ngoal: {lower: {code: 1}}\n"
    )
    study = ProjectTables(project.root).study("csv")
    assert len(study.arms) == 9
    assert study.arms[0]["share/web"] == pytest.approx(0.1)
    assert {row["source"] for row in study.responses} == {"web", "code"}
    assert study.law("code").predict({"web": 0.5, "code": 0.5}) == pytest.approx(2 + 5 / 30, abs=0.02)

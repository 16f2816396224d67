"""The page of a study: what it says is what its record and its arms say, before a decision and after one."""

from __future__ import annotations

import json
import random
import shutil
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest
from pretend_arms import decided
from public_runs import PEAK, WARMUP, curve

from curriculum import fs
from curriculum.config.project import Project
from curriculum.plan.learning_rate import LearningRate
from curriculum.report.html import write
from curriculum.report.html.study_data import gather_study
from curriculum.studies import record
from curriculum.studies.arm import Arm
from curriculum.studies.arms import CompiledStudy, compile_study
from curriculum.studies.compare import difference_words
from curriculum.studies.decide import decide
from curriculum.studies.decision import Forecast, Question, Schedule
from curriculum.studies.decision_input import read_input
from curriculum.studies.evidence import Evidence, TrainingCurve
from curriculum.studies.verdicts import difference

ROOT = Path(__file__).resolve().parents[4]
HTML = "{http://www.w3.org/1999/xhtml}"
SVG = "{http://www.w3.org/2000/svg}"
CODE, MATH, WEB, CHINESE = "starcoder-python-jupyter", "proof-pile-2", "slimpajama", "skypile"
BEFORE = {CODE: 10.3, MATH: 10.6, WEB: 4.47, CHINESE: 11.0}
HOSTILE = "how much </title><script>alert(1)</script> code"
STUDIES = {
    "code": f"""\
about: {HOSTILE}
for: v1.1-math-code/continual
vary: {{mixture: {{around: math-code, runs: 12}}}}
goal: {{lower: {{{CODE}: 1, {MATH}: 1}}, keep: {{{WEB}: before + 4}}}}
""",
    "old": f"""\
for: v1.1-chinese/continual
vary: {{share: {{of: {WEB}, at: [10%, 25%, 40%, 60%]}}}}
goal: {{lower: {{{CHINESE}: 1}}, keep: {{{WEB}: before + 4}}}}
""",
    "cooler": f"""\
for: v1.1/cooldown
vary: {{batch: [896 sequences, 3584 sequences], learning_rate: [kept, x0.5, x0.25]}}
goal: {{lower: {{{WEB}: 1}}}}
replicates: 2
""",
    "new": f"""\
from: v1.1/basic
tokens: 100B
vary: {{add: {{sources: [{MATH}, {CODE}], share: 30%, into: slimpajama}}}}
goal: {{lower: {{{MATH}: 1, {CODE}: 1}}}}
""",
}

SCHEDULES = """\
arms: [v1.1, v1.1-math-code]
forecast: {late: {shape: wsd, horizon: 2T, decay: 100B}, level: {shape: constant, horizon: 2T}}
goal: {lower: {slimpajama: 1}}
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    for name in ("sources.yaml", "sizes.yaml", "machines.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("stages", "mixtures"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / "studies").mkdir()
    for name, text in STUDIES.items():
        (tmp_path / f"studies/{name}.yaml").write_text(text)
    return Project(tmp_path)


def loss(arm: Arm, source: str) -> float:
    """Better with each source's own share; runs differ a little."""
    own = float(arm.point.mixture.shares.get(source, 0))
    better: float = ((own + 0.01) / 1.01) ** -0.2
    return 4.3 + 1.2 * better + random.Random(f"{arm.name} {source}").gauss(0, 0.002)


def cooldown_loss(arm: Arm, source: str) -> float:
    """A law of rate over the root of the batch."""
    rate, batch = float(arm.point.settings["learning_rate"]), arm.stage.plan.batch_sequences
    return 4.0 + 0.4 * (rate / batch**0.5) ** 0.5 + random.Random(f"{arm.name} {source}").gauss(0, 1e-4)


def tree(project: Project, name: str) -> ElementTree.Element:
    """The page read as XML, which refuses anything left open or unescaped."""
    html = write.render_study(project, name, "rehearsal")
    assert html == write.render_study(project, name, "rehearsal")
    return ElementTree.fromstring(html.removeprefix("<!DOCTYPE html>\n"))


def words(element: ElementTree.Element) -> str:
    return " ".join("".join(element.itertext()).split())


def tables(page: ElementTree.Element) -> dict[str, list[list[str]]]:
    return {
        table.attrib["aria-label"]: [[words(cell) for cell in row] for row in table.iter(f"{HTML}tr")]
        for table in page.iter(f"{HTML}table")
    }


def sections(page: ElementTree.Element) -> list[str]:
    return [section.attrib["id"] for section in page.iter(f"{HTML}section")]


def markers(page: ElementTree.Element, key: str) -> list[str]:
    """The tooltips of a chart."""
    (chart,) = (svg for svg in page.iter(f"{SVG}svg") if svg.attrib.get("aria-labelledby", "").startswith(f"{key}-t"))
    titles = [words(title) for title in chart.iter(f"{SVG}title")]
    return titles[1:]


def test_before_a_decision_a_page_shows_the_question_and_the_arms(project: Project) -> None:
    page = tree(project, "code")
    assert sections(page) == ["arms", "costs", "question"]
    assert "No decision yet" in words(page)
    assert STUDIES["code"].splitlines()[2] in words(page)
    (arms,) = (rows for name, rows in tables(page).items() if name.startswith("Arms"))
    study = compile_study(project, "code", "rehearsal")
    assert [row[0] for row in arms[1:]] == list(dict.fromkeys(arm.point.name for arm in study.arms))
    assert all(row[2].startswith("0 of ") for row in arms[1:])


@pytest.mark.promise("The page of a study says what the record of its newest decision says")
def test_after_its_proposal_ran_a_page_says_what_the_record_says(project: Project) -> None:
    decided(project, "code", "rehearsal", loss, BEFORE)
    kept = decided(project, "code", "rehearsal", loss, BEFORE)
    found = kept.decision
    page = tree(project, "code")
    assert sections(page) == [
        *("verdicts", "proposal", "laws", "arms", "differences", "noise", "costs", "question", "record")
    ]
    evidence = read_input(project, "code", "rehearsal").evidence
    differences = {row[0]: row for row in tables(page)["Differences of arms to kept"][1:]}
    assert set(differences) == set(evidence.arms()) - {"kept"}
    stated = difference(evidence, "stated", "kept", {WEB: 1.0})
    assert difference_words(stated).strip() in differences["stated"]
    shown = tables(page)
    costs = [row[0] for row in shown["What the study takes"]]
    assert "v1.1/basic, trained anyway" in costs
    assert "code/seed-2.basic, trained for this study" in costs
    verdicts = shown["Verdicts, and what would decide them"][1:]
    assert [(row[1], row[2]) for row in verdicts] == [(one.against, one.word) for one in found.verdicts]
    assert found.proposal is not None
    proposed = {row[0]: row[2] for row in shown["The mixture that is proposed, and the one it is around"][1:]}
    assert proposed == {name: f"{100 * share:.3g} %" for name, share in found.proposal.shares.items()}
    contenders = shown["Held-out loss beside the others, nats a token"][1:]
    assert [row[1] for row in contenders if row[0].startswith("proposal, ")] == ["predicted", "measured"]
    arms, at_proposal = markers(page, "arms-shares"), markers(page, "law-0")
    assert len(arms) == len({arm.point.name for arm in compile_study(project, "code", "rehearsal").arms})
    assert sum(title.startswith("proposal: measured") for title in at_proposal) == 1
    assert kept.address in words(page)
    assert "was edited since" not in words(page)


def test_a_page_counts_one_run_of_one_arm_in_the_singular(project: Project) -> None:
    kept = decided(project, "code", "rehearsal", loss, BEFORE)
    one = {**kept.content, "decision": {**kept.content["decision"], "runs": 1, "arms": 1, "trunks": 1}}
    kept.path.write_text(json.dumps(fs.seal(one)))
    text = words(tree(project, "code"))
    assert "1 runof 1 arm" in text, text[text.index("Evidence") :][:200]
    assert "of 1 arms" not in text


@pytest.mark.promise("The page of a study says what the record of its newest decision says")
def test_a_page_predicts_by_the_terms_of_the_record_what_the_decision_predicted(project: Project) -> None:
    decided(project, "code", "rehearsal", loss, BEFORE)
    kept = decided(project, "code", "rehearsal", loss, BEFORE)
    (predicted,) = (one for one in kept.decision.contenders if one.name == "proposal, predicted")
    for panel in gather_study(project, "code", "rehearsal").panels:
        (proposal,) = (point for point in panel.points if point.role == "proposal")
        assert proposal.predicted == pytest.approx(predicted.losses[panel.report.source], abs=1e-12)
        swarm = [point for point in panel.points if point.role != "proposal"]
        assert len(swarm) == panel.report.arms
        assert max(abs(point.loss - point.predicted) for point in swarm) < 0.1


@pytest.mark.promise("The page of a study says what the record of its newest decision says")
def test_a_cooldown_is_drawn_over_the_effective_rate_with_the_exponent_of_its_record(project: Project) -> None:
    kept = decided(project, "cooler", "rehearsal", cooldown_loss, BEFORE)
    page = tree(project, "cooler")
    assert "cooldown" in sections(page)
    found = gather_study(project, "cooler", "rehearsal").cooldown
    assert found is not None
    assert found.exponent == kept.decision.laws[0].terms["exponent"]
    assert len(markers(page, "cooldown")) == len(found.points) == 6
    by_rate = sorted(found.points, key=lambda point: point[2])
    curve = dict(found.curve)
    nearest = [min(curve, key=lambda at: abs(at - point[2])) for point in by_rate]
    assert [curve[at] for at in nearest] == pytest.approx([point[3] for point in by_rate], abs=0.03)


def test_a_file_that_was_edited_since_is_shown_as_it_was(project: Project) -> None:
    decided(project, "code", "rehearsal", loss, BEFORE)
    path = project.root / "studies/code.yaml"
    path.write_text(path.read_text().replace("before + 4", "before + 3"))
    text = words(tree(Project(project.root), "code"))
    assert "before + 4" in text
    assert "before + 3" not in text
    assert "was edited since the decision" in text


@pytest.mark.parametrize(("name", "chart"), [("old", "law-0"), ("new", "arms-shares")])
def test_a_line_of_shares_and_candidates_have_a_page_too(project: Project, name: str, chart: str) -> None:
    kept = decided(project, name, "rehearsal", loss, BEFORE)
    page = tree(project, name)
    assert {"verdicts", "arms", "question", "record"} <= set(sections(page))
    assert markers(page, chart)
    assert kept.decision.word in words(page)


def test_arms_of_varied_lengths_have_a_page_that_sums_their_tokens(project: Project) -> None:
    asks = "for: v1.1-math-code/continual\nvary: {tokens: [100B, 200B]}\ngoal: {lower: {slimpajama: 1}}\n"
    (project.root / "studies/lengths.yaml").write_text(asks)
    decided(project, "lengths", "rehearsal", loss, BEFORE)
    assert "tokens-100b" in words(tree(project, "lengths"))


def test_what_a_record_holds_is_read_back_as_what_was_decided(project: Project) -> None:
    study: CompiledStudy = compile_study(project, "old", "rehearsal")
    kept = decided(project, "old", "rehearsal", loss, BEFORE)
    asked = read_input(project, "old", "rehearsal")
    question = replace(asked.question, resamples=3)
    assert kept.question == question
    assert record.plain(kept.decision) == record.plain(decide(question, asked.evidence, asked.earlier))
    for arm in asked.evidence.arms():
        assert kept.evidence.role(arm) == asked.evidence.role(arm)
        assert kept.evidence.losses(arm, WEB) == asked.evidence.losses(arm, WEB)
    assert len(study.arms) == kept.decision.runs


def test_schedules_have_their_order_and_the_confidence_of_each_pair(project: Project) -> None:
    kept = ordered_schedules(project)
    assert kept.question.forecast is not None
    page = tree(Project(project.root), "schedules")
    assert sections(page) == ["order", "laws", "question", "record"]
    found = kept.decision.order
    assert found is not None
    rows = tables(page)["The order of each pair"][1:]
    assert rows == [[one.first, one.second, f"{100 * one.confidence:.1f} %", one.word] for one in found.pairs]


def ordered_schedules(project: Project) -> record.Record:
    """The record of a study of two published training curves."""
    (project.root / "studies/schedules.yaml").write_text(SCHEDULES)
    known = {name: curve("25", name) for name in ("cosine_24000", "constant_24000", "wsdcon_9")}
    curves = tuple(
        TrainingCurve(
            name,
            len(one.rates),
            one.warmup,
            tuple(one.rates.tolist()),
            tuple(one.at[one.at > one.warmup].tolist()),
            tuple(one.losses[one.at > one.warmup].tolist()),
        )
        for name, one in known.items()
    )
    late = Schedule("late", LearningRate("wsd", PEAK, 0.1 * PEAK, WARMUP, 24_000, 4000), 24_000)
    level = Schedule("level", LearningRate("constant", PEAK, 0.0, WARMUP), 24_000)
    forecast = Forecast((late, level), 1, 1, ("annealing",))
    question = Question("schedules", "schedules", {WEB: 1.0}, {}, forecast=forecast)
    evidence = Evidence((), curves)
    made = record.content("schedules", SCHEDULES, question, evidence, decide(question, evidence), {})
    return record.write(project.runs / "rehearsal" / "schedules", made)

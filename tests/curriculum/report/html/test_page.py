"""What a report says and holds back: exact numbers, hostile text, its size, and that it writes over nothing."""

from __future__ import annotations

import json
import re
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import commands
import pytest
from hypothesis import given, strategies as st
from pretend_runs import metrics_line, pretend
from projects import write_small_project

from curriculum import fs
from curriculum.analysis.compare import compare
from curriculum.artifacts.stage_folder import checkpoint_name
from curriculum.compiler.prepared_text import PreparedText
from curriculum.config.project import Project
from curriculum.errors import ConfigError, DataError, NotFound
from curriculum.launchers import slurm, slurm_record
from curriculum.plan.stage import StagePlan
from curriculum.report.html import write
from curriculum.report.html.gather import gather
from curriculum.report.svg.shapes import safe
from curriculum.runs import status
from curriculum.runs.measurements import Point
from curriculum.units import show_exact

LATER = """\
about: leaves the trunk inside its second stage
from: trunk@8192
stages:
  - {name: later, until: 12288, mixture: mixed, batch: 32 sequences}
"""
HTML = "{http://www.w3.org/1999/xhtml}"
HOSTILE = """</title></style></pre></svg><script>alert(1)</script><img src=x onerror=alert(1)>]]>&amp;"'`--><!--"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = write_small_project(tmp_path / "project")
    sources = root / "sources.yaml"
    sources.write_text(sources.read_text().replace("held_out: 25%", "held_out: 25%, tokens: 8192"))
    pretend(root, "trunk")
    pretend(root, "variant")
    return root


def page(root: Path, *names: str) -> str:
    return write.render(Project(root), names or ("trunk", "variant"), "full")


def tree(html: str) -> ElementTree.Element:
    """The page read as XML, which refuses anything left open or unescaped."""
    return ElementTree.fromstring(html.removeprefix("<!DOCTYPE html>\n"))


def words(element: ElementTree.Element) -> str:
    return " ".join("".join(element.itertext()).split())


def tables(html: str) -> dict[str, list[list[str]]]:
    return {
        table.attrib["aria-label"]: [[words(cell) for cell in row] for row in table.iter(f"{HTML}tr")]
        for table in tree(html).iter(f"{HTML}table")
    }


def test_the_parts_stand_in_the_order_of_the_story(project: Path) -> None:
    sections = [section.attrib["id"] for section in tree(page(project)).iter(f"{HTML}section")]
    assert sections == [*("curriculum", "training", "held-out", "mixture", "lineage", "environment", "reproduce")]


def test_the_smoothed_loss_is_called_what_it_is(project: Path) -> None:
    text = words(tree(page(project)))
    assert "exponentially weighted mean, in which the weight of a step falls to 1/e after " in text
    assert "running mean" not in text


def test_a_page_has_no_script_and_no_address_but_its_own_parts(project: Path) -> None:
    html = page(project)
    assert "<script" not in html
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in html
    for name, value in re.findall(r"""\s(href|src|action|xlink:href)=["']([^"']*)""", html):
        assert value.startswith(("#", "data:")), (name, value)
    assert set(re.findall(r"https?://[^\s\"'<]+", html)) <= {
        "http://www.w3.org/1999/xhtml",
        "http://www.w3.org/2000/svg",
    }
    assert not re.search(r"\son[a-z]+=", html)


def test_ids_are_the_only_ones_of_their_kind_and_every_reference_leads_somewhere(project: Path) -> None:
    html = page(project)
    ids = re.findall(r'\sid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    wanted = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', html)
    wanted += [(name, "") for names in re.findall(r'aria-labelledby="([^"]+)"', html) for name in names.split()]
    assert {one or other for one, other in wanted} <= set(ids)


def test_every_chart_says_what_it_shows(project: Path) -> None:
    charts = [s for s in tree(page(project)).iter("{http://www.w3.org/2000/svg}svg") if s.get("role") == "img"]
    assert charts
    for chart in charts:
        assert words(chart[0])
        assert words(chart[1])
        assert [chart[0].tag[-5:], chart[1].tag[-4:]] == ["title", "desc"]


def test_the_trained_mixture_is_compared_with_the_plan_s_arithmetic(project: Path) -> None:
    mixture = next(t for name, t in tables(page(project)).items() if name.startswith("Planned"))
    rows = {(heading, row[0]): row for heading, row in _grouped(mixture)}
    # the arithmetic by another way: every draw of the stage counted
    stage = gather(Project(project), ["variant"], "full").stages["variant/continual"].compiled.plan
    drawn = [name for step in range(stage.first_step, stage.stop_step) for name in _drawn(stage, step)]
    for name in ("prose", "code"):
        tokens = drawn.count(name) * stage.sequence_length
        row = rows["variant/continual: 3.072k tokens", name]
        assert row[2:4] == [show_exact(tokens)] * 2
        assert row[5] == "exact"


def test_a_count_that_is_not_the_plan_s_is_shown_in_sequences(project: Path) -> None:
    path = project / "runs/full/variant/continual/ledger.jsonl"
    entry = json.loads(path.read_text())
    del entry[fs.SEAL]
    entry["windows"]["code"] += 3
    entry["windows"]["prose"] -= 3
    path.write_text(json.dumps(fs.seal(entry)) + "\n")
    mixture = next(t for name, t in tables(page(project)).items() if name.startswith("Planned"))
    rows = {(heading, row[0]): row for heading, row in _grouped(mixture)}
    assert rows["variant/continual: 3.072k tokens", "code"][5] == "+3"
    assert rows["variant/continual: 3.072k tokens", "prose"][5] == "-3"
    assert rows["trunk/basic: 6.144k tokens", "prose"][5] == "exact"


def _grouped(rows: list[list[str]]) -> list[tuple[str, list[str]]]:
    heading, found = "", []
    for row in rows[1:]:
        if len(row) == 1:
            heading = row[0]
        else:
            found.append((heading, row))
    return found


def _drawn(plan: StagePlan, step: int) -> list[str]:
    draws = plan.draws(step)
    return [draws.names[number] for number in draws.source]


def test_a_trunk_that_variants_share_is_reported_once(project: Path) -> None:
    found = tables(page(project))
    stages = [row[0] for row in found["How far each stage is; positions in tokens from the root"][1:]]
    assert stages == ["trunk/basic", "trunk/continual", "trunk/cooldown", "variant/continual", "variant/cooldown"]
    assert "6.144k shared by all" in words(tree(page(project)))
    html = page(project)
    assert html.count('class="raw v0"') == 2  # the trunk's line, once in each of the two widths


@pytest.mark.processes
@pytest.mark.promise("What several curricula share is stated as far as all of them go through it, everywhere")
def test_a_trunk_that_is_left_inside_a_stage_is_shared_as_far_as_it_is_left(project: Path) -> None:
    (project / "stages/later.yaml").write_text(LATER)
    text = words(tree(page(project, "trunk", "later")))
    assert "of 16.38k planned; 8.192k shared by all" in text
    assert "Trained once and shared by all: trunk/basic, trunk/continual, up to 8,192 tokens." in text
    plan = json.loads(commands.run("plan", "trunk", "later", "--size", "full", "--json", folder=project).stdout)
    assert plan["saved"]["tokens"] == 8192
    assert compare([PreparedText.open(Project(project), name, "full") for name in ("trunk", "later")]).trunk == Point(
        "trunk/continual", 8192
    )
    branches = {branch.name: branch for branch in status.project_status(Project(project), "full").branches}
    assert {stage.name: dict(stage.leaving) for stage in branches["trunk"].stages} == {
        "trunk/basic": {},
        "trunk/continual": {"later": 8192},
        "trunk/cooldown": {},
    }
    shown = commands.run("status", "--size", "full", folder=project).stdout
    assert "shared by later (to 8.192k), trunk" in shown


def test_the_batch_tile_shows_the_batches_of_each_curriculum_in_order_and_no_chain_of_several(project: Path) -> None:
    (project / "stages/later.yaml").write_text(LATER.replace("batch: 32 sequences", "batch: 64 sequences"))
    text = words(tree(page(project, "trunk", "later", "variant")))
    (tile,) = re.findall("Batch(.*?) tokens a step", text)
    assert tile == "8 → 32 or 8 → 64 sequences256 → 1.024k or 256 → 2.048k"


def test_a_report_of_variants_that_were_trained_by_other_files_says_why_there_are_no_differences(project: Path) -> None:
    stage = project / "stages/trunk.yaml"
    stage.write_text(stage.read_text().replace("seed: 7", "seed: 8"))
    assert "The variants are not compared: `trunk/basic`" in words(tree(page(project)))


def test_attempts_with_one_environment_name_it_once_and_count_restarts(project: Path) -> None:
    found = tables(page(project))
    attempts = found["Attempts: each launch of a stage's job"]
    assert ["variant/continual", "0001", "training", "stopped", "9,216", "A"] in attempts
    assert len(attempts) == 1 + 2 * 5
    assert ["torch", "2.13.0"] in found["Environments"]
    throughput = next(table for name, table in found.items() if name.startswith("Throughput"))
    assert throughput[0][-3:] == ["restarts", "skipped", "memory"]
    assert {tuple(row[-3:-1]) for row in throughput[1:]} == {("1", "2")}


def test_only_a_job_that_trains_counts_as_a_restart_and_others_say_what_they_were(project: Path) -> None:
    attempts = project / "runs/full/variant/continual/attempts"
    for number, kind in (("0003", "evaluate"), ("0004", "harness")):
        (attempts / number).mkdir()
        (attempts / number / "job.json").write_text(json.dumps({"kind": kind}))
        (attempts / number / "outcome.json").write_text(json.dumps({"outcome": "done"}))
    found = tables(page(project))
    rows = found["Attempts: each launch of a stage's job"]
    assert [row[2:4] for row in rows if row[0] == "variant/continual"] == [
        ["training", "stopped"],
        ["training", "done"],
        ["held-out loss", "done"],
        ["tasks", "done"],
    ]
    throughput = next(table for name, table in found.items() if name.startswith("Throughput"))
    assert {row[0]: row[-3] for row in throughput[1:]}["variant/continual"] == "1"


EARLY = """\
from: trunk@3072
stages:
  - {name: cooldown, until: 6144}
"""


def test_what_a_parent_did_past_the_point_where_a_variant_leaves_it_is_not_the_variant_s(project: Path) -> None:
    basic = project / "runs/full/trunk/basic"
    task = {"task": "quiz", "asked": {}, "harness": {"lm_eval": "0.4"}, "groups": {}, "tasks": {}}
    records = basic / "benchmarks/g0-6144"
    records.mkdir(parents=True)
    (records / "quiz.json").write_text(json.dumps({"generation": 0, "position": 6144, **task}))
    (project / "stages/early.yaml").write_text(EARLY)
    (basic / "attempts/0003").mkdir()  # under way: it has no outcome yet
    (basic / "attempts/0003/job.json").write_text('{"kind": "train"}')
    compiled = pretend(project, "early")
    stop = compiled.stages[0].stop
    assert stop < 6144
    stage = gather(Project(project), ["early"], "full").stages["trunk/basic"]
    assert stage.training.raw[-1][0] == stage.training.last == stop
    assert stage.training.lines == stop // compiled.stages[0].plan.batch_tokens
    assert stage.training.seconds == 0.25 * stage.training.lines
    assert [position for position, _ in stage.losses("prose")] == [0, stop]
    assert (stage.checkpoints, stage.ledger, stage.scores) == ((), (), {})
    assert stage.position == stop
    assert [(attempt.number, attempt.position) for attempt in stage.attempts] == [("0001", 6144)]
    assert stage.restarts == 0
    attempts = tables(page(project, "early"))["Attempts: each launch of a stage's job"]
    assert ["trunk/basic", "0001", "training", "stopped", "3,072, continued", "A"] in attempts
    # an attempt that ended at the very point is the last of them, too
    (basic / "attempts/0001/outcome.json").write_text(json.dumps({"outcome": "stopped", "position": stop}))
    stage = gather(Project(project), ["early"], "full").stages["trunk/basic"]
    assert [(attempt.number, attempt.position) for attempt in stage.attempts] == [("0001", stop)]
    # shown beside the trunk, which continues, all of it is there
    both = gather(Project(project), ["early", "trunk"], "full").stages["trunk/basic"]
    assert both.training.last == 6144
    assert len(both.checkpoints) == 1


@pytest.mark.parametrize(
    ("said", "state"), [("PENDING", "queued"), ("RUNNING", "running"), ("TIMEOUT", "failed"), (None, "failed")]
)
def test_a_stage_s_state_is_the_one_that_status_tells(
    project: Path, monkeypatch: pytest.MonkeyPatch, said: str | None, state: str
) -> None:
    folder = project / "runs/full/variant/cooldown"
    (folder / "DONE").unlink()
    job = slurm_record.SubmissionRecord(job="7", machine="cluster", since="today", folder="slurm/0001")
    slurm_record.write(folder, job)
    monkeypatch.setattr(slurm, "query", lambda _: said and slurm.JobState(said, "", "n1"))
    here = Project(project)
    states = {s.name: s.state for b in status.project_status(here, "full").branches for s in b.stages}
    stages = gather(here, ["trunk", "variant"], "full").stages
    assert {name: stage.state for name, stage in stages.items()} == states
    assert states["variant/cooldown"] == state
    assert f"variant/cooldown ({state})" in words(tree(page(project)))


def test_a_stage_that_came_to_the_point_where_it_is_left_says_so(project: Path) -> None:
    basic = project / "runs/full/trunk/basic"
    (basic / "DONE").unlink()
    (project / "stages/early.yaml").write_text(EARLY)
    pretend(project, "early")
    assert "trunk/basic (started)" in words(tree(page(project, "early")))
    there = basic / "checkpoints" / checkpoint_name(0, 3072)
    shutil.copytree(basic / "checkpoints" / checkpoint_name(0, 6144), there)
    assert "trunk/basic (at the branch point)" in words(tree(page(project, "early")))
    assert "trunk/basic (started)" in words(tree(page(project, "trunk")))


def test_an_environment_is_reported_in_words_and_without_what_is_empty(project: Path) -> None:
    environment = {
        "accepted": [],
        "changed": {},
        "compile": None,
        "deterministic": False,
        "peak_flops": 1.979e15,
        "flops_per_token": 8159232,
        "micro_batch": 16,
        "code": "ab" * 32,
        "ranks": 2,
    }
    changed = {**environment, "changed": {"torch": ["2.12", "2.13"]}, "accepted": ["torch", "code"]}
    attempts = project / "runs/full/trunk/basic/attempts"
    (attempts / "0001/environment.json").write_text(json.dumps(environment))
    (attempts / "0002/environment.json").write_text(json.dumps(changed))
    rows = {row[0]: row[1:3] for row in tables(page(project, "trunk"))["Environments"][1:]}
    assert rows.pop("changes accepted") == ["", "torch, code"]
    assert rows.pop("changed since the previous attempt") == ["", "torch 2.12 -> 2.13"]
    assert {name: one for name, (one, _) in rows.items() if one} == {
        "deterministic": "no",
        "digest of the code": "ab" * 6,
        "FLOPs a token": "8,159,232",
        "micro-batch, sequences": "16",
        "peak of a device, FLOP/s": "1.979e+15",
        "processes": "2",
    }
    assert not {"compile", "None"} & {*rows, *(value for row in rows.values() for value in row)}


def test_the_files_are_in_it_letter_for_letter(project: Path) -> None:
    shown = [pre.itertext() for pre in tree(page(project)).iter(f"{HTML}pre")]
    texts = ["".join(text) for text in shown]
    for path in ("stages/trunk.yaml", "stages/variant.yaml", "mixtures/mixed.yaml", "sources.yaml"):
        assert (project / path).read_text() in texts


@pytest.mark.promise(
    "Hostile text in any file stays text in a report; injected markup could neither run nor request anything"
)
def test_hostile_text_in_any_file_stays_text(project: Path) -> None:
    quoted = json.dumps(HOSTILE)
    for name in ("trunk", "variant"):
        path = project / f"stages/{name}.yaml"
        path.write_text(re.sub(r"^about: .*$", lambda _: f"about: {quoted}", path.read_text(), flags=re.MULTILINE))
    sources = project / "sources.yaml"
    sources.write_text(sources.read_text().replace("tokens: 8192}", f"tokens: 8192, licence: {quoted}}}"))
    stage = project / "runs/full/variant/continual"
    (stage / "attempts/0002/environment.json").write_text(json.dumps({HOSTILE: HOSTILE, "half": "\ud800", "nul": "\0"}))
    (stage / "attempts/0002/outcome.json").write_text(json.dumps({"outcome": HOSTILE}))
    (stage / "attempts" / "<b>3").mkdir()
    evaluation = next((stage / "evaluations").iterdir())
    value = json.loads(evaluation.read_text())
    value["sets"][HOSTILE] = {"loss": 3.0}
    evaluation.write_text(json.dumps(value))
    html = page(project)
    root = tree(html)  # well-formed in spite of all of it
    html.encode()
    assert "<script" not in html
    assert "<img" not in html
    assert "<b>3" not in html
    names = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert not names & {"script", "img", "iframe", "b"}
    assert not any(key.startswith("on") for element in root.iter() for key in element.attrib)
    assert words(root).count("".join(HOSTILE.split())[:10]) >= 5


@given(st.text())
def test_safe_text_is_what_it_was_wherever_it_stands(text: str) -> None:
    made = ElementTree.fromstring(f'<a b="{safe(text)}">{safe(text)}</a>')
    unsafe = r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
    wanted = re.sub(unsafe, "\N{REPLACEMENT CHARACTER}", text)
    assert (made.text or "") == re.sub(r"\r\n?", "\n", wanted)
    assert made.attrib["b"] == re.sub(r"[\r\n\t]", " ", re.sub(r"\r\n", "\n", wanted))


def test_the_same_run_gives_the_same_bytes_wherever_it_is(project: Path, tmp_path: Path) -> None:
    once = page(project)
    elsewhere = tmp_path / "elsewhere" / "copy"
    shutil.copytree(project, elsewhere)
    assert page(elsewhere) == once
    assert str(tmp_path) not in once


@pytest.mark.promise("A report stays below a megabyte, also of a run of a million steps")
@pytest.mark.slow
def test_a_long_run_of_many_curricula_and_sources_stays_below_a_megabyte(tmp_path: Path) -> None:
    root = write_small_project(tmp_path / "project")
    names = [f"source-{n}-{'x' * 40}" for n in range(300)]
    sources = (root / "sources.yaml").read_text()
    long_words = "much to say " * 20
    sources += "".join(
        f"  {n}: {{read: {{folder: texts/prose}}, held_out: 25%, licence: {long_words}}}\n" for n in names
    )
    (root / "sources.yaml").write_text(sources)
    (root / "mixtures/mixed.yaml").write_text("weights: {" + ", ".join(f"{n}: 1" for n in names) + "}\n")
    trunk = root / "stages/trunk.yaml"
    trunk.write_text(
        trunk.read_text().replace("12288", "10240000").replace("9216", "7680000").replace("6144", "5120000")
    )
    variant = (root / "stages/variant.yaml").read_text()
    variant = variant.replace("12288", "10240000").replace("9216", "7680000").replace("1536 tokens", "100k tokens")
    for n in range(11):
        (root / f"stages/variant-{n}.yaml").write_text(variant)
    (root / "stages/variant.yaml").unlink()
    curricula = ["trunk", *(f"variant-{n}" for n in range(11))]
    for name in curricula:
        pretend(root, name)
    html = page(root, *curricula)
    tree(html)
    assert len(html.encode()) < 1_000_000
    assert "sources more, with fewer tokens, are left out here" in html
    assert "characters more" in html  # of sources.yaml, whose digest is shown instead of the rest


def test_a_stage_that_is_under_way_is_compared_as_far_as_it_is(tmp_path: Path) -> None:
    root = write_small_project(tmp_path / "project")
    pretend(root, "trunk", part=0.5)
    html = page(root, "trunk")
    assert "started" in html
    mixture = next(t for name, t in tables(html).items() if name.startswith("Planned"))
    headings = [row[0] for row in mixture if len(row) == 1]
    assert headings[-1].startswith("trunk/cooldown: 3.072k tokens; both counts up to 11,264 tokens")
    assert mixture[-1][2] == mixture[-1][3] == "2,048"


def test_files_that_changed_under_a_run_are_said_and_not_compared(project: Path) -> None:
    mixture = project / "mixtures/mixed.yaml"
    mixture.write_text("weights: {prose: 1, code: 1}\n")
    text = words(tree(page(project)))
    assert "The files have changed since variant/continual, variant/cooldown started" in text
    assert "variant/continual: 3.072k tokens; nothing to compare, the files have changed since" in text


def test_a_damaged_record_is_one_refusal_and_no_traceback(project: Path) -> None:
    (project / "runs/full/trunk/basic/ledger.jsonl").write_text('{"position": 1}\n')
    with pytest.raises(DataError, match=r"trunk/basic/ledger.jsonl` is damaged in line 1"):
        page(project)


def test_a_report_says_a_size_is_not_the_real_thing(tmp_path: Path) -> None:
    root = write_small_project(tmp_path / "project")
    (root / "sizes.yaml").write_text("full: {}\nhalf: {tokens: 5e-1, batch: 8 -> 8 sequences}\n")
    html = write.render(Project(root), ["trunk"], "half")
    assert "This is not the full-size curriculum. Size half scales every length by 0.5" in words(tree(html))
    assert "not the full-size" not in page(root, "trunk")


def test_more_curricula_than_can_be_distinguished_are_refused(project: Path) -> None:
    with pytest.raises(ConfigError, match="at most 12 curricula side by side, not 13"):
        page(project, *(f"c{n}" for n in range(13)))


def test_an_unknown_curriculum_is_refused_by_name(project: Path) -> None:
    with pytest.raises(NotFound, match="nosuch"):
        page(project, "nosuch")


def test_a_report_replaces_a_report_and_nothing_else(project: Path, tmp_path: Path) -> None:
    path = tmp_path / "out.html"
    write.write(path, page(project, "trunk"), make_folder=False)
    write.write(path, page(project, "variant"), make_folder=False)
    assert b"variant" in path.read_bytes()
    mine = project / "stages" / "trunk.yaml"
    before = mine.read_bytes()
    with pytest.raises(ConfigError, match="exists and is not a report"):
        write.write(mine, page(project, "trunk"), make_folder=False)
    assert mine.read_bytes() == before
    with pytest.raises(ConfigError, match="is a directory"):
        write.write(tmp_path, "", make_folder=False)
    with pytest.raises(ConfigError, match="cannot be written"):
        write.write(tmp_path / "no" / "such" / "folder.html", "", make_folder=False)


def test_without_a_place_a_report_is_beside_the_runs(project: Path) -> None:
    here = Project(project)
    assert write.default_path(here, ["a", "b", "a"], "full") == project / "runs/full/report-a-b.html"
    assert write.default_path(here, list("abcde"), "full").name == "report-a-b-c-d-e.html"
    many = [f"a-name-of-some-length-{number}" for number in range(20)]
    assert write.default_path(here, many, "full").name == "report-a-name-of-some-length-0-and-19-more.html"


def test_a_stopped_skipped_or_infinite_step_is_counted(project: Path) -> None:
    path = project / "runs/full/trunk/basic/metrics.jsonl"
    lines = path.read_text().splitlines()
    lines[3] = metrics_line(3, json.loads(lines[3])["position"], "nan")
    path.write_text("\n".join(lines) + "\n")
    story = gather(Project(project), ["trunk"], "full")
    assert story.stages["trunk/basic"].training.not_finite == 1
    assert len(story.stages["trunk/basic"].training.raw) == len(lines) - 1

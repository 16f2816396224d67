"""Whole commands on the shipped project, without training: what they print, at which width, and how fast they start."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
import zipfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import commands
import pytest
from projects import InProcess
from terminal import on_a_terminal
from typer.testing import CliRunner

from curriculum.cli.app import PANELS, VERBS, app, word
from curriculum.compiler.compile import compile_curriculum, spans
from curriculum.config.init import init
from curriculum.config.project import Project
from curriculum.plan.diff.compare import END, TOKENS, compare
from curriculum.plan.diff.timeline import Span
from curriculum.report import notebook
from curriculum.report.svg.held_out import held_out

pytestmark = pytest.mark.processes

ROOT = Path(__file__).resolve().parents[3]


def ask(*words: str, cwd: Path = ROOT, columns: int | None = None) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if columns:
        environment["COLUMNS"] = str(columns)
    done = commands.run(*words, folder=cwd, environment=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def shipped(folder: Path) -> Project:
    init(folder)
    return Project(folder)


def edited(project: Project, file: str, old: str, new: str) -> Project:
    path = project.root / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return Project(project.root)


def test_help_lists_every_verb_in_its_panel_with_a_whole_sentence_on_its_line() -> None:
    """At 80 columns; the screen itself is pinned in screens/test_screens.py."""
    _, *panels = re.split(r"^([A-Z][a-z]+):\n", ask("--help", columns=80).partition("Show this message")[2], flags=re.M)
    shown = {
        title: [re.fullmatch(r"  ([\w-]+) +([A-Z].*\.)", line) for line in body.splitlines() if line]
        for title, body in zip(panels[::2], panels[1::2], strict=True)
    }
    assert all(line for lines in shown.values() for line in lines)
    listed = {title: [line[1] for line in lines if line] for title, lines in shown.items()}
    assert listed == {title: [word(verb) for verb in verbs] for title, verbs in PANELS.items()}
    assert list(listed) == ["Do", "Look", "Ask", "Care", "Share"]


@pytest.mark.parametrize("verb", [(), *((word(verb),) for verb in VERBS)], ids=" ".join)
def test_h_is_help(verb: tuple[str, ...]) -> None:
    runner = CliRunner()
    short, long = (runner.invoke(app, [*verb, option]) for option in ("-h", "--help"))
    assert short.exit_code == 0
    assert short.output == long.output
    assert "Usage:" in short.output


def test_the_version_is_said_with_python_s_and_loads_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['curriculum', '--version']; from curriculum.__main__ import main\n"
        "try: main()\n"
        "finally: print([m for m in ('torch', 'numpy', 'pydantic', 'yaml', 'rich.table') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    version, loaded = done.stdout.splitlines()
    assert version == f"curriculum {metadata.version('curriculum')}, Python {platform.python_version()}"
    assert loaded == "[]"


@pytest.mark.promise(
    "The shipped files compile to the paper's steps, boundaries, learning rates, ramp and epochs, to the unit"
)
def test_the_full_size_plan_as_json_has_the_paper_s_numbers() -> None:
    plan = json.loads(ask("plan", "v1.1-math-code", "--size", "full", "--machine", "a100-40g-16x4", "--json"))
    assert [stage["steps"] for stage in plan["stages"]] == [817_436, 190_734, 20_436]
    assert [stage["ends_at"] for stage in plan["stages"]] == [1_500_001_599_488, 1_850_000_015_360, 2_000_000_909_312]
    assert plan["cost"]["updates"] == 1_028_606
    assert plan["cost"]["parameters"] == 1_100_048_384
    # 2T tokens at 24k tokens/s a GPU: research figure 23.1k GPU-hours, 15.1 days on 64
    assert plan["cost"]["gpu_hours"] == pytest.approx(23_148, rel=1e-3)
    assert plan["cost"]["days"] == pytest.approx(15.07, rel=1e-2)
    code = plan["stages"][1]["sources"]["starcoder-python-jupyter"]
    assert code["asked"] == 0.15
    assert code["tokens"] == pytest.approx(0.15 * (350e9 - 3e9), rel=1e-4)
    assert plan["stages"][0]["sources"]["slimpajama"]["first_repeat"]["position"] == pytest.approx(659e9, rel=1e-5)


def test_the_plan_of_several_curricula_shows_the_memory_of_each_stage_once() -> None:
    text = on_a_terminal(ROOT, 100, "plan", "v1.1", "v1.1-chinese", "--size", "full", "--machine", "a100-40g-16x4")
    shown = re.findall(r"^ *(\S+) +\d x 7 +31\.3 ", text, re.MULTILINE)
    assert shown == ["basic", "v1.1/continual", "v1.1/cooldown", "v1.1-chinese/continual", "v1.1-chinese/cooldown"]


@pytest.mark.parametrize("columns", [80, 140])
def test_a_plan_on_a_terminal_is_not_cut(columns: int) -> None:
    words = ("plan", "v1.1-math-code", "--size", "full", "--machine", "a100-40g-16x4")
    text = on_a_terminal(ROOT, columns, *words)
    assert "…" not in text
    assert "1,500,001,599,488" in text


@pytest.mark.parametrize(("columns", "rows"), [(80, 7), (60, 7), (34, 0)])
def test_the_curves_of_a_plan_take_the_terminal_s_width_or_are_left_out(columns: int, rows: int) -> None:
    shown = on_a_terminal(ROOT, columns, "plan", "v1.1", "--size", "full").splitlines()
    assert max(map(len, shown)) <= columns
    drawn = [line for line in shown if re.search("[\u2800-\u28ff]", line)]
    assert len(drawn) == rows
    assert {len(line) for line in drawn} <= {min(columns, 60 + len("0.0004 "))}
    assert any("learning rate" in line and "0.0004" in line for line in shown) == (rows == 0)


def test_a_step_of_the_full_plan_can_be_asked_for_before_any_text_is_prepared() -> None:
    last = json.loads(ask("batch", "v1.1-math-code", "--step", "1028605", "--size", "full", "--json"))
    assert last["stage"] == "cooldown"
    assert len(last["slots"]) == 3584
    assert last["prepared"] is False


def test_the_ranks_of_a_step_together_show_the_step() -> None:
    whole = json.loads(ask("batch", "v1.1-math-code", "--step", "740", "--json"))["slots"]
    parts = [
        json.loads(ask("batch", "v1.1-math-code", "--step", "740", "--rank", str(rank), "--of", "2", "--json"))["slots"]
        for rank in (0, 1)
    ]
    assert parts[0] + parts[1] == whole


def test_report_writes_one_file_beside_the_runs_and_says_where(tmp_path: Path) -> None:
    project = shipped(tmp_path / "p")
    said = ask("report", "v1.1", "v1.1-math-code", "--size", "full", cwd=project.root)
    assert said.startswith("the report: runs/full/report-v1.1-v1.1-math-code.html  (")
    html = (project.root / "runs/full/report-v1.1-v1.1-math-code.html").read_text()
    assert "this is the plan alone" in html
    assert "1,500,001,599,488" in html
    ask("report", "v1.1", "--to", "mine.html", cwd=project.root)
    assert "This is not the full-size curriculum" in (project.root / "mine.html").read_text()


@pytest.mark.promise(
    "`curriculum init` writes a project from the wheel's copies and changes no existing file but for "
    "lines added to a .gitignore"
)
def test_init_writes_a_project_that_plans_and_touches_nothing_that_is_there(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    ask("init", str(folder), cwd=tmp_path)
    assert "817,436" in ask("plan", "v1.1", "--size", "full", cwd=folder)
    (folder / "machines.yaml").write_text("mine: {}\n")
    again = commands.run("init", str(folder), folder=tmp_path)
    assert again.returncode == 2
    assert (folder / "machines.yaml").read_text() == "mine: {}\n"


@pytest.mark.promise("A project with one size need not name it")
def test_where_a_project_has_one_size_no_command_names_it(tmp_path: Path) -> None:
    project = shipped(tmp_path / "p")
    assert project.default_size == "rehearsal"
    assert project.options("rehearsal") == ""
    assert project.options("full", "h200") == " --size full --machine h200"
    (project.root / "sizes.yaml").write_text("full: {}\n")
    alone = Project(project.root)
    assert alone.default_size == "full"
    assert alone.options("full") == ""
    assert json.loads(ask("plan", "v1.1", "--json", cwd=project.root))["size"] == "full"
    rows = notebook.ProjectTables(project.root).plan("v1.1").stages
    assert [row["ends_at"] for row in rows][-1] == 2_000_000_909_312


def test_init_schema_writes_the_schemas_of_a_project_again_and_nothing_else(tmp_path: Path) -> None:
    project = shipped(tmp_path / "mine").root
    (project / ".schema" / "stages.json").write_text("old")
    (project / ".schema" / "sizes.json").unlink()
    (project / "stages" / "v1.1.yaml").write_text("mine\n")
    kept = {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}
    assert "6 schemas" in ask("init", ".", "--schema", cwd=project)
    for path in {*kept, project / ".schema" / "sizes.json"}:
        if path.parent.name == ".schema":
            assert path.read_bytes() == (ROOT / ".schema" / path.name).read_bytes()
        else:
            assert path.read_bytes() == kept[path]


@pytest.mark.promise(
    "`curriculum init` writes a project from the wheel's copies and changes no existing file but for "
    "lines added to a .gitignore"
)
def test_the_wheel_carries_the_shipped_project_and_both_packages(tmp_path: Path) -> None:
    source = tmp_path / "source"
    hidden = shutil.ignore_patterns(".git", ".venv", ".*_cache", ".hypothesis")
    shutil.copytree(
        ROOT,
        source,
        ignore=lambda folder, names: {
            *hidden(folder, names),
            *(("runs", "data", "build") if Path(folder) == ROOT else ()),  # not the packages of these names
        },
    )
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)], cwd=source, check=True
    )
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    for wanted in (
        "curriculum/_project/stages/v1.1-math-code.yaml",
        "curriculum/_project/mixtures/math-code.yaml",
        "curriculum/_project/sizes.yaml",
        "runner/train/loop.py",
        "curriculum/plan/stage.py",
        "curriculum/report/svg/chart.css",
        "curriculum/report/html/page.css",
    ):
        assert wanted in names
    assert not any(name.startswith(("tests/", "runs/", "data/", "docs/")) for name in names)

    installed, mine = tmp_path / "installed", tmp_path / "mine"
    zipfile.ZipFile(next(tmp_path.glob("*.whl"))).extractall(installed)
    subprocess.run(
        [sys.executable, "-m", "curriculum", "init", str(mine)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        check=True,
    )
    for written in ("stages/v1.1.yaml", "stages/README.md", "mixtures/README.md", ".schema/stages.json"):
        assert (mine / written).read_bytes() == (ROOT / written).read_bytes()


def test_two_variants_part_where_their_shared_trunk_ends(tmp_path: Path) -> None:
    project = shipped(tmp_path / "p")
    mine, theirs = (compile_curriculum(project, name, "full") for name in ("v1.1-math-code", "v1.1-chinese"))
    compared = compare(spans(mine.stages), spans(theirs.stages))
    assert [shared.old for shared in compared.shared if shared.whole] == ["v1.1/basic"]
    assert 817_436 <= compared.parts[0].step < 817_436 + 8


@pytest.mark.promise("An edited mixture under a started run is refused with the first step it changes")
def test_an_edit_of_the_future_leaves_the_past_of_a_stage_alone(tmp_path: Path) -> None:
    project = shipped(tmp_path / "p")
    old = compile_curriculum(project, "v1.1-math-code", "full").stages[1].plan
    longer = edited(project, "stages/v1.1-math-code.yaml", "ramp: 6B", "ramp: 12B")
    new = compile_curriculum(longer, "v1.1-math-code", "full").stages[1].plan
    (part,) = compare((Span("", old, old.end),), (Span("", new, new.end),)).parts
    assert part.what == TOKENS
    for step in range(old.first_step, part.step):
        assert (old.draws(step).window == new.draws(step).window).all()
    there = part.step
    assert (old.draws(there).window != new.draws(there).window).any()


def test_a_changed_stage_end_is_a_difference_at_that_end_only(tmp_path: Path) -> None:
    project = shipped(tmp_path / "p")
    old = compile_curriculum(project, "v1.1", "full").stages[1].plan
    edited(project, "stages/v1.1.yaml", "until: 1.85T", "until: 1.9T")
    new = compile_curriculum(Project(project.root), "v1.1", "full").stages[1].plan
    (part,) = compare((Span("", old, old.end),), (Span("", new, new.end),)).parts
    assert (part.what, part.step) == (END, old.stop_step)
    assert old.history(old.end) == new.history(old.end)


def test_the_picture_is_well_formed_and_has_a_line_for_every_source() -> None:
    drawing = held_out(
        "a <run>",
        [("basic", 0, 100), ("cooldown", 100, 200)],
        {"a&b": [(0, 8.0), (200, 3.0)], "c": [(0, 8.0), (200, 4.0)]},
    )
    root = ElementTree.fromstring(drawing)
    lines = [element for element in root.iter() if element.tag.endswith("polyline")]
    assert len([line for line in lines if line.attrib["class"].startswith("line")]) == 2
    assert "a&b 3.00" in {element.text for element in root.iter()}


def test_hints_that_name_curricula_name_those_of_the_project(
    small_project: Path, curriculum: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    for command, named in (
        (("plan",), "The curricula here: trunk, variant."),
        (("verify",), "The curricula here: trunk, variant."),
        (("compare", "variant"), "`curriculum compare variant trunk`"),
        (("status", "--follow"), "`curriculum status trunk --follow`"),
        (("branch", "trunk@end", "other"), "as in trunk@1.2T"),
    ):
        assert named in " ".join(curriculum(small_project, *command, check=False).stderr.split()), command
    (small_project / "stages/variant.yaml").unlink()
    alone = curriculum(small_project, "compare", "trunk", check=False).stderr
    assert "hint: `trunk` is the only one; `curriculum branch trunk NAME` makes another" in " ".join(alone.split())


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("prune", "--size", "nope"), "unknown size `nope`"),
        (("prune", "variant", "--size", "nope"), "unknown size `nope`"),
        (("status", "--size", "nope"), "unknown size `nope`"),
        (("plan", "variant", "--size", "../full"), "unknown size `../full`"),
        (("status", "variant/nope"), "curriculum `variant` has no stage `nope`"),
        (("status", "trunk@99999"), "`trunk@99999` is outside `trunk`"),
    ],
)
def test_a_size_a_stage_and_a_position_that_are_not_there_are_refused_by_every_verb(
    small_project: Path, in_process: InProcess, words: tuple[str, ...], why: str
) -> None:
    code, out, err = in_process(small_project, *words)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {why}")
    assert "hint: " in err


def test_a_size_that_sizes_yaml_no_longer_has_is_pruned_and_shown_while_runs_of_it_are_there(
    small_project: Path, in_process: InProcess
) -> None:
    (small_project / "runs/gone").mkdir(parents=True)
    for verb in ("prune", "status"):
        assert in_process(small_project, verb, "--size", "gone")[0] == 0

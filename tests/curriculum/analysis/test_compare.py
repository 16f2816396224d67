"""Variants side by side: trunks, rows, differences, marks and filling, on a small project that was really trained."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import commands
import numpy as np
import pytest
from comparisons import CONTROL, FULL, NAMES, comparison, sets
from rich.console import Console

from curriculum import fs
from curriculum.analysis import claims, compare
from curriculum.analysis.bootstrap import paired
from curriculum.analysis.measured_windows import mismatch
from curriculum.artifacts import checkpoints
from curriculum.artifacts.evaluations import write_sets
from curriculum.artifacts.stage_folder import StageFolder
from curriculum.cli.view.runs import result_view
from curriculum.compiler.prepared_text import PreparedText
from curriculum.config.project import Project
from curriculum.data.dataset import Dataset
from curriculum.data.manifest import HELD_OUT
from curriculum.errors import Drift, NotFound
from curriculum.report.html import write
from curriculum.runs import held_out
from curriculum.runs.measurements import Point

HTML = "{http://www.w3.org/1999/xhtml}"
Curriculum = Callable[..., "subprocess.CompletedProcess[str]"]

LATER = """\
about: leaves the trunk inside its second stage
from: trunk@8192
stages:
  - {name: later, until: 12288, mixture: mixed, batch: 32 sequences}
"""


# --- the trunk and the rows ---


def test_the_trunk_is_what_all_go_through_together(three: Path) -> None:
    assert comparison(three).trunk == Point("trunk/basic", 6144)
    assert comparison(three, "variant", "control").trunk == Point("variant/continual", 9216)


def test_a_trunk_that_is_left_inside_a_stage_ends_where_it_is_left(copy: Path) -> None:
    (copy / "stages/later.yaml").write_text(LATER)
    found = comparison(copy, "trunk", "later")
    assert found.trunk == Point("trunk/continual", 8192)
    assert found.trunk_stages == ("trunk/basic", "trunk/continual")
    assert comparison(copy, "later", "variant").trunk == Point("trunk/basic", 6144)


def test_lineages_without_a_trunk_are_still_compared_at_equal_positions_but_bear_no_marks(copy: Path) -> None:
    (copy / "stages/other.yaml").write_text((copy / "stages/trunk.yaml").read_text().replace("seed: 7", "seed: 8"))
    found = comparison(copy, "trunk", "other")
    assert found.trunk is None
    assert found.trunk_stages == ()
    assert [row.ends for row in found.rows if row.ends] == ["basic", "continual", "cooldown"]
    assert claims.check_claims(found) == []


def test_rows_are_the_trunk_s_end_every_stage_end_and_positions_measured_in_two_variants(three: Path) -> None:
    found = comparison(three)
    ends = [(row.ends, row.position) for row in found.rows if row.ends]
    assert ends == [("basic", 6144), ("continual", 9216), ("cooldown", 12288)]
    between = [row for row in found.rows if row.label == ""]
    assert between
    for row in between:
        assert len({p for p in row.points if p is not None}) > 1
        assert row.apart == 0
        assert not row.is_edge


def test_ends_declared_alike_share_a_row_although_their_steps_end_apart(copy: Path) -> None:
    (copy / "stages/control.yaml").write_text(CONTROL.replace("until: 12288", "until: 12288, batch: 20 sequences"))
    shutil.rmtree(copy / "runs/full/control")
    row = comparison(copy).rows[-1]
    assert row.ends == "cooldown"
    assert [point.position for point in row.points if point] == [12288, 12288, 12416]
    assert row.apart == 128


def test_ends_declared_apart_that_fall_on_one_boundary_are_one_row(copy: Path) -> None:
    (copy / "stages/control.yaml").write_text(CONTROL.replace("until: 12288", "until: 12280"))
    ends = [(row.ends, row.position) for row in comparison(copy).rows if row.ends]
    assert ends == [("basic", 6144), ("continual", 9216), ("cooldown", 12288)]


def test_where_a_variant_leaves_a_stage_in_its_middle_is_no_end_of_that_stage(copy: Path) -> None:
    (copy / "stages/later.yaml").write_text(LATER)
    (copy / "stages/apart.yaml").write_text(LATER.replace("from: trunk@8192", "from: trunk@7168"))
    found = comparison(copy, "trunk", "later")
    assert [(row.ends, row.leaves, row.position) for row in found.rows if row.is_edge] == [
        (None, "continual", 8192),
        ("continual", None, 9216),
        ("cooldown/later", None, 12288),
    ]
    assert next(row.label for row in found.shown_rows("prose") if row.is_edge) == "leaves continual"
    rows = compare.to_json(found)["sources"]["prose"]
    assert [(row["ends"], row["leaves"]) for row in rows if row["position"] == 8192] == [(None, "continual")]
    found = comparison(copy, "trunk", "later", "apart")  # one goes through where the trunk of all ends
    assert [(row.ends, row.leaves, row.position) for row in found.rows if row.leaves] == [
        (None, "continual", 7168),
        (None, "continual", 8192),
    ]
    with_claims = [claim.claim for claim in claims.check_claims(found)]
    assert "later against apart" not in with_claims
    (copy / "stages/ends.yaml").write_text("from: trunk/basic\nstages: [{name: more, until: 8192, mixture: mixed}]\n")
    (row,) = [row for row in comparison(copy, "trunk", "later", "ends").rows if row.position == 8192]
    assert (row.ends, row.leaves, row.label) == ("more", "continual", "more, leaves continual")


def measured_at(root: Path, stage: str, positions: list[int]) -> None:
    """Pretend that a stage measured what the trunk did at its end, and nothing else."""
    folder = StageFolder(root / "runs/full" / stage)
    shutil.rmtree(folder.path / "evaluations", ignore_errors=True)
    for position in positions:
        write_sets(folder, 0, position, 1, sets(root, "trunk/basic", 6144))


def test_evaluations_at_the_boundaries_of_different_batches_share_a_row(copy: Path) -> None:
    """A multiple of 2,048 after 9,216 is reached at 10,240 with batches of 256 tokens, at 10,496 with 640."""
    (copy / "stages/control.yaml").write_text(CONTROL.replace("until: 12288", "until: 12288, batch: 20 sequences"))
    shutil.rmtree(copy / "runs/full/control")
    measured_at(copy, "control/cooldown", [9216 + 2 * 640])
    measured_at(copy, "variant/cooldown", [10240, 11264])
    measured_at(copy, "trunk/cooldown", [10240])
    found = comparison(copy)
    between = [[p.position if p else None for p in row.points] for row in found.rows if row.position > 9216][:-1]
    assert between == [[10240, 10240, 10496]]  # nobody is at or next to 11,264
    measured_at(copy, "control/cooldown", [9216 + 640, 10240])  # next to the others, and where they are
    between = [row for row in comparison(copy).rows if row.position > 9216][:-1]
    assert [[p.position if p else None for p in row.points] for row in between] == [[10240, 10240, 10240]]


def test_a_row_of_evaluations_that_lie_apart_is_noted(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (copy / "stages/control.yaml").write_text(CONTROL.replace("until: 12288", "until: 12288, batch: 20 sequences"))
    shutil.rmtree(copy / "runs/full/control")
    measured_at(copy, "control/cooldown", [9216 + 2 * 640])
    text = commands.run("compare", *NAMES, *FULL, "--no-fill", folder=copy, check=True).stdout
    said = " ".join(text.split())
    assert "in 1 row between stage ends, the evaluations are up to 256 tokens apart" in said


def test_the_losses_at_stage_edges_have_the_same_rows_whichever_stage_measured_them(copy: Path) -> None:
    """Where a variant leaves a stage that trained on: measured there, at the variant's start, or not at all."""
    (copy / "stages/later.yaml").write_text(LATER)
    project = Project(copy)
    compiled = PreparedText.open(project, "later", "full").compiled

    def rows() -> list[tuple[str, int, bool]]:
        return [(row["label"], row["position"], bool(row["loss"])) for row in held_out.edges(project, compiled)]

    before = [("trunk/basic start", 0, True), ("end of trunk/basic", 6144, True)]
    after = [("end of later/later", 12288, False)]
    assert rows() == [*before, ("leaves trunk/continual", 8192, True), *after]
    measured_at(copy, "trunk/continual", [9216])
    assert rows() == [*before, ("leaves trunk/continual", 8192, False), *after]
    shown = Console(file=io.StringIO(), width=100)
    shown.print(result_view(held_out.edges(project, compiled), ["prose"]))
    assert re.search(r"leaves trunk/continual +8,192 +-\n", shown.file.getvalue())  # type: ignore[attr-defined]
    measured_at(copy, "later/later", [8192])
    assert rows() == [*before, ("leaves trunk/continual", 8192, True), *after]
    page = write.render(project, ["later"], "full")
    assert "leaves trunk/continual" in page
    assert "end of trunk/continual" not in page


def test_a_kept_checkpoint_at_the_very_position_of_another_s_end_stands_in_its_row(copy: Path) -> None:
    kept = [c.position for c in checkpoints.list_checkpoints(StageFolder(copy / "runs/full/trunk/continual"))]
    (copy / "stages/early.yaml").write_text(
        f"from: trunk/basic\nstages: [{{name: more, until: {kept[0]}, mixture: mixed}}]\n"
    )
    for measured in (copy / "runs/full/trunk/continual/evaluations").glob(f"*{kept[0]}.json"):
        measured.unlink()
    found = comparison(copy, "trunk", "early")
    assert found.rows[-1].points == (Point("trunk/cooldown", 12288), None)
    row = next(row for row in found.rows if row.ends == "more")
    assert row.points == (Point("trunk/continual", kept[0]), Point("early/more", kept[0]))


def test_the_end_of_the_trunk_is_no_end_that_two_variants_are_judged_at(copy: Path) -> None:
    (copy / "stages/early.yaml").write_text("from: trunk/basic\nstages: [{name: more, until: 6656, mixture: mixed}]\n")
    found = comparison(copy, "trunk", "early")
    assert found.shared_end(0, 1) is None
    assert [mark.verdict for mark in claims.check_claims(found) if "ends above" in mark.claim] == [claims.UNKNOWN]


def test_a_point_shared_by_variants_is_one_checkpoint(three: Path) -> None:
    row = next(row for row in comparison(three).rows if row.ends == "continual")
    assert row.points[1] == row.points[2] == Point("variant/continual", 9216)
    assert row.points[0] == Point("trunk/continual", 9216)


def test_what_only_a_variant_reads_is_its_domain_and_what_the_trunk_reads_is_general(three: Path) -> None:
    found = comparison(three)
    assert found.general == ("prose",)
    assert found.domains == ((), ("code",), ("code",))
    assert found.sources == ("prose", "code")


def test_tokens_since_the_trunk_are_the_trainer_s_own_count(three: Path) -> None:
    found = comparison(three)
    for compiled, tokens in zip(found.lineages, found.tokens, strict=True):
        last = compiled.stages[-1]
        end, begin = last.plan.windows_read(last.stop), compiled.stages[0].plan.windows_read(6144)
        planned = {n: 32 * (end[n] - begin.get(n, 0)) for n in end if end[n] > begin.get(n, 0)}
        assert tokens == planned
    assert sum(found.tokens[1].values()) == 6144


# --- what is refused ---


@pytest.mark.parametrize("names", [("trunk",), ("trunk", "trunk")])
def test_one_curriculum_is_not_compared_with_itself(three: Path, names: tuple[str, ...]) -> None:
    with pytest.raises(NotFound, match="two curricula or more, each once"):
        comparison(three, *names)


def test_against_a_name_that_is_not_compared_is_refused(three: Path) -> None:
    with pytest.raises(NotFound) as refused:
        comparison(three, "trunk", "variant", against="varian")
    assert "did you mean `variant`" in str(refused.value.hint)


def test_a_run_whose_files_were_edited_since_is_not_shown_under_the_new_plan_s_name(
    copy: Path, curriculum: Curriculum
) -> None:
    (copy / "mixtures/mixed.yaml").write_text("weights: {prose: 1, code: 1}\n")
    with pytest.raises(Drift, match=r"`variant/continual` was trained with another plan") as drift:
        comparison(copy)
    assert str(drift.value.place).startswith("mixtures/mixed.yaml:1")
    assert "`curriculum diff variant` compares" in str(drift.value.hint)
    refused = curriculum(copy, "compare", "trunk", "variant", *FULL, check=False)
    assert refused.returncode == 2
    assert "hint:" in refused.stderr


def test_what_was_measured_past_the_last_checkpoint_of_a_stage_that_was_edited_there_is_left_out(
    copy: Path, curriculum: Curriculum
) -> None:
    stage = copy / "runs/full/control/cooldown"
    (stage / "DONE").unlink()
    shutil.rmtree(stage / "checkpoints" / f"g0-{12288:016d}")
    saved = checkpoints.list_checkpoints(StageFolder(stage))[-1].position
    before = {point for point in comparison(copy).measured if point.stage == "control/cooldown"}
    assert max(point.position for point in before) > saved
    path = copy / "stages/control.yaml"
    path.write_text(path.read_text().replace("until: 12288", "until: 13312"))
    found = comparison(copy)
    assert {p for p in found.measured if p.stage == "control/cooldown"} == {p for p in before if p.position <= saved}
    (line,) = found.changed
    assert f"what it measured after {saved:,} tokens is left out" in line
    assert line in " ".join(curriculum(copy, "compare", *NAMES, "--no-fill").stdout.split())


@pytest.mark.promise("Prepared text that is missing here is no difference, to run, diff or compare")
def test_text_that_is_not_here_is_no_other_plan(copy: Path) -> None:
    before = comparison(copy)
    shutil.rmtree(copy / "data")
    after = comparison(copy)
    assert [row.points for row in after.rows] == [row.points for row in before.rows]
    assert after.measured.keys() == before.measured.keys()


# --- differences ---


@pytest.mark.promise(
    "Differences of variants are paired by window; losses on other text or other windows are not "
    "compared, and the reason is shown"
)
def test_a_difference_is_taken_window_by_window(three: Path) -> None:
    found = comparison(three)
    row = found.rows[-1]
    mine, base = (sets(three, "variant/cooldown", 12288)["prose"], sets(three, "trunk/cooldown", 12288)["prose"])
    figure = found.difference(row.points[1], row.points[0], "prose")
    assert figure is not None
    assert figure.mean == pytest.approx(mine["loss"] - base["loss"], abs=2e-6)
    documents = found.documents[mine["digest"], mine["windows"], 32]
    alone = [paired(np.array(entry["per_window"]), documents).error or 0 for entry in (mine, base)]
    assert figure.error is not None
    assert figure.error < max(alone)


@pytest.mark.promise(
    "Differences of variants are paired by window; losses on other text or other windows are not "
    "compared, and the reason is shown"
)
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"digest": "another"}, "the prepared text was not the same"),
        ({"windows": 3, "per_window": [1.0, 2.0, 3.0]}, "3 windows were measured"),
    ],
)
def test_losses_on_other_windows_are_not_compared_and_that_is_said(
    copy: Path, curriculum: Curriculum, change: dict[str, Any], reason: str
) -> None:
    path = copy / "runs/full/variant/cooldown/evaluations" / f"g0-{12288:016d}.json"
    value = json.loads(path.read_bytes())
    del value[fs.SEAL]
    value["sets"]["prose"].update(change)
    path.write_text(json.dumps(fs.seal(value)))
    found = comparison(copy)
    row = found.rows[-1]
    assert found.difference(row.points[1], row.points[0], "prose") is None
    assert found.difference(row.points[2], row.points[0], "prose") is not None
    shown = curriculum(copy, "compare", *NAMES, *FULL, "--no-fill").stdout
    assert re.search(rf"prose at variant/cooldown, 12,288 tokens is not compared.*{reason}", shown)


# --- filling ---


@pytest.mark.promise("A kept checkpoint measured later gives the trainer's own bits")
def test_a_filled_gap_has_the_very_bits_that_the_trainer_measured(copy: Path, curriculum: Curriculum) -> None:
    """Its own evaluations are taken away; what is measured again from the checkpoints must be the same file."""
    removed = {}
    for stage, position in (("trunk/basic", 6144), ("variant/continual", 9216), ("variant/cooldown", 12288)):
        path = copy / "runs/full" / stage / "evaluations" / f"g0-{position:016d}.json"
        removed[path] = path.read_bytes()
        path.unlink()
    for stage in ("trunk/continual", "variant/continual", "variant/cooldown", "control/cooldown"):
        for position in (6144, 9216):  # the same weights, measured where the next stage began
            path = copy / "runs/full" / stage / "evaluations" / f"g0-{position:016d}.json"
            if path not in removed and (stage, position) != ("trunk/continual", 9216):
                path.unlink(missing_ok=True)
    curriculum(copy, "compare", "variant", "control", "trunk", *FULL)
    for path, before in removed.items():
        after, known = json.loads(path.read_bytes()), json.loads(before)
        assert after["step"] == known["step"]
        for source, entry in known["sets"].items():
            assert after["sets"][source] == entry, (path, source)


@pytest.mark.promise(
    "Missing losses are measured from kept checkpoints, safe against Ctrl-C; a missing, damaged or "
    "unreached checkpoint is named"
)
def test_a_source_that_a_variant_never_measured_is_filled_from_its_kept_checkpoints(
    three: Path, filled: Path, curriculum: Curriculum
) -> None:
    assert "code" not in sets(three, "trunk/cooldown", 12288)
    known, now = sets(three, "trunk/cooldown", 12288), sets(filled, "trunk/cooldown", 12288)
    assert now["prose"] == known["prose"]
    assert now["code"]["loss"] > sets(filled, "variant/cooldown", 12288)["code"]["loss"]
    before = sorted(filled.rglob("attempts/*"))
    again = curriculum(filled, "compare", *NAMES, *FULL)
    assert sorted(filled.rglob("attempts/*")) == before, "what is measured is not measured again"
    assert "not measured" not in again.stdout


def test_without_filling_nothing_is_started_and_what_is_missing_is_said(copy: Path, curriculum: Curriculum) -> None:
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("evaluations/*")}
    shown = curriculum(copy, "compare", *NAMES, *FULL, "--no-fill").stdout
    assert "code at trunk/cooldown, 12,288 tokens: not measured" in shown
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("evaluations/*")} == before


@pytest.mark.promise(
    "Missing losses are measured from kept checkpoints, safe against Ctrl-C; a missing, damaged or "
    "unreached checkpoint is named"
)
def test_a_checkpoint_not_kept_damaged_or_not_reached_is_said_and_the_rest_is_compared(
    copy: Path, curriculum: Curriculum
) -> None:
    shutil.rmtree(copy / "runs/full/trunk/continual/checkpoints" / f"g0-{9216:016d}")
    damaged = next((copy / "runs/full/trunk/cooldown/checkpoints" / f"g0-{12288:016d}").glob("*.safetensors"))
    data = bytearray(damaged.read_bytes())
    data[-1] ^= 1
    damaged.write_bytes(data)
    shutil.rmtree(copy / "runs/full/control")
    shown = curriculum(copy, "compare", *NAMES, *FULL).stdout
    assert "code at trunk/continual, 9,216 tokens: no checkpoint is kept there" in shown
    assert re.search(r"code at trunk/cooldown, 12,288 tokens: .*holds other bytes than were saved", shown)
    assert re.search(r"control/cooldown, 12,288 tokens: not trained yet; `curriculum run control`", shown)
    assert "code" not in sets(copy, "trunk/cooldown", 12288)
    assert re.search(r"shown +variant: code falls after the branch", shown)


def test_a_checkpoint_of_another_plan_is_never_measured(copy: Path) -> None:
    """The job itself refuses, whatever wrote it."""
    from curriculum.artifacts import jobs

    attempt = copy / "attempt"
    attempt.mkdir()
    trunk, variant = copy / "runs/full/trunk/cooldown", copy / "runs/full/variant/cooldown"
    job = jobs.EvaluateJob(
        plan=str(trunk / "plan.json"),
        stage_folder=str(trunk),
        attempt_folder=str(attempt),
        checkpoint=str(variant / "checkpoints" / f"g0-{12288:016d}"),
        held_out={},
        machine=jobs.Machine(device="cpu", threads=1),
    )
    jobs.save(job, attempt / "job.json")
    assert jobs.load(attempt / "job.json") == job
    done = commands.python("-m", "runner", str(attempt / "job.json"), folder=copy)
    assert done.returncode == 2
    assert "another plan" in json.loads((attempt / "outcome.json").read_bytes())["message"]


@pytest.mark.promise(
    "Missing losses are measured from kept checkpoints, safe against Ctrl-C; a missing, damaged or "
    "unreached checkpoint is named"
)
def test_filling_that_is_interrupted_goes_on_to_the_same_figures(
    copy: Path, filled: Path, curriculum: Curriculum
) -> None:
    attempts, printed = copy / "runs/full/trunk/continual/attempts", copy / "printed"
    before, environment = set(attempts.iterdir()), {**os.environ, "OMP_NUM_THREADS": "1"}
    with printed.open("w") as out:
        streams = {"out": out.fileno(), "err": out.fileno()}
        process = commands.start("compare", *NAMES, *FULL, folder=copy, environment=environment, fresh=True, **streams)
    until = time.monotonic() + 60
    while set(attempts.iterdir()) == before and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    code, said = process.wait(60), " ".join(printed.read_text().split())
    assert code == 130, said
    assert "resume with: curriculum compare trunk variant control" in said
    assert "code" not in sets(copy, "trunk/cooldown", 12288)
    curriculum(copy, "compare", *NAMES, *FULL)
    for stage, position in (("trunk/continual", 9216), ("trunk/cooldown", 12288)):
        assert sets(copy, stage, position) == sets(filled, stage, position)


def test_the_documents_of_a_difference_are_those_that_its_windows_are_of(three: Path) -> None:
    found = comparison(three)
    entry = sets(three, "variant/cooldown", 12288)["prose"]
    folder = PreparedText.open(Project(three), "variant", "full").folder("prose")
    held_out = Dataset.open(folder, split=HELD_OUT, sequence_length=32)
    windows = held_out.spread(64)
    names = [max(held_out.documents(window), key=lambda span: span.tokens).id for window in windows]
    assert entry["windows"] == len(windows) < held_out.windows
    assert found.held_out("prose") == (len(windows), len(set(names)))
    figure = found.difference(found.rows[-1].points[1], found.rows[-1].points[0], "prose")
    assert figure is not None
    assert figure.documents == len(set(names))


def test_without_the_text_that_was_measured_errors_count_windows_and_nothing_is_marked(copy: Path) -> None:
    shutil.rmtree(copy / "data" / "prose")
    found = comparison(copy)
    figure = found.difference(found.rows[-1].points[1], found.rows[-1].points[0], "prose")
    assert figure is not None
    assert (figure.documents, figure.low, figure.shown) == (None, None, False)
    assert [note.partition(":")[0] for note in found.few_documents() if "is not here" in note] == ["prose"]


def test_windows_of_another_length_are_not_compared() -> None:
    entry = {"digest": "one", "windows": 8, "tokens": 8 * 32, "per_window": [1.0] * 8}
    assert mismatch(entry, entry) is None
    assert "windows of 64 tokens" in (mismatch(entry, {**entry, "tokens": 8 * 64}) or "")

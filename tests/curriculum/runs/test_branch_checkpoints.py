"""The checkpoint that a branch needs: pinned before its file is written, or the nearest ones named."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lineages import branched
from projects import write_small_project

from curriculum import fs
from curriculum.artifacts import checkpoints
from curriculum.artifacts.stage_folder import StageFolder, checkpoint_name
from curriculum.compiler.compile import compile_curriculum
from curriculum.compiler.lineage import lineage, parse_address
from curriculum.config.project import Project
from curriculum.errors import CheckpointError, ConfigError
from curriculum.execution import import_model
from curriculum.runs.branch import Change, branch, write_branch, write_root


def trained(project: Project, curriculum: str, stage: str, positions: list[int]) -> Path:
    """A stage folder with checkpoints at the given positions, as a run leaves them."""
    folder = project.stage_folder("full", curriculum, stage)
    for position in positions:
        put_checkpoint(folder, position)
    return folder


def put_checkpoint(folder: Path, position: int) -> None:
    path = folder / "checkpoints" / checkpoint_name(0, position)
    path.mkdir(parents=True)
    (path / "state.json").write_text('{"history": "none"}')
    checkpoints.seal(path)


def test_branch_says_in_json_what_it_wrote_and_kept(
    small_project: Path, curriculum: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    put_checkpoint(Project(small_project).stage_folder("full", "trunk", "basic"), 4096)
    words = ("branch", "trunk@4096", "mine", "--mixture", "mixed", "--ramp", "512 tokens", "--size", "full", "--json")
    said = json.loads(curriculum(small_project, *words).stdout)
    assert said["file"] == "stages/mine.yaml"
    assert said["text"] == (small_project / "stages/mine.yaml").read_text()
    assert said["leaves"] == {"stage": "trunk/basic", "position": 4096}
    assert said["checkpoint"] == checkpoint_name(0, 4096)
    assert said["comparison"]["parts"][0]["position"] >= 4096
    assert [stage["stage"] for stage in said["plan"]["stages"]] == ["basic", "basic", "continual", "cooldown"]


def test_a_branch_that_ends_earlier_keeps_the_checkpoints_up_to_there(tmp_path: Path) -> None:
    project = Project(write_small_project(tmp_path / "project"))
    trunk = project.root / "stages/trunk.yaml"
    trunk.write_text(trunk.read_text().replace("until: 9216}", "until: 9216, keep: [7k, 8k, 11k]}"))
    project = branched(Project(project.root), "trunk/basic", "mine", until="8000")
    assert [str(position) for position in lineage(project, "mine")[-1].setting.keep] == ["7k", "8k"]
    project = branched(project, "trunk@5k", "whole")
    assert [[str(p) for p in s.setting.keep] for s in lineage(project, "whole")[-2:]] == [["7k", "8k", "11k"]] * 2


@pytest.mark.promise(
    "`curriculum branch` writes the remaining stages of its parent; when it cannot be planned or written "
    "it leaves neither file nor pin, and without a checkpoint there it names the nearest addresses that "
    "have one"
)
def test_where_no_checkpoint_was_kept_the_nearest_before_and_after_are_named(tmp_path: Path) -> None:
    project = Project(write_small_project(tmp_path / "project"))
    folder = trained(project, "trunk", "basic", [2048, 4096, 6144])
    with pytest.raises(CheckpointError, match="2,048 before and 4,096 after") as refused:
        branched(project, "trunk@3000", "mine")
    assert refused.value.hint is not None
    assert "trunk@" in refused.value.hint
    assert checkpoints.pinned(StageFolder(folder)) == {}
    assert "mine" not in project.names("stages")


@pytest.mark.promise(
    "`curriculum branch` writes the remaining stages of its parent; when it cannot be planned or written "
    "it leaves neither file nor pin, and without a checkpoint there it names the nearest addresses that "
    "have one"
)
@pytest.mark.parametrize(
    ("stage", "kept", "point", "proposed"),
    [
        ("basic", (512, 1536, 3072), "trunk@3333", "trunk@3k"),  # 1,792 at its boundary; steps of 256
        ("basic", (512, 3072), "trunk@5500", "trunk/basic"),
        ("basic", (3072,), "trunk@1k", "trunk/basic"),
        ("continual", (4608,), "trunk@7k", "trunk/basic"),
        ("cooldown", (6144,), "trunk@11k", "trunk/continual"),  # nothing is left to train after the end
    ],
)
def test_the_point_that_the_refusal_proposes_is_one_with_a_checkpoint(
    tmp_path: Path, stage: str, kept: tuple[int, ...], point: str, proposed: str
) -> None:
    project = Project(write_small_project(tmp_path / "project"))
    (project.root / "sizes.yaml").write_text("full: {}\nhalf: {tokens: 0.5}\n")
    project = Project(project.root)
    for name, positions in {"basic": (3072,), "continual": (4608,), stage: kept}.items():
        for position in positions:
            put_checkpoint(project.stage_folder("half", "trunk", name), position)
    with pytest.raises(CheckpointError) as refused:
        branched(project, point, "mine", size="half")
    assert refused.value.hint is not None
    assert refused.value.hint.split("`")[1] == proposed
    made = branch(Project(project.root), parse_address(proposed), "mine", Change(), "half")
    assert made.checkpoint is not None


def test_past_all_that_was_kept_but_the_end_no_point_is_proposed(tmp_path: Path) -> None:
    project = Project(write_small_project(tmp_path / "project"))
    put_checkpoint(project.stage_folder("full", "trunk", "basic"), 6144)
    with pytest.raises(CheckpointError, match="the nearest: 6,144 after") as refused:
        branched(project, "trunk@1k", "mine", until="2k")
    assert refused.value.hint is not None
    assert "as in" not in refused.value.hint


def test_a_branch_pins_its_checkpoint_before_the_stage_file_is_written(tmp_path: Path) -> None:
    project = Project(write_small_project(tmp_path / "project"))
    folder = trained(project, "trunk", "basic", [2048, 4096, 6144])
    branched(project, "trunk@4096", "mine")
    assert checkpoints.pinned(StageFolder(folder)) == {4096: ("mine",)}


@pytest.mark.promise(
    "`curriculum branch` writes the remaining stages of its parent; when it cannot be planned or written "
    "it leaves neither file nor pin, and without a checkpoint there it names the nearest addresses that "
    "have one"
)
def test_a_stage_file_that_cannot_be_written_leaves_no_pin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = Project(write_small_project(tmp_path / "project"))
    folder = trained(project, "trunk", "basic", [2048, 4096, 6144])
    write = fs.write_bytes

    def refused(path: Path, *rest: Any, **options: Any) -> None:
        if path.parent.name == "stages":
            assert checkpoints.pinned(StageFolder(folder)) == {4096: ("mine",)}
            raise PermissionError(13, "refused", str(path))
        write(path, *rest, **options)

    monkeypatch.setattr(fs, "write_bytes", refused)
    with pytest.raises(PermissionError):
        branched(project, "trunk@4096", "mine")
    assert checkpoints.pinned(StageFolder(folder)) == {}


@pytest.mark.parametrize("kind", ["branch", "root"])
def test_a_stage_file_that_cannot_be_written_leaves_no_mixture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    project = Project(write_small_project(tmp_path / "project"))
    folder = trained(project, "trunk", "basic", [2048, 4096, 6144])
    mixtures = {"mine": (project.root / "mixtures/mixed.yaml").read_text()}
    root = (project.root / "stages/trunk.yaml").read_text()
    variant = "from: trunk@4096\nstages:\n  - {name: more, until: 6144, mixture: mine}\n"
    write = fs.write_bytes

    def refused(path: Path, *rest: Any, **options: Any) -> None:
        if path.parent.name == "stages":
            assert (project.root / "mixtures/mine.yaml").exists()
            raise PermissionError(13, "refused", str(path))
        write(path, *rest, **options)

    def written() -> None:
        if kind == "branch":
            write_branch(project, parse_address("trunk@4096"), "mine", variant, "full", mixtures)
        else:
            write_root(project, "mine", root, "full", mixtures, compile_curriculum(project, "trunk", "full"))

    monkeypatch.setattr(fs, "write_bytes", refused)
    with pytest.raises(PermissionError):
        written()
    assert "mine" not in project.names("mixtures")
    assert checkpoints.pinned(StageFolder(folder)) == {}


def test_a_mixture_that_another_process_wrote_meanwhile_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = Project(write_small_project(tmp_path / "project"))
    text = (project.root / "mixtures/mixed.yaml").read_text()
    root = (project.root / "stages/trunk.yaml").read_text()
    write = fs.write_bytes

    def raced(path: Path, *rest: Any, **options: Any) -> None:
        path.write_text("weights: {code: 1}\n")
        write(path, *rest, **options)

    monkeypatch.setattr(fs, "write_bytes", raced)
    with pytest.raises(FileExistsError):
        write_root(project, "mine", root, "full", {"mine": text}, compile_curriculum(project, "trunk", "full"))
    assert (project.root / "mixtures/mine.yaml").read_text() == "weights: {code: 1}\n"


def test_a_checkpoint_that_is_deleted_while_it_is_being_pinned_leaves_no_pin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = Project(write_small_project(tmp_path / "project"))
    folder = trained(project, "trunk", "basic", [2048, 4096, 6144])
    pin = checkpoints.pin

    def too_late(folder: StageFolder, position: int, by: str) -> Path:
        shutil.rmtree(folder.checkpoint(0, position))
        return pin(folder, position, by)

    monkeypatch.setattr(checkpoints, "pin", too_late)
    with pytest.raises(CheckpointError, match="kept no checkpoint there"):
        branched(project, "trunk@4096", "mine")
    assert checkpoints.pinned(StageFolder(folder)) == {}
    assert "mine" not in project.names("stages")


def test_a_name_whose_run_is_still_there_is_refused_naming_the_folder(tmp_path: Path) -> None:
    project = Project(write_small_project(tmp_path / "project"))
    (project.runs / "full/mine/on").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"`runs/full/mine` holds the run of another `mine`"):
        branched(project, "trunk@4096", "mine")
    with pytest.raises(ConfigError, match=r"`runs/full/mine` holds the run"):
        import_model.draft(project, tmp_path, "mine", None, "1M")


def test_a_branch_ahead_of_a_started_run_is_pinned_for_the_trainer_to_keep(tmp_path: Path) -> None:
    project = Project(write_small_project(tmp_path / "project"))
    folder = trained(project, "trunk", "basic", [2048])
    made = branch(project, parse_address("trunk@3000"), "mine", Change(), "full")
    assert made.checkpoint is None
    assert checkpoints.pinned(StageFolder(folder)) == {3072: ("mine",)}

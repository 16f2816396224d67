"""Which checkpoints a prune may delete: never one that something continues from, whenever it is asked or killed."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from projects import write_small_project

from curriculum import fs
from curriculum.artifacts import benchmarks, checkpoints
from curriculum.artifacts.stage_folder import StageFolder, checkpoint_name, stage_folders
from curriculum.compiler.compile import compile_curriculum
from curriculum.compiler.kept_positions import kept_positions
from curriculum.compiler.lineage import parse_address
from curriculum.config.project import Project
from curriculum.errors import Busy, NotFound, PlanError
from curriculum.plan.stage import StagePlan
from curriculum.runs import retention
from curriculum.runs.branch import Change, branch

EVERY = range(1024, 12289, 1024)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project whose trunk and variant left a checkpoint every 1,024 tokens, as a run leaves them."""
    root = write_small_project(tmp_path / "project")
    for name in ("trunk", "variant"):
        put_runs(Project(root), name)
    return Project(root)


def put_runs(project: Project, name: str) -> None:
    compiled = compile_curriculum(project, name, "full")
    for stage in compiled.stages:
        folder = project.stage_folder("full", stage.setting.curriculum, stage.setting.stage)
        if (folder / "plan.json").exists():
            continue
        folder.mkdir(parents=True)
        stage.plan.save(folder / "plan.json")
        for position in EVERY:
            if stage.plan.start < position <= stage.stop:
                put_checkpoint(folder, position, stage.plan.history(position))


def put_checkpoint(folder: Path, position: int, history: str) -> Path:
    path = folder / "checkpoints" / checkpoint_name(0, position)
    path.mkdir(parents=True)
    fs.write_json(path / "state.json", {"history": history})
    checkpoints.seal(path)
    return path


def kept(project: Project, keep_last: int = 1) -> dict[str, list[int]]:
    """Positions that a prune leaves, by stage."""
    stages: dict[str, list[int]] = {}
    for verdict in retention.survey(project, "full", keep_last=keep_last):
        if verdict.kept_by:
            stages.setdefault(verdict.stage, []).append(verdict.checkpoint.position)
    return stages


def test_stage_ends_and_the_newest_stay_and_the_rest_may_go(project: Project) -> None:
    assert kept(project) == {
        "trunk/basic": [6144],
        "trunk/continual": [9216],
        "trunk/cooldown": [12288],
        "variant/continual": [9216],
        "variant/cooldown": [12288],
    }
    assert kept(project, keep_last=2)["trunk/basic"] == [5120, 6144]


@pytest.mark.promise(
    "`prune` never deletes a checkpoint that a pin, a stage file or a started run needs, not even when killed or raced"
)
def test_what_a_stage_file_branches_from_stays(project: Project) -> None:
    (project.root / "stages/mine.yaml").write_text(
        "from: variant@2048\nstages:\n  - {name: on, until: 9000, mixture: mixed}\n"
    )
    assert kept(Project(project.root))["trunk/basic"] == [2048, 6144]


def test_where_the_arms_of_a_study_leave_stays_and_is_kept_while_it_is_trained(project: Project) -> None:
    (project.root / "studies").mkdir()
    study = project.root / "studies/more.yaml"
    study.write_text(
        "from: variant@2048\ntokens: 1024\nvary: {add: {sources: [code], share: 30%}}\ngoal: {lower: {code: 1}}\n"
    )
    again = Project(project.root)
    assert kept(again)["trunk/basic"] == [2048, 6144]
    assert reasons(again, "trunk/basic", 2048) == ("branched from by more",)
    compiled = compile_curriculum(again, "trunk", "full")
    assert 2048 in kept_positions(again, compiled.stages[0], compiled.scale)
    study.write_text("from: [trunk\n")
    with pytest.raises(PlanError, match=r"`studies/more.yaml` cannot be read"):
        retention.survey(Project(project.root), "full")


@pytest.mark.promise("A checkpoint that a scheduled benchmark still needs is not pruned")
def test_a_checkpoint_stays_until_each_task_that_is_asked_for_there_is_measured(project: Project) -> None:
    stages = project.root / "stages/trunk.yaml"
    text = stages.read_text()
    stages.write_text(
        text.replace("mixture: prose-only,", "mixture: prose-only, every: {tasks: {verse: 2048 tokens}},", 1)
    )
    assert text != stages.read_text()
    project = Project(project.root)
    assert kept(project)["trunk/basic"] == [2048, 4096, 6144]
    why = {v.checkpoint.position: v.kept_by for v in retention.survey(project, "full") if v.stage == "trunk/basic"}
    assert why[2048] == ("not measured yet: verse",)
    folder = project.stage_folder("full", "trunk", "basic")
    record = benchmarks.path_of(StageFolder(folder), checkpoint_name(0, 2048), "verse")
    record.parent.mkdir(parents=True)
    record.write_text("{}")
    assert kept(project)["trunk/basic"] == [4096, 6144]


@pytest.mark.promise(
    "`prune` never deletes a checkpoint that a pin, a stage file or a started run needs, not even when killed or raced"
)
def test_what_was_pinned_stays_even_when_its_stage_file_is_gone(project: Project) -> None:
    branch(project, parse_address("trunk@3000"), "mine", Change(), "full")
    (project.root / "stages/mine.yaml").unlink()
    assert kept(Project(project.root))["trunk/basic"] == [3072, 6144]


def reasons(project: Project, stage: str, position: int) -> tuple[str, ...]:
    found = retention.survey(project, "full")
    return next(v.kept_by for v in found if (v.stage, v.checkpoint.position) == (stage, position))


@pytest.mark.promise(
    "A pin without stage file and run is reported and can be released; never one that is just being written"
)
def test_a_pin_of_which_nothing_else_is_left_is_reported_and_can_be_released(project: Project) -> None:
    branch(project, parse_address("trunk@3000"), "mine", Change(), "full")
    assert reasons(Project(project.root), "trunk/basic", 3072) == ("branched from by mine",)
    with pytest.raises(PlanError, match=r"there is `stages/mine\.yaml`"):
        retention.release(project, "full", "mine")
    (project.root / "stages/mine.yaml").unlink()
    project = Project(project.root)
    assert reasons(project, "trunk/basic", 3072) == (
        "pinned by mine, whose stage file is gone (`curriculum prune --unpin mine` releases it)",
    )
    (project.runs / "other-size/mine").mkdir(parents=True)
    with pytest.raises(PlanError, match="there is `runs/other-size/mine`"):
        retention.release(project, "full", "mine")
    assert reasons(project, "trunk/basic", 3072) == ("branched from by mine",)
    (project.runs / "other-size/mine").rmdir()
    assert retention.release(project, "full", "mine") == {"trunk/basic": [3072]}
    assert kept(project)["trunk/basic"] == [6144]
    with pytest.raises(NotFound, match="`mine` pins nothing"):
        retention.release(project, "full", "mine")


@pytest.mark.promise(
    "A pin without stage file and run is reported and can be released; never one that is just being written"
)
def test_no_pin_is_released_between_its_writing_and_that_of_its_stage_file(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other of the two waits: it then finds the stage file, or has not found the pin yet."""
    write = fs.write_bytes
    folder = project.stage_folder("full", "trunk", "basic")

    def tried_meanwhile(path: Path, *rest: Any, **options: Any) -> None:
        if path.name == "mine.yaml":
            with pytest.raises(Busy, match="what pins checkpoints in"):
                retention.release(project, "full", "mine")
        write(path, *rest, **options)

    acquire = fs.Lock.acquire
    monkeypatch.setattr(fs, "write_bytes", tried_meanwhile)
    monkeypatch.setattr(fs.Lock, "acquire", lambda lock, **_: acquire(lock))  # without waiting
    branch(project, parse_address("trunk@3000"), "mine", Change(), "full")
    assert checkpoints.pinned(StageFolder(folder)) == {3072: ("mine",)}


def test_a_pin_is_not_released_once_a_stage_file_came_while_it_was_waited_for(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints.pin(StageFolder(project.stage_folder("full", "trunk", "basic")), 3072, "mine")
    pinning = checkpoints.pinning

    def written_before(folder: StageFolder) -> fs.Lock:
        (project.root / "stages/mine.yaml").write_text("from: trunk@3000\n")
        return pinning(folder)

    monkeypatch.setattr(checkpoints, "pinning", written_before)
    with pytest.raises(PlanError, match="still needs what it pins"):
        retention.release(project, "full", "mine")


def test_a_curriculum_is_no_reason_to_keep_its_own_checkpoints_but_where_a_stage_went_on(project: Project) -> None:
    assert reasons(project, "trunk/continual", 9216) == ("its stage's end", "among the newest of its stage")
    plan = project.stage_folder("full", "trunk", "basic") / "plan.json"
    later = StagePlan.load(plan)
    replace(later, steps=later.steps + 4).save(plan, replace=True)  # the stage was lengthened since
    put_checkpoint(plan.parent, 7168, "none")
    assert reasons(project, "trunk/basic", 6144) == ("branched from by variant",)
    shutil.rmtree(project.runs / "full/variant")
    (project.root / "stages/variant.yaml").unlink()
    assert reasons(Project(project.root), "trunk/basic", 6144) == ("a later stage of its own continued from it",)


def test_a_name_that_nothing_bears_is_refused_and_one_of_a_run_alone_is_known(project: Project) -> None:
    (project.runs / "full/held-out.svg").write_text("")  # no curriculum
    with pytest.raises(NotFound, match="unknown curriculum `varient`") as refused:
        retention.survey(project, "full", only="varient")
    assert refused.value.hint == "did you mean `variant`? there are: trunk, variant"
    (project.root / "stages/variant.yaml").unlink()
    assert len(retention.survey(Project(project.root), "full", only="variant")) > 1


@pytest.mark.promise(
    "`prune` never deletes a checkpoint that a pin, a stage file or a started run needs, not even when killed or raced"
)
def test_what_a_started_run_grew_out_of_stays_though_its_stage_file_and_pin_are_gone(project: Project) -> None:
    branch(project, parse_address("trunk@3000"), "mine", Change(), "full")
    put_runs(Project(project.root), "mine")
    (project.root / "stages/mine.yaml").unlink()
    shutil.rmtree(project.stage_folder("full", "trunk", "basic") / "pins")
    assert kept(Project(project.root))["trunk/basic"] == [3072, 6144]


def test_a_variant_that_cannot_be_planned_now_keeps_everything_it_may_come_from(project: Project) -> None:
    (project.root / "stages/mine.yaml").write_text(
        "from: trunk@2048\nstages:\n  - {name: on, until: 9000, mixture: nosuch}\n"
    )
    assert kept(Project(project.root))["trunk/basic"] == [1024, 2048, 3072, 4096, 5120, 6144]


def test_with_a_stage_file_that_cannot_be_read_nothing_is_judged(project: Project) -> None:
    (project.root / "stages/mine.yaml").write_text("from: [trunk\n")
    with pytest.raises(PlanError, match=r"`stages/mine.yaml` cannot be read"):
        retention.survey(Project(project.root), "full")


def test_a_checkpoint_that_cannot_be_read_is_left_for_verify(project: Project) -> None:
    folder = project.stage_folder("full", "trunk", "basic") / "checkpoints"
    (folder / checkpoint_name(0, 2048) / "state.json").write_text("{")
    assert kept(project)["trunk/basic"] == [2048, 6144]


def test_pruning_deletes_what_may_go_and_nothing_else(project: Project) -> None:
    expected = kept(project)
    verdicts = retention.survey(project, "full")
    deleted = retention.prune(verdicts)
    assert len(deleted) == len(verdicts) - sum(map(len, expected.values()))
    left = {
        folder.name: [c.position for c in checkpoints.list_checkpoints(folder)]
        for folder in stage_folders(project.runs / "full")
    }
    assert left == expected
    assert not list(project.runs.rglob(".removed-*"))


def test_one_curriculum_is_judged_alone_when_it_is_named(project: Project) -> None:
    assert {v.stage for v in retention.survey(project, "full", only="variant")} == {
        "variant/continual",
        "variant/cooldown",
    }


def test_a_pin_that_comes_after_the_survey_still_saves_its_checkpoint(project: Project) -> None:
    verdicts = retention.survey(project, "full")
    folder = project.stage_folder("full", "trunk", "basic")
    checkpoints.pin(StageFolder(folder), 2048, "late")
    deleted = [v.checkpoint.position for v in retention.prune(verdicts) if v.stage == "trunk/basic"]
    assert deleted == [1024, 3072, 4096, 5120]


@pytest.mark.promise(
    "`prune` never deletes a checkpoint that a pin, a stage file or a started run needs, not even when killed or raced"
)
def test_a_pin_that_comes_while_its_checkpoint_is_being_deleted_brings_it_back(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = project.stage_folder("full", "trunk", "basic")
    doomed = next(c for c in checkpoints.list_checkpoints(StageFolder(folder)) if c.position == 2048)
    set_aside = fs.set_aside

    def pinned_meanwhile(path: Path) -> Path:
        aside = set_aside(path)
        checkpoints.pin(StageFolder(folder), 2048, "late")
        return aside

    monkeypatch.setattr(fs, "set_aside", pinned_meanwhile)
    assert not checkpoints.discard(doomed)
    checkpoints.verify(doomed.path)


@pytest.mark.promise(
    "`prune` never deletes a checkpoint that a pin, a stage file or a started run needs, not even when killed or raced"
)
def test_a_pinned_checkpoint_that_a_killed_prune_set_aside_gets_its_name_back(project: Project) -> None:
    folder = project.stage_folder("full", "trunk", "basic")
    doomed = next(c for c in checkpoints.list_checkpoints(StageFolder(folder)) if c.position == 2048)
    other = next(c for c in checkpoints.list_checkpoints(StageFolder(folder)) if c.position == 3072)
    fs.set_aside(doomed.path)
    fs.set_aside(other.path)
    checkpoints.pin(StageFolder(folder), 2048, "late")
    checkpoints.sweep(StageFolder(folder))
    assert [c.position for c in checkpoints.list_checkpoints(StageFolder(folder))] == [1024, 2048, 4096, 5120, 6144]
    checkpoints.verify(doomed.path)
    assert not list((folder / "checkpoints").glob(".*"))


def test_a_stage_file_that_cannot_be_read_is_named_where_it_is(project: Project) -> None:
    (project.root / "stages/recipes").mkdir()
    (project.root / "stages/recipes/torn.yaml").write_text("stages: [")
    with pytest.raises(PlanError, match=r"`stages/recipes/torn\.yaml` cannot be read"):
        retention.survey(Project(project.root), "full")

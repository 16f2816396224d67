"""Edits under a run that has started: refused, accepted ahead of the last checkpoint, or free; with real small runs."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import commands
import pytest
from projects import BuiltOnce, write_prepared_project

from curriculum.artifacts import checkpoints
from curriculum.artifacts.stage_folder import StageFolder
from curriculum.compiler.compile import compile_resolved
from curriculum.compiler.lineage import parse_address, stages_to
from curriculum.compiler.prepared_text import PreparedText
from curriculum.compiler.resolve import resolve
from curriculum.config.project import Project
from curriculum.errors import Drift
from curriculum.plan.stage import StagePlan
from curriculum.report import notebook
from curriculum.runs.accept_change import check_started

Curriculum = Callable[..., "subprocess.CompletedProcess[str]"]
FULL = ("--size", "full")
WSD = "learning_rate: {shape: wsd, max: 1e-2, min: 1e-3, warmup: 2 steps, horizon: 12288, decay: 3072 tokens}"
COSINE = "learning_rate: {shape: cosine, max: 1e-2, min: 1e-3, warmup: 2 steps, horizon: 12288}"


def edit(project: Path, file: str, old: str, new: str) -> None:
    path = project / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.fixture(scope="session")
def half_way(built_once: BuiltOnce, finished: Path) -> Path:
    """`variant` done up to its first own stage, which was stopped where its second checkpoint lies; read only."""

    def build(project: Path) -> None:
        write_prepared_project(project, finished)
        edit(project, "stages/trunk.yaml", COSINE, WSD)
        # a second file names a position inside the stage: the checkpoint there is taken and kept
        (project / "stages/short.yaml").write_text("from: variant@8192\nstages: [{name: more, until: 8448}]\n")
        commands.run("run", "short", *FULL, folder=project, check=True)

    project = built_once("half-way", build)
    last = checkpoints.latest(StageFolder(project / "runs/full/variant/continual"))
    assert last is not None
    assert last.position == 8192
    return project


@pytest.fixture
def project(half_way: Path, tmp_path: Path) -> Path:
    shutil.copytree(half_way, tmp_path / "copy")
    return tmp_path / "copy"


def plan(project: Path, stage: str) -> StagePlan:
    return StagePlan.load(project / "runs/full" / stage / "plan.json")


def flat(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.promise(
    "An edit under a started run is refused, accepted ahead of the last checkpoint with the old plan "
    "kept, or free; edits of layout alone raise no alarm"
)
def test_an_edited_mixture_under_a_started_run_tells_what_from_where_how_much_and_the_way_out(
    project: Path, curriculum: Curriculum
) -> None:
    edit(project, "mixtures/mixed.yaml", "prose: 3, code: 1", "prose: 1, code: 1")
    before = (project / "runs/full/variant/continual/plan.json").read_bytes()
    refused = curriculum(project, "run", "variant", *FULL, check=False)
    said = flat(refused.stderr)
    assert refused.returncode == 2
    assert "`variant/continual` has started with another plan: the tokens read would change from step 24 on" in said
    assert "(6,144 tokens); after it code +" in said
    assert "prose -" in said
    assert "saved up to 8,192 tokens" in said
    assert "mixtures/mixed.yaml:1:10" in said
    assert "put the files back" in said
    assert "`from: trunk/basic`" in said
    assert (project / "runs/full/variant/continual/plan.json").read_bytes() == before
    assert curriculum(project, "run", "variant", *FULL, "--accept-change", check=False).returncode == 2


def test_the_point_that_a_refusal_proposes_is_the_nearest_checkpoint_before_the_change(
    project: Path, curriculum: Curriculum
) -> None:
    edit(
        project, "stages/variant.yaml", "ramp: 1536 tokens", "ramp: 1536 tokens, skip: [{from: 7500, to: 8000, why: x}]"
    )
    said = flat(curriculum(project, "run", "variant", *FULL, check=False).stderr)
    kept = checkpoints.list_checkpoints(StageFolder(project / "runs/full/variant/continual"))
    nearest = max(found.position for found in kept if found.position <= 7680)
    assert f"branches from the checkpoint at {nearest:,} tokens (`from: variant@7k`)" in said
    legs = stages_to(Project(project), parse_address("variant@7k"))
    assert compile_resolved(resolve(Project(project), "variant", "full", legs)).stages[-1].stop == nearest


def test_lengthening_a_ramp_that_has_started_is_refused_even_when_accepted(
    project: Path, curriculum: Curriculum
) -> None:
    edit(project, "stages/variant.yaml", "ramp: 1536", "ramp: 2048")
    refused = curriculum(project, "run", "variant", *FULL, "--accept-change", check=False)
    assert refused.returncode == 2
    assert "the tokens read would change from step" in flat(refused.stderr)
    assert "stages/variant.yaml" in refused.stderr


@pytest.mark.promise(
    "An edit under a started run is refused, accepted ahead of the last checkpoint with the old plan "
    "kept, or free; edits of layout alone raise no alarm"
)
def test_a_change_ahead_of_the_last_checkpoint_is_accepted_on_request_and_the_old_plan_kept(
    project: Path, curriculum: Curriculum
) -> None:
    edit(project, "stages/variant.yaml", "until: 9216", "until: 9728")
    old = plan(project, "variant/continual")
    refused = curriculum(project, "run", "variant", *FULL, check=False)
    assert refused.returncode == 2
    assert "the end would change from step 36 on (9,216 tokens)" in flat(refused.stderr)
    assert "--accept-change" in refused.stderr
    curriculum(project, "run", "variant", *FULL, "--accept-change")
    kept = StagePlan.load(project / "runs/full/variant/continual/plan-000.json")
    assert kept.fingerprint == old.fingerprint
    assert plan(project, "variant/continual").end == 9728
    assert json.loads((project / "runs/full/variant/cooldown/DONE").read_bytes())["position"] >= 12288
    lines = (project / "runs/full/variant/continual/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(24, 38))


def test_a_fall_of_the_learning_rate_that_is_ahead_may_be_moved(project: Path, curriculum: Curriculum) -> None:
    # wsd is still steady at every checkpoint: its fall begins at 9,216
    edit(project, "stages/trunk.yaml", "horizon: 12288", "horizon: 14336")
    curriculum(project, "run", "variant", *FULL, "--accept-change")
    assert plan(project, "variant/cooldown").learning_rate.horizon == 14336
    edit(project, "stages/trunk.yaml", "max: 1e-2", "max: 2e-2")
    refused = curriculum(project, "run", "variant", *FULL, "--accept-change", check=False)
    assert "`trunk/basic` has started with another plan: the learning rate would change from step 0" in flat(
        refused.stderr
    )


def checked(project: Path, name: str = "variant") -> None:
    """What `run` asks before it starts a process, with the text that is there."""
    found = Project(project)
    compiled = PreparedText.open(found, name, "full").compiled
    check_started(found, compiled, prepared=False)
    check_started(found, compiled)


@pytest.mark.promise(
    "An edit under a started run is refused, accepted ahead of the last checkpoint with the old plan "
    "kept, or free; edits of layout alone raise no alarm"
)
def test_a_stage_that_has_not_started_follows_the_files_freely(project: Path) -> None:
    edit(project, "stages/variant.yaml", "batch: 32 sequences", "batch: 16 sequences, mixture: prose-only")
    checked(project)
    edit(project, "stages/short.yaml", "until: 8448", "until: 8704")  # its own stage has started, and is done
    with pytest.raises(Drift):
        checked(project, "short")


def test_a_done_stage_is_never_changed(project: Path, curriculum: Curriculum) -> None:
    edit(project, "stages/trunk.yaml", "until: 6144", "until: 6400")
    refused = curriculum(project, "run", "trunk", *FULL, "--accept-change", check=False)
    assert refused.returncode == 2
    assert "`trunk/basic` has started with another plan: the end would change" in flat(refused.stderr)


@pytest.mark.promise(
    "An edit under a started run is refused, accepted ahead of the last checkpoint with the old plan "
    "kept, or free; edits of layout alone raise no alarm"
)
def test_an_edit_of_looks_alone_raises_no_alarm(project: Path, curriculum: Curriculum) -> None:
    (project / "mixtures/mixed.yaml").write_text(
        "# the shares of section 3\nabout: other words\nweights:\n  code: 25.0   # a quarter\n  prose: 75\n"
    )
    (project / "mixtures/prose-only.yaml").write_text("weights: {prose: 100.00}\n")
    edit(
        project,
        "stages/variant.yaml",
        "until: 9216, mixture: mixed, ramp: 1536 tokens",
        "mixture: mixed, ramp: 48 sequences, until: 9.216k",
    )
    edit(project, "stages/variant.yaml", "about: a variant that mixes code in\n", "")
    edit(project, "stages/trunk.yaml", "max: 1e-2, min: 1e-3", "min: 0.0010, max: 0.01")
    done = curriculum(project, "diff", "variant", *FULL)
    assert "nothing differs" in done.stdout
    checked(project)
    assert not list((project / "runs/full").rglob("plan-*.json"))


@pytest.mark.promise("An edit or another tokenizer under a started run is refused before any text is prepared")
@pytest.mark.parametrize("trained", [False, True], ids=["a new recipe", "another file"])
def test_a_tokenizer_changed_under_a_started_run_is_refused_before_any_text_is_prepared(
    project: Path, curriculum: Curriculum, trained: bool
) -> None:
    edit(project, "sources.yaml", "vocab_size: 300", "vocab_size: 290")
    texts = sorted((project / "data").glob("*/*/manifest.json"))
    assert texts
    if trained:  # the other tokenizer is there already: nothing at all is done
        other = next((project / "data/tokenizers").rglob("tokenizer.json"))
        (project / "mine.json").write_bytes(other.read_bytes().replace(b'"[UNK]"', b'"[UNK]"') + b"\n")
        edit(project, "sources.yaml", "small: {train: [prose, code], vocab_size: 290}", "small: {path: mine.json}")
    attempts = len(list((project / "data/attempts").iterdir()))
    refused = curriculum(project, "run", "variant", *FULL, check=False)
    assert refused.returncode == 2
    assert "is not the one that `trunk/basic` was made with" in flat(refused.stderr)
    assert sorted((project / "data").glob("*/*/manifest.json")) == texts
    assert len(list((project / "data/attempts").iterdir())) == attempts + (0 if trained else 1)


@pytest.mark.promise("An edit or another tokenizer under a started run is refused before any text is prepared")
def test_an_edit_that_needs_new_text_is_refused_before_that_text_is_prepared(
    project: Path, curriculum: Curriculum
) -> None:
    shutil.copytree(project / "texts/code", project / "texts/more")
    edit(project, "sources.yaml", "  code:", "  more: {read: {folder: texts/more}, held_out: 25%}\n  code:")
    edit(project, "mixtures/mixed.yaml", "prose: 3, code: 1", "prose: 3, more: 1")
    refused = curriculum(project, "run", "variant", *FULL, check=False)
    assert refused.returncode == 2
    assert "the tokens read" in refused.stderr
    assert not (project / "data/more").exists()


@pytest.mark.promise("Prepared text that is missing here is no difference, to run, diff or compare")
def test_text_that_is_merely_not_here_is_prepared_again_and_is_no_drift(project: Path, curriculum: Curriculum) -> None:
    shutil.rmtree(project / "data")
    curriculum(project, "run", "variant", *FULL)
    assert not list((project / "runs/full").rglob("plan-*.json"))


def test_diff_of_a_name_alone_is_against_what_ran(project: Path, curriculum: Curriculum) -> None:
    assert "nothing differs" in curriculum(project, "diff", "variant", *FULL).stdout
    edit(project, "mixtures/mixed.yaml", "prose: 3, code: 1", "prose: 1, code: 1")
    value = json.loads(curriculum(project, "diff", "variant", *FULL, "--json").stdout)
    assert [part["what"] for part in value["parts"]] == ["the tokens read"]
    assert value["parts"][0]["position"] == 6144
    assert value["shared"][0]["old"] == "trunk/basic"
    assert [(stage["stage"], stage["saved"]) for stage in value["ran"]] == [
        ("trunk/basic", 6144),
        ("variant/continual", 8192),
    ]
    assert value["same"] is False
    assert sum(entry["difference"] for entry in value["moved"]) == 0


def test_diff_of_a_curriculum_that_never_ran_says_so(small_project: Path, curriculum: Curriculum) -> None:
    assert "no stage of `variant` has started" in curriculum(small_project, "diff", "variant", *FULL).stdout


# --- questions that are asked after an edit ---


@pytest.mark.promise(
    "What a trained step read is answered from the plan that trained it, also after an edit; plan, "
    "status, branch and dry runs report the difference"
)
def test_what_a_step_read_is_reported_by_the_plan_that_trained_it_whatever_the_files_say_now(
    project: Path, curriculum: Curriculum
) -> None:
    asked = ("batch", "variant", "--step", "30", "--json")
    batch = curriculum(project, *asked).stdout
    slot = next(slot for slot in json.loads(batch)["slots"] if slot["source"] == "code")
    span = f"{slot['window']}:{slot['window'] + 1}"
    read = ("trace", "variant", "--source", "code", "--range", span, "--json")
    trace = curriculum(project, *read).stdout
    edit(project, "mixtures/mixed.yaml", "prose: 3, code: 1", "prose: 1, code: 1")
    after = curriculum(project, *asked)
    assert after.stdout == batch
    assert flat(after.stderr) == (
        "note: `variant/continual` was trained with another plan than the files describe now; they differ in the "
        "tokens read from step 24 on (6,144 tokens). Shown is what was trained"
    )
    again = curriculum(project, *read).stdout
    trained = [
        next(stage for stage in json.loads(s)["stages"] if stage["stage"] == "continual") for s in (trace, again)
    ]
    assert trained[0]["readings_done"] > 0
    assert trained[0] == trained[1]
    shown = notebook.ProjectTables(project)
    with pytest.warns(UserWarning, match="Shown is what was trained"):
        rows = shown.plan("variant").batch(30)
    assert [row["window"] for row in rows] == [slot["window"] for slot in json.loads(batch)["slots"]]


def test_an_edit_ahead_of_what_is_saved_is_shown_as_it_would_be(project: Path, curriculum: Curriculum) -> None:
    edit(project, "stages/variant.yaml", "until: 9216", "until: 9728")
    after = curriculum(project, "batch", "variant", "--step", "37")
    assert "step 37 of variant/continual" in after.stdout
    assert "was started with another plan" in after.stderr
    assert "the end from step 36 on" in after.stderr
    assert flat(after.stderr).endswith("Shown is what the files ask for")


@pytest.mark.promise(
    "What a trained step read is answered from the plan that trained it, also after an edit; plan, "
    "status, branch and dry runs report the difference"
)
def test_plan_status_and_branch_say_that_the_files_part_from_what_ran_and_a_dry_run_refuses_as_the_run_would(
    project: Path, curriculum: Curriculum
) -> None:
    edit(project, "mixtures/mixed.yaml", "prose: 3, code: 1", "prose: 1, code: 1")
    part = "they differ in the tokens read from step 24 on (6,144 tokens)"
    assert f"continual: was trained with another plan than the files describe now; {part}" in flat(
        curriculum(project, "plan", "variant").stdout
    )
    assert part in flat(curriculum(project, "status", "variant").stdout)
    stages = json.loads(curriculum(project, "status", "--json").stdout)["branches"]
    departed = {stage["name"]: stage["departed"] for branch in stages for stage in branch["stages"]}
    assert [name for name, words in departed.items() if words] == ["short/more", "variant/continual"]
    dry, wet = (curriculum(project, "run", "variant", *words, check=False) for words in (["--dry-run"], []))
    assert dry.returncode == wet.returncode == 2
    assert dry.stderr == wet.stderr
    assert not dry.stdout
    said = flat(curriculum(project, "branch", "trunk/basic", "half", "--mixture", "mixed").stdout)
    assert "note: `trunk" not in said
    said = flat(curriculum(project, "branch", "variant@8192", "more", "--until", "10k").stdout)
    assert "note: `variant/continual` was trained with another plan" in said


def test_a_plan_on_disk_that_cannot_be_read_leaves_questions_answerable(project: Path, curriculum: Curriculum) -> None:
    (project / "runs/full/trunk/basic/plan.json").write_text("{}")
    assert "not compared with what ran" in curriculum(project, "plan", "variant").stdout
    assert "not compared with what ran" in curriculum(project, "batch", "variant", "--step", "3").stderr
    assert curriculum(project, "run", "variant", check=False).returncode == 2


@pytest.mark.promise("Prepared text that is missing here is no difference, to run, diff or compare")
def test_text_that_is_not_here_makes_no_difference_to_diff(project: Path, curriculum: Curriculum) -> None:
    shutil.rmtree(project / "data")
    assert "nothing differs" in curriculum(project, "diff", "variant").stdout
    assert not curriculum(project, "batch", "variant", "--step", "30").stderr


def test_a_stage_that_grew_from_another_trunk_is_noticed_by_everybody(project: Path, curriculum: Curriculum) -> None:
    stored = plan(project, "variant/continual")
    assert stored.parent is not None
    other = replace(stored, parent=replace(stored.parent, fingerprint="0" * 64))
    other.save(project / "runs/full/variant/continual/plan.json", replace=True)
    for words in (["run", "variant", "--dry-run"], ["run", "variant"], ["compare", "trunk", "variant"]):
        refused = curriculum(project, *words, check=False)
        assert refused.returncode == 2, words
        assert "the history before" in flat(refused.stderr)
    assert "the history before" in curriculum(project, "status", "variant").stdout
    said = curriculum(project, "diff", "variant").stdout
    assert "variant/continual: started, saved up to 8,192; its parent was retrained" in flat(said)
    shutil.rmtree(project / "data")  # nor does it hide behind text that is not here
    refused = curriculum(project, "compare", "trunk", "variant", check=False)
    assert "its parent was retrained" in flat(refused.stderr)


def test_after_a_done_stage_was_lengthened_status_and_batch_tell_where_it_really_ended(
    project: Path, curriculum: Curriculum
) -> None:
    edit(project, "stages/trunk.yaml", "until: 6144", "until: 7168")
    assert "basic  done  at 6,144" in curriculum(project, "status", "trunk").stdout
    refused = curriculum(project, "batch", "trunk", "--step", "25", check=False)
    assert refused.returncode == 2
    said = flat(refused.stderr)
    assert "`trunk/continual` would begin elsewhere than that ended, and is not shown" in said
    assert "`trunk` has no step 25 hint: its steps are 0 to 23" in said

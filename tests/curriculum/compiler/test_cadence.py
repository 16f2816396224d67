"""Where a stage's tasks are measured, on the token clock; the training never depends on it."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import lineages
import pytest
from hypothesis import given, strategies as st
from projects import write_small_project

from curriculum.artifacts.checkpoints import KEEP_LAST
from curriculum.compiler import cadence
from curriculum.compiler.compile import Compiled, compile_curriculum, compile_resolved
from curriculum.compiler.kept_positions import kept_positions
from curriculum.compiler.lineage import parse_address, stages_to
from curriculum.compiler.resolve import resolve
from curriculum.compiler.summary import summarise
from curriculum.config.init import init
from curriculum.config.project import Project
from curriculum.errors import ConfigError, PlanError
from curriculum.execution import benchmark
from curriculum.plan.stage import StagePlan
from curriculum.runs.measurements import Gap

PAGE = Path(__file__).resolve().parents[3] / "docs/rehearsal.md"
ASKED = "every: {evaluate: 2048 tokens, checkpoint: 1024 tokens, tasks: {quiz: 2k, riddle: 4096 tokens}}"
PLAIN = "every: {evaluate: 2048 tokens, checkpoint: 1024 tokens}"


@pytest.fixture
def project(tmp_path: Path) -> Project:
    root = write_small_project(tmp_path / "project")
    sources = root / "sources.yaml"
    sources.write_text(sources.read_text().replace("held_out: 25%", "held_out: 25%, tokens: 8192"))
    return Project(root)


def compiled(project: Project, every: str) -> Compiled:
    path = project.root / "stages/trunk.yaml"
    path.write_text(re.sub(r"^every: .*$", every, path.read_text(), flags=re.MULTILINE))
    return compile_curriculum(Project(project.root), "trunk", "full")


def test_a_task_is_measured_at_the_step_boundary_past_each_multiple_and_at_the_stage_s_end(project: Project) -> None:
    basic, continual, cooldown = compiled(project, ASKED).stages
    assert cadence.task_positions(basic.plan, basic.task_every) == {
        "quiz": (2048, 4096, 6144),  # 2,000, 4,000 and 6,000 lie inside steps of 256 tokens
        "riddle": (4096, 6144),
    }
    assert cadence.task_positions(continual.plan, continual.task_every) == {
        "quiz": (8192, 9216),
        "riddle": (8192, 9216),
    }
    assert cadence.task_positions(cooldown.plan, cooldown.task_every)["quiz"] == (10240, 12288)


@given(st.integers(1, 30_000))
def test_positions_are_boundaries_in_order_that_miss_no_multiple_by_a_step(tokens: int) -> None:
    plan = PLANS[0]
    found = cadence.task_positions(plan, {"quiz": tokens})["quiz"]
    assert list(found) == sorted(set(found))
    assert found[-1] == plan.end
    assert all(plan.start < at <= plan.end and (at - plan.start) % plan.batch_tokens == 0 for at in found)
    for multiple in range((plan.start // tokens + 1) * tokens, plan.end + 1, tokens):
        assert any(0 <= at - multiple < plan.batch_tokens for at in found)


@given(st.integers(1, 30_000))
def test_a_trainer_is_due_at_exactly_the_boundaries_whose_step_reaches_a_multiple(every: int) -> None:
    plan = PLANS[0]
    ends = range(plan.start + plan.batch_tokens, plan.end + 1, plan.batch_tokens)
    due = [at for at in ends if at // every > (at - plan.batch_tokens) // every]
    assert list(cadence.boundaries(plan, every)) == due


@given(st.integers(1, 3000))
def test_a_trainer_whose_batch_grows_is_due_at_exactly_the_boundaries_whose_step_reaches_a_multiple(every: int) -> None:
    plan = GROWN[0]
    bounds = [plan.clock.position(step) for step in range(plan.steps + 1)]
    assert {end - begin for begin, end in pairwise(bounds)} == {8, 16, 48}
    due = [end for begin, end in pairwise(bounds) if end // every > begin // every]
    assert list(cadence.boundaries(plan, every)) == due


GROWN: list[StagePlan] = []
PLANS: list[StagePlan] = []
ROOTS: list[Path] = []


@pytest.fixture(autouse=True, scope="module")
def _a_plan_that_begins_late(tmp_path_factory: pytest.TempPathFactory) -> None:
    root = write_small_project(tmp_path_factory.mktemp("plans") / "project")
    sources = root / "sources.yaml"
    sources.write_text(sources.read_text().replace("held_out: 25%", "held_out: 25%, tokens: 8192"))
    ROOTS.append(root)
    PLANS.append(compile_curriculum(Project(root), "trunk", "full").stages[1].plan)
    batch = "batch: {from: 2 sequences, at: {500 tokens: 4 sequences, 1000 tokens: 12 sequences}}"
    grown = lineages.BASE["stages/root.yaml"].replace("batch: 5 sequences", batch)
    GROWN.append(compile_curriculum(lineages.project_of({"stages/root.yaml": grown}), "root", "full").stages[0].plan)


def test_a_checkpoint_is_kept_wherever_a_task_is_measured_and_the_plan_counts_it(project: Project) -> None:
    before = compile_curriculum(project, "trunk", "full")
    found = compiled(project, ASKED)
    at = Project(project.root)
    assert kept_positions(at, found.stages[0], found.scale) == (2048, 4096)
    machine = at.machine("local")
    assert summarise(at, found, "local", machine)["cost"]["checkpoints_kept"] == (
        summarise(at, before, "local", machine)["cost"]["checkpoints_kept"] + 2  # elsewhere it is one of the last two
    )
    assert summarise(at, found, "local", machine)["stages"][0]["tasks"]["quiz"] == {"every": 2000, "times": 3}


def test_what_is_measured_changes_no_plan(project: Project) -> None:
    before = [stage.plan.fingerprint for stage in compile_curriculum(project, "trunk", "full").stages]
    assert [stage.plan.fingerprint for stage in compiled(project, ASKED).stages] == before


def test_a_cadence_that_would_fill_the_disk_is_refused(project: Project) -> None:
    path = project.root / "stages/trunk.yaml"
    path.write_text(path.read_text().replace("12288", "1_228_800").replace(PLAIN, ASKED.replace("2k", "1 step")))
    sources = project.root / "sources.yaml"
    sources.write_text(sources.read_text().replace("8192", "819200"))
    with pytest.raises(
        PlanError, match=r"measuring `quiz` every 1 step would keep 1,1\d\d checkpoints of stage `cooldown`"
    ):
        compile_curriculum(Project(project.root), "trunk", "full")


def test_a_size_s_ceiling_of_evaluations_holds_for_tasks_too(project: Project) -> None:
    (project.root / "sizes.yaml").write_text("full: {at_most: {evaluations: 1}}\n")
    found = compiled(project, ASKED).stages[0]
    assert cadence.task_positions(found.plan, found.task_every)["quiz"] == (6144,)
    assert any("`quiz` is measured every 6.144k tokens" in note for note in found.notes)
    (project.root / "sizes.yaml").write_text("full: {at_most: {evaluations: 4}}\n")
    assert compiled(project, ASKED).stages[0].task_every == {"quiz": 2000, "riddle": 4096}  # what it does not reach


def test_a_ceiling_of_checkpoints_leaves_every_nth_of_those_that_the_stage_asks_for(project: Project) -> None:
    (project.root / "sizes.yaml").write_text("full: {at_most: {checkpoints: 2}}\n")
    basic, continual, cooldown = compile_curriculum(Project(project.root), "trunk", "full").stages
    assert (basic.checkpoint_every, basic.notes[0]) == (
        3072,  # of 1,024 each, half of the stage's 6,144
        "`every: checkpoint` becomes 3.072k tokens: at most 2 a stage at this size",
    )
    assert [stage.checkpoint_every for stage in (continual, cooldown)] == [2048, 2048]


def test_a_ceiling_of_evaluations_spreads_them_evenly_over_each_stage(project: Project) -> None:
    (project.root / "sizes.yaml").write_text("full: {at_most: {evaluations: 2}}\n")
    basic, continual, cooldown = compile_curriculum(Project(project.root), "trunk", "full").stages
    assert (basic.evaluate_every, basic.notes[0]) == (
        3072,
        "`every: evaluate` becomes 3.072k tokens: at most 2 a stage at this size",
    )
    assert [stage.evaluate_every for stage in (continual, cooldown)] == [2048, 2048]


KEEPING = "every: {checkpoint: 512 tokens, keep: 2048 tokens}"


@pytest.mark.promise("A stage file says which checkpoints stay on disk, within the ceilings of the size")
def test_a_file_keeps_the_checkpoints_of_a_cadence_and_those_at_the_positions_that_it_names(project: Project) -> None:
    basic, continual, cooldown = compiled(project, f"{KEEPING}\nkeep: [3000, 9k]").stages
    assert basic.keep == (2048, 3072, 4096, 6144)  # 3,000 is inside a step of 256 tokens
    assert continual.keep == (8192, 9216)  # 9,000 too
    assert cooldown.keep == (10240, 12288)
    assert (basic.checkpoint_every, basic.notes) == (512, ())


def test_a_stage_s_own_positions_replace_those_of_the_file(project: Project) -> None:
    path = project.root / "stages/trunk.yaml"
    path.write_text(path.read_text().replace("until: 9216", "until: 9216, keep: 7168"))
    basic, continual, cooldown = compiled(project, f"{PLAIN}\nkeep: [3072, 8192]").stages
    assert [basic.keep, continual.keep, cooldown.keep] == [(3072,), (7168,), ()]


@pytest.mark.parametrize(
    ("file", "old", "new", "where"),
    [
        ("trunk", "stages:\n", "keep: 13k\nstages:\n", "it holds after 0 and up to 12.29k"),
        ("trunk", "until: 9216", "until: 9216, keep: [7k, 6144]", "6.144k: it holds after 6.144k and up to 12.29k"),
        ("variant", "stages:\n", "keep: 5000\nstages:\n", "it holds after 6.144k and up to 12.29k"),
    ],
)
def test_a_position_outside_the_stages_that_it_holds_for_is_refused_where_it_stands(
    project: Project, file: str, old: str, new: str, where: str
) -> None:
    path = project.root / f"stages/{file}.yaml"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(PlanError, match=re.escape(where)) as refused:
        compile_curriculum(Project(project.root), file, "full")
    assert refused.value.place is not None
    assert "keep: " in refused.value.place.text


@given(st.integers(1, 12), st.integers(1, 40), st.integers(1, 40))
def test_no_more_checkpoints_are_taken_than_a_size_allows_however_many_are_to_stay(
    at_most: int, checkpoint: int, keep: int
) -> None:
    every = f"every: {{checkpoint: {checkpoint * 256} tokens, keep: {keep * 256} tokens}}"
    project = Project(ROOTS[0])
    (project.root / "sizes.yaml").write_text(f"full: {{at_most: {{checkpoints: {at_most}}}}}\n")
    for stage in compiled(project, every).stages:
        taken = {*cadence.boundaries(stage.plan, stage.checkpoint_every), *stage.keep} - {stage.plan.end}
        assert len(taken) <= at_most


@given(st.integers(1, 12), st.integers(1, 6), st.integers(1, 40))
def test_under_a_ceiling_the_cadence_is_the_shortest_that_is_as_stated_a_few_times_and_meets_what_stays(
    at_most: int, checkpoint: int, keep: int
) -> None:
    stated = checkpoint * 256
    every = f"every: {{checkpoint: {stated} tokens, keep: {keep * 256} tokens}}"
    project = Project(ROOTS[0])
    (project.root / "sizes.yaml").write_text(f"full: {{at_most: {{checkpoints: {at_most}}}}}\n")
    for stage in compiled(project, every).stages:
        length = stage.plan.end - stage.plan.start
        least, stays = (n * -(-length // (n * at_most)) for n in (stated, keep * 256))
        meets = [n for n in range(stated, stays + 1, stated) if stays % n == 0 and n >= least]
        assert stage.checkpoint_every == min(meets, default=stays)


def test_what_stays_is_every_nth_of_what_the_file_asks_for_and_the_cadence_meets_it(project: Project) -> None:
    (project.root / "sizes.yaml").write_text("full: {at_most: {checkpoints: 4}}\n")
    basic = compiled(project, "every: {checkpoint: 512 tokens, keep: 1024 tokens}").stages[0]
    assert (basic.checkpoint_every, basic.keep) == (2048, (2048, 4096, 6144))
    assert basic.notes == (
        "`every: checkpoint` becomes 2.048k tokens: at most 4 a stage at this size",
        "`every: keep` becomes 2.048k tokens: at most 4 a stage at this size",
    )


def test_a_cadence_of_checkpoints_that_stay_and_would_fill_the_disk_is_refused(project: Project) -> None:
    path = project.root / "stages/trunk.yaml"
    path.write_text(path.read_text().replace("12288", "1_228_800"))
    sources = project.root / "sources.yaml"
    sources.write_text(sources.read_text().replace("8192", "819200"))
    with pytest.raises(PlanError, match=r"keep: 1 step\w*}` would keep 1,1\d\d checkpoints of stage `cooldown`"):
        compiled(project, "every: {keep: 1 step}")


def test_checkpoints_that_stay_are_counted_in_their_stage_and_not_from_the_root() -> None:
    """The second stage has 1,200 steps, of which every other one stays."""
    second = "  - {name: second, until: 72k, every: {keep: 2 steps}}\n"
    root = lineages.BASE["stages/root.yaml"].replace("2000 tokens", "48k tokens") + second
    project = lineages.project_of({"stages/root.yaml": root})
    assert len(compile_curriculum(project, "root", "full").stages[1].keep) == 600


@pytest.mark.parametrize(
    ("stage", "size", "windows"),
    [
        ("", "{}", 1024),
        ("held_out_windows: 64", "{}", 64),
        ("", "{at_most: {held_out_windows: 48}}", 48),
        ("held_out_windows: 64", "{at_most: {held_out_windows: 48}}", 48),
        ("held_out_windows: 32", "{at_most: {held_out_windows: 48}}", 32),
    ],
)
def test_an_evaluation_reads_no_more_windows_than_the_stage_or_the_size_allows(
    stage: str, size: str, windows: int
) -> None:
    root = lineages.BASE["stages/root.yaml"].replace("stages:\n", f"{stage}\nstages:\n")
    project = lineages.project_of({"stages/root.yaml": root, "sizes.yaml": f"full: {size}\n"})
    assert compile_curriculum(project, "root", "full").stages[0].held_out_windows == windows


def test_the_branch_point_that_the_docs_show_is_among_what_a_rehearsal_keeps(tmp_path: Path) -> None:
    init(tmp_path / "shipped")
    shipped = Project(tmp_path / "shipped")
    command = re.search(r"^\$ curriculum branch (\S+@\S+) ", PAGE.read_text(), re.MULTILINE)
    assert command is not None
    point = compile_resolved(
        resolve(shipped, "v1.1", "rehearsal", stages_to(shipped, parse_address(command[1])))
    ).stages[-1]
    plan = point.plan
    every = [
        position
        for position in (plan.position_after(step) for step in range(plan.first_step, plan.stop_step - 1))
        if position % point.checkpoint_every < plan.batch_tokens
    ]
    assert point.stop in every[-KEEP_LAST:]
    assert len(every) <= 5


def test_a_cadence_without_a_length_is_refused_where_it_stands(project: Project) -> None:
    with pytest.raises(ConfigError, match=r"every\.tasks\.quiz") as refused:
        compiled(project, "every: {tasks: {quiz: 3}}")
    assert refused.value.place is not None
    assert str(refused.value.place).startswith("stages/trunk.yaml:9:")


def test_the_address_of_a_boundary_leads_back_to_it(project: Project) -> None:
    found = compiled(project, ASKED)
    for position, address in ((4096, "trunk/basic@4096"), (6144, "trunk/basic")):
        gap = Gap(compiled=found, stage=found.stages[0], position=position, checkpoint=None, names=())
        assert gap.address == parse_address(address)


def test_task_names_are_divided_by_commas() -> None:
    assert benchmark.names_of(["a,b", " c ", "a", ""]) == ("a", "b", "c")

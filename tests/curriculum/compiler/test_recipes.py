"""The shipped recipes: their published numbers come out of the plan, they rehearse, and none warns without cause."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from projects import write_small_project

from curriculum import fs
from curriculum.compiler.compile import Compiled
from curriculum.compiler.prepared_text import PreparedText
from curriculum.config import layout
from curriculum.config.init import init
from curriculum.config.project import Project
from curriculum.errors import ConfigError
from curriculum.plan.model import ModelConfig
from curriculum.runs.status import project_status

ROOT = Path(__file__).resolve().parents[3]
RECIPES = sorted(path.stem for path in (ROOT / "stages/recipes").glob("*.yaml"))
SHIPPED = ["v1.1", "v1.1-chinese", "v1.1-math-code", "v1.1-math-code-control"]


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Project:
    folder = tmp_path_factory.mktemp("shipped") / "project"
    init(folder)
    return Project(folder)


def planned(project: Project, name: str, size: str = "full") -> Compiled:
    return PreparedText.open(project, name, size).compiled


def test_a_new_project_has_the_recipes_and_their_mixtures(shipped: Project) -> None:
    assert RECIPES == ["continued", "minicpm", "smollm3"]
    assert {*RECIPES, *SHIPPED} == set(shipped.names("stages"))
    assert (shipped.root / "tasks/tinyllama-chinese.yaml").is_file()


@pytest.mark.promise("The published recipes compile to their published figures, to the token, and one trains")
def test_smollm3_has_its_released_configurations_steps_and_curve(shipped: Project) -> None:
    stages = planned(shipped, "smollm3").stages
    assert [stage.plan.steps for stage in stages] == [3_450_000, 748_000, 522_000]
    assert {stage.plan.batch_tokens for stage in stages} == {2_359_296}
    assert stages[-1].plan.end == 4_720_000 * 2_359_296
    assert ModelConfig.from_json(stages[0].plan.model).parameters == 3_075_098_624
    rate = stages[-1].plan.learning_rate
    assert rate.at(2000 * 2_359_296) == rate.at(stages[1].plan.end) == 2e-4
    assert rate.at(stages[2].plan.start + 261_000 * 2_359_296) == pytest.approx(1e-4)
    assert rate.at(stages[-1].plan.end) == 0
    assert [stage.shares["web"] for stage in stages] == [Fraction(n, 100) for n in (85, 75, 63)]


@pytest.mark.promise("The published recipes compile to their published figures, to the token, and one trains")
def test_minicpm_falls_over_the_last_tenth_while_better_data_comes_in(shipped: Project) -> None:
    stable, annealing = planned(shipped, "minicpm").stages
    assert stable.plan.batch_tokens == 3_932_160
    assert ModelConfig.from_json(stable.plan.model).parameters - 122_753 * 2304 == 2_442_057_984  # its Table 2
    assert "math" not in stable.shares
    assert annealing.shares["math"] > 0
    rate = annealing.plan.learning_rate
    assert rate.at(10**12) == pytest.approx(1.1e-3)
    assert rate.at(1_050_000_000_000) < 0.45 * 1.1e-3  # steep first
    assert rate.at(annealing.plan.end) == pytest.approx(1.1e-4)


@pytest.mark.promise("The published recipes compile to their published figures, to the token, and one trains")
@pytest.mark.parametrize("size", ["full", "rehearsal"])
def test_continued_pretraining_rises_to_its_first_height_and_falls_to_a_tenth_again(
    shipped: Project, size: str
) -> None:
    first, second = planned(shipped, "continued", size).stages
    high, low = (3e-4, 3e-5) if size == "full" else (3e-3, 3e-4)
    rate, plan = second.plan.learning_rate, second.plan
    assert first.plan.learning_rate.at(first.plan.end) == pytest.approx(low)
    top = max(rate.at(plan.position_after(step)) for step in (plan.first_step, plan.first_step + plan.steps // 99 + 1))
    assert top == pytest.approx(high, rel=0.01)
    assert rate.at(plan.start + (plan.end - plan.start) // 2) == pytest.approx((high + low) / 2, rel=0.02)
    assert rate.at(plan.end) == pytest.approx(low)
    assert second.shares == {"code": Fraction(3, 4), "web": Fraction(1, 4)}


@pytest.mark.promise("A size states the top of the learning rate; everything else of the curve keeps its ratio to it")
@pytest.mark.parametrize(
    ("name", "low"), [("v1.1-math-code", 3e-4), ("smollm3", 0.0), ("minicpm", 3e-4), ("continued", 3e-4)]
)
def test_a_rehearsal_falls_by_the_same_factor_as_the_full_size(shipped: Project, name: str, low: float) -> None:
    rate = planned(shipped, name, "rehearsal").stages[0].plan.learning_rate
    assert (rate.max, rate.min) == (3e-3, low)


def test_a_size_that_states_the_end_of_the_curve_too_is_read_as_before(shipped: Project, tmp_path: Path) -> None:
    root = shutil.copytree(shipped.root, tmp_path / "project")
    sizes = root / "sizes.yaml"
    sizes.write_text(sizes.read_text().replace("{max: 3e-3, ", "{max: 3e-3, min: 3e-4, "))
    for name in ("v1.1-math-code", "smollm3"):
        rate = planned(Project(root), name, "rehearsal").stages[0].plan.learning_rate
        assert (rate.max, rate.min) == (3e-3, 3e-4)
    fingerprints = [
        [stage.plan.fingerprint for stage in planned(project, "v1.1-math-code", "rehearsal").stages]
        for project in (shipped, Project(root))
    ]
    assert fingerprints[0] == fingerprints[1]


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_planned_for_a_laptop(shipped: Project, name: str) -> None:
    compiled = planned(shipped, name, "rehearsal")
    assert {stage.plan.batch_sequences for stage in compiled.stages} == {16}
    assert all(stage.steps_run > 20 for stage in compiled.stages)
    assert all(choice.stand_in for choice in compiled.sources.values())


def test_status_leaves_recipes_out_until_they_begin(shipped: Project, tmp_path: Path) -> None:
    project = Project(shutil.copytree(shipped.root, tmp_path / "project"))
    before = project_status(project, "rehearsal")
    assert [branch.name for branch in before.branches] == SHIPPED
    assert before.not_started == ("continued", "minicpm", "smollm3")
    folder = project.stage_folder("rehearsal", "minicpm", "stable")
    fs.make_directory(folder)
    planned(project, "minicpm", "rehearsal").stages[0].plan.save(folder / "plan.json")
    after = project_status(project, "rehearsal")
    assert "minicpm" in [branch.name for branch in after.branches]
    assert after.not_started == ("continued", "smollm3")
    assert not after.orphaned_runs
    assert [branch.name for branch in project_status(project, "rehearsal", "smollm3").branches] == ["smollm3"]


def test_two_files_of_one_name_are_refused_with_both_places(shipped: Project, tmp_path: Path) -> None:
    root = shutil.copytree(shipped.root, tmp_path / "project")
    shutil.copy(root / "stages/v1.1.yaml", root / "stages/recipes/v1.1.yaml")
    with pytest.raises(ConfigError, match=r"stages/recipes/v1\.1\.yaml and stages/v1\.1\.yaml"):
        planned(Project(root), "v1.1")
    assert layout.names(root, "stages").count("v1.1") == 1


TINY = """\
tiny:
  tokens: 2e-8
  batch: 8 sequences
  sequence_length: 32
  tokenizer: small
  model: {hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 4, num_key_value_heads: 2,
          intermediate_size: 64, vocab_size: 300}
  learning_rate: {max: 1e-2, min: 1e-3, warmup: 2 steps}
  stand_ins: {web: prose}
  at_most: {evaluations: 1, checkpoints: 1}
"""


@pytest.mark.promise("The published recipes compile to their published figures, to the token, and one trains")
def test_a_recipe_trains_to_its_end(tmp_path: Path, curriculum: Callable[..., CompletedProcess[str]]) -> None:
    project = write_small_project(tmp_path / "project")
    for part in ("stages", "mixtures"):
        shutil.copytree(ROOT / part / "recipes", project / part / "recipes")
    (project / "sizes.yaml").write_text(TINY)
    sources = project / "sources.yaml"
    own = "{read: {folder: texts/none}, held_out: 5%, tokens: 500B}"
    text = sources.read_text().replace("texts/code}, held_out: 25%", "texts/code}, held_out: 25%, tokens: 500B")
    sources.write_text(f"{text}  web: {own}\n  math: {own}\n")
    said = curriculum(project, "run", "continued", "--size", "tiny").stdout
    assert "end of continued/continue" in said
    assert (project / "runs/tiny/continued/continue/DONE").exists()
    assert (
        "in folders of stages/, not started: minicpm, smollm3" in curriculum(project, "status", "--size", "tiny").stdout
    )

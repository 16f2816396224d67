"""The shipped recipes: their published numbers come out of the plan, they rehearse, and none warns without cause."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from projects import write_small_project
from texts import write_texts

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
OLMO = ("", "-anneal-42", "-anneal-42069", "-anneal-666", "-average")
SHIPPED = ["v1.1", "v1.1-chinese", "v1.1-math-code", "v1.1-math-code-control"]


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Project:
    folder = tmp_path_factory.mktemp("shipped") / "project"
    init(folder)
    return Project(folder)


def planned(project: Project, name: str, size: str = "full") -> Compiled:
    return PreparedText.open(project, name, size).compiled


def test_a_new_project_has_the_recipes_and_their_mixtures(shipped: Project) -> None:
    olmo = [f"olmo2-{size}{end}" for size in ("1b", "7b") for end in OLMO]
    others = ["continued", "deepseek-llm", "llama3-405b", "minicpm", "smollm3", "tinyllama-v1.0"]
    assert sorted(RECIPES) == sorted([*others, *olmo])
    assert {*RECIPES, *SHIPPED} == set(shipped.names("stages"))
    assert (shipped.root / "tasks/tinyllama-chinese.yaml").is_file()


@pytest.mark.promise("The published recipes compile to their published figures, to the token, and one trains")
def test_smollm3_has_its_released_configurations_steps_and_curve(shipped: Project) -> None:
    stages = planned(shipped, "smollm3").stages
    assert [stage.plan.steps for stage in stages] == [3_450_000, 748_000, 522_000, 20_000, 22_000]
    assert {stage.plan.batch_tokens for stage in stages} == {2_359_296}
    assert stages[2].plan.end == 4_720_000 * 2_359_296
    assert [stage.plan.sequence_length for stage in stages] == [4096, 4096, 4096, 32768, 65536]
    assert [stage.plan.model["rope_theta"] for stage in stages] == [5e4, 5e4, 5e4, 2e6, 5e6]
    assert ModelConfig.from_json(stages[0].plan.model).no_rope == tuple(range(3, 36, 4))
    assert stages[0].plan.optimizer["decay_embeddings"] is False
    assert ModelConfig.from_json(stages[0].plan.model).parameters == 3_075_098_624
    rate = stages[2].plan.learning_rate
    assert rate.at(2000 * 2_359_296) == rate.at(stages[1].plan.end) == 2e-4
    assert rate.at(stages[2].plan.start + 261_000 * 2_359_296) == pytest.approx(1e-4)
    assert rate.at(stages[2].plan.end) == 0
    assert [stage.shares["web"] for stage in stages] == [Fraction(n, 1000) for n in (850, 750, 630, 518, 554)]
    for stage in stages[3:]:
        plan, risen = stage.plan, stage.plan.first_step + 999
        assert plan.lr(plan.first_step) == pytest.approx(2e-8)
        assert (plan.lr(risen), plan.lr(plan.stop_step - 1)) == (pytest.approx(2e-5), 0)
        middle = (risen + plan.stop_step - 1) // 2
        assert plan.lr(middle) == pytest.approx(1e-5, rel=1e-3)


@pytest.mark.promise("The published recipes compile to their published figures, to the token, and one trains")
def test_minicpm_falls_over_the_last_tenth_while_better_data_comes_in(shipped: Project) -> None:
    stable, annealing = planned(shipped, "minicpm").stages
    assert stable.plan.batch_tokens == 3_932_160
    assert ModelConfig.from_json(stable.plan.model).parameters - 122_753 * 2304 == 2_442_057_984  # its Table 2
    assert "math" not in stable.shares
    assert annealing.shares["math"] > 0
    rate = annealing.plan.learning_rate
    assert rate.at(10**12) == pytest.approx(1.1e-3)
    half = 5000 * 3_932_160
    assert [rate.at(10**12 + n * half) for n in (1, 2, 5)] == pytest.approx([1.1e-3 / 2**n for n in (1, 2, 5)])
    assert rate.at(annealing.plan.end) == pytest.approx(1.1e-3 * 0.5 ** (10**11 / half))


@pytest.mark.promise("The published recipes compile to their published figures, to the token, and one trains")
def test_deepseek_llm_falls_to_a_third_and_to_a_tenth(shipped: Project) -> None:
    (stage,) = planned(shipped, "deepseek-llm").stages
    rate = stage.plan.learning_rate
    assert stage.plan.batch_tokens == 2304 * 4096
    assert [stage.plan.lr(step) for step in (999, 1999, 2000)] == [2.1e-4, 4.2e-4, 4.2e-4]
    assert [rate.at(int(at * 1e12)) / 4.2e-4 for at in (1.6, 1.61, 1.8, 1.81)] == pytest.approx([1, 0.316, 0.316, 0.1])
    assert ModelConfig.from_json(stage.plan.model).parameters == 6_910_365_696
    assert not stage.notes


@pytest.mark.promise("The published recipes compile to their published figures, to the token, and one trains")
@pytest.mark.parametrize(
    ("name", "parameters", "steps", "left_at", "within", "second"),
    [
        ("olmo2-1b", 1_484_916_736, 1_907_359, 7.4487e-5, 5e-6, 23_852),
        ("olmo2-7b", 7_298_617_344, 928_646, 6.1499e-5, 3e-3, 11_931),
    ],
)
def test_olmo_2_leaves_its_cosine_early_and_falls_to_zero_three_times(
    shipped: Project, name: str, parameters: int, steps: int, left_at: float, within: float, second: int
) -> None:
    (first,) = planned(shipped, name).stages
    assert (ModelConfig.from_json(first.plan.model).parameters, first.plan.steps) == (parameters, steps)
    assert first.plan.lr(steps - 1) == pytest.approx(left_at, rel=within)
    orders = set()
    for seed in (42, 42069, 666):
        trunk, anneal = planned(shipped, f"{name}-anneal-{seed}").stages
        assert trunk.plan.fingerprint == first.plan.fingerprint
        assert anneal.plan.steps == second
        rate = anneal.plan.learning_rate
        assert rate.at(anneal.plan.start) == first.plan.lr(steps - 1)
        assert (rate.horizon - trunk.left_at, anneal.plan.lr(anneal.plan.stop_step - 1)) == (50 * 10**9, 0)
        assert {name: float(share) for name, share in anneal.shares.items()} == pytest.approx(
            {"math": 0.3621 / 1.0001, "web": 0.638 / 1.0001}, abs=1e-9
        )
        orders.add(anneal.plan.fingerprint)
    assert len(orders) == 3
    *_, average = planned(shipped, f"{name}-average").stages
    assert {member.fingerprint for member in average.plan.average} == orders
    assert {member.weight for member in average.plan.average} == {1}


@pytest.mark.promise("The published recipes compile to their published figures, to the token, and one trains")
def test_tinyllama_v1_0_is_one_cosine_over_its_own_steps(shipped: Project) -> None:
    (stage,) = planned(shipped, "tinyllama-v1.0").stages
    assert (stage.plan.steps, stage.plan.batch_tokens, stage.plan.end) == (1_430_512, 2**21, 3_000_001_101_824)
    assert (stage.plan.lr(1999), stage.plan.lr(1_430_511)) == (4e-4, 4e-5)
    assert float(stage.shares["slimpajama"]) == pytest.approx(0.693584)


@pytest.mark.promise("The published recipes compile to their published figures, to the token, and one trains")
def test_llama_3_doubles_its_batch_twice_and_its_window_once(shipped: Project) -> None:
    short, main = planned(shipped, "llama3-405b").stages
    assert (short.plan.batch_tokens, short.plan.sequence_length) == (2**22, 4096)
    assert [batch * main.plan.sequence_length for batch in main.plan.batches] == [2**23, 2**24]
    (change,) = main.plan.batch_changes
    assert 0 <= main.plan.position_before(main.plan.first_step + change.step) - 2_870_000_000_000 < 2**23
    assert main.plan.lr(7999) == pytest.approx(8e-5)
    assert 1_100_000 < main.plan.stop_step < 1_200_000


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
    ("name", "low"),
    [
        ("v1.1-math-code", 3e-4),
        ("smollm3", 0.0),
        ("minicpm", 3e-3 * 0.5 ** (10**11 / (5000 * 3_932_160))),
        ("continued", 3e-4),
        ("deepseek-llm", 3e-4),
    ],
)
def test_a_rehearsal_falls_by_the_same_factor_as_the_full_size(shipped: Project, name: str, low: float) -> None:
    rate = planned(shipped, name, "rehearsal").stages[0].plan.learning_rate
    assert (rate.max, rate.min) == (3e-3, pytest.approx(low, rel=1e-3))


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
    assert {stage.plan.batch_tokens for stage in compiled.stages if not name.startswith("llama3")} <= {16 * 128}
    assert all(stage.steps_run > 20 or stage.members or stage.name == "llama3-405b/short" for stage in compiled.stages)
    assert all(choice.stand_in for choice in compiled.sources.values())


def test_status_leaves_recipes_out_until_they_begin(shipped: Project, tmp_path: Path) -> None:
    project = Project(shutil.copytree(shipped.root, tmp_path / "project"))
    before = project_status(project, "rehearsal")
    assert [branch.name for branch in before.branches] == SHIPPED
    assert before.not_started == tuple(RECIPES)
    folder = project.stage_folder("rehearsal", "minicpm", "stable")
    fs.make_directory(folder)
    planned(project, "minicpm", "rehearsal").stages[0].plan.save(folder / "plan.json")
    after = project_status(project, "rehearsal")
    assert "minicpm" in [branch.name for branch in after.branches]
    assert after.not_started == tuple(name for name in RECIPES if name != "minicpm")
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
    shown = " ".join(curriculum(project, "status", "--size", "tiny").stdout.split())
    rest = ", ".join(name for name in RECIPES if name != "continued")
    assert f"in folders of stages/, not started: {rest}" in shown


TOY = """\
toy:
  tokens: 1e-8
  batch: 64 sequences
  sequence_length: 8
  tokenizer: small
  model: {hidden_size: 16, num_hidden_layers: 4, num_attention_heads: 2, num_key_value_heads: 2,
          intermediate_size: 32, vocab_size: 300}
  learning_rate: {max: 1e-2, warmup: 2 steps}
  stand_ins: {web: prose, math: sums}
  at_most: {evaluations: 1, checkpoints: 1, held_out_windows: 2}
"""
LONG = ("smollm3", "olmo2-1b-average", "olmo2-7b-average")


@pytest.mark.slow
@pytest.mark.promise("The published recipes compile to their published figures, to the token, and one trains")
def test_smollm3_and_both_olmo_2_rehearse_to_their_ends_long_windows_seeds_and_averages_included(
    tmp_path: Path, curriculum: Callable[..., CompletedProcess[str]]
) -> None:
    project = write_small_project(tmp_path / "project", texts=False)
    for part in ("stages", "mixtures"):
        shutil.copytree(ROOT / part / "recipes", project / part / "recipes")
    (project / "sizes.yaml").write_text(TOY)
    own = "{read: {folder: texts/none}, held_out: 5%, tokens: "
    sources = "tokenizers:\n  small: {train: [prose], vocab_size: 300}\nsources:\n"
    for name, declared, documents in (("prose", "2.5T", 200), ("code", "1T", 150), ("sums", "300B", 150)):
        write_texts(project / f"texts/{name}", documents, first=len(name) * 1000)
        sources += f"  {name}: {{read: {{folder: texts/{name}}}, held_out: 30%, tokens: {declared}}}\n"
    (project / "sources.yaml").write_text(f"{sources}  web: {own}2.5T}}\n  math: {own}300B}}\n")
    said = curriculum(project, "run", *LONG, "--size", "toy").stdout
    assert "set aside" not in said
    ends = ["smollm3/to-64k", *(f"{name}/average" for name in LONG[1:])]
    anneals = [f"olmo2-{size}-anneal-{seed}/stage2" for size in ("1b", "7b") for seed in (42, 42069, 666)]
    for stage in (*ends, *anneals):
        assert (project / "runs/toy" / stage / "DONE").exists(), stage
    model = fs.parse_json((project / "runs/toy/smollm3/to-64k/plan.json").read_bytes())["model"]
    assert (model["rope_theta"], model["max_position_embeddings"], model["no_rope"]) == (5e6, 128, 4)

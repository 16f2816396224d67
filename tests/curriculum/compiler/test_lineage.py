"""From a name to its whole history: what is inherited, what is an event, and where a branch leaves its parent."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from curriculum.compiler.lineage import Address, lineage, parse_address, stages_to
from curriculum.config import StageEntry
from curriculum.config.project import Project
from curriculum.errors import CurriculumError, NotFound, PlanError
from curriculum.units import Length

ROOT = Path(__file__).resolve().parents[3]
T = 10**12

Write = Callable[..., Project]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes curricula beside the shipped ones: `write(**{"mine": "from: …"})`; `_` in a name means `-`."""

    def written(**files: str) -> Project:
        for folder in ("stages", "mixtures"):
            shutil.copytree(ROOT / folder, tmp_path / folder, dirs_exist_ok=True)
        for name in ("sources.yaml", "sizes.yaml", "machines.yaml"):
            shutil.copy(ROOT / name, tmp_path)
        for name, text in files.items():
            (tmp_path / "stages" / f"{name.replace('_', '-')}.yaml").write_text(text)
        return Project(tmp_path)

    return written


def names(project: Project, curriculum: str) -> list[str]:
    return [f"{leg.setting.curriculum}/{leg.setting.stage}" for leg in lineage(project, curriculum)]


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("v1.1", Address("v1.1")),
        ("v1.1/basic", Address("v1.1", "basic")),
        ("v1.1@1.2T", Address("v1.1", None, 1_200_000_000_000)),
        ("v1.1/basic@10_000", Address("v1.1", "basic", 10_000)),
    ],
)
def test_an_address_names_a_curriculum_a_stage_and_a_position(text: str, meant: Address) -> None:
    assert parse_address(text) == meant


@pytest.mark.parametrize(
    "text", ["", "/", "v1.1/", "/basic", "v1.1@", "v1.1@1.2T@3", "../v1.1", "v1.1/a/b", "v1.1@-1", "V1", "a..b"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(NotFound, match="is not an address"):
        parse_address(text)


def test_a_variant_s_history_begins_at_the_root_of_its_parent(write: Write) -> None:
    assert names(write(), "v1.1-math-code") == ["v1.1/basic", "v1.1-math-code/continual", "v1.1-math-code/cooldown"]
    assert names(write(), "v1.1") == ["v1.1/basic", "v1.1/continual", "v1.1/cooldown"]


def test_a_stage_keeps_everything_it_does_not_state(write: Write) -> None:
    basic, continual, cooldown = (leg.setting for leg in lineage(write(), "v1.1-math-code"))
    for later in (continual, cooldown):
        assert later.seed == basic.seed == 3407
        assert later.model == basic.model
        assert later.tokenizer == "llama-2"
        assert later.optimizer == basic.optimizer
        assert later.learning_rate == basic.learning_rate
        assert later.every == basic.every
        assert later.sequence_length == 2048
        assert not later.own_learning_rate
    assert (basic.mixture, continual.mixture, cooldown.mixture) == ("slimpajama", "math-code", "math-code")
    assert [s.batch.amount for s in (basic, continual, cooldown)] == [896, 896, 3584]


def test_events_are_not_inherited(write: Write) -> None:
    project = write(
        mine="from: v1.1/basic\nstages:\n"
        "  - {name: a, until: 1.6T, mixture: math-code, ramp: 6B, optimizer: reset, positions: restart,"
        " skip: [{from: 1.55T, to: 1.56T}]}\n"
        "  - {name: b, until: 1.7T}\n"
    )
    a, b = (leg.setting for leg in lineage(project, "mine")[1:])
    assert a.ramp == Length(6 * 10**9, "tokens")
    assert (a.reset_optimizer, a.positions, len(a.skip)) == (True, "restart", 1)
    assert (b.ramp, b.reset_optimizer, b.positions, b.skip, b.rewarm) == (None, False, None, (), None)
    assert b.mixture == "math-code"


SAID = {
    "mixture": "chinese",
    "batch": "448 sequences",
    "sequence_length": "1024",
    "learning_rate": "{shape: constant, max: 1e-3}",
    "mask_documents": "true",
    "every": "{evaluate: 3B}",
    "keep": "[1.55T, 1.65T]",
    "held_out_windows": "64",
    "rope_theta": "5e6",
    "rope_scaling": "{rope_type: yarn, factor: 4, original_max_position_embeddings: 2048}",
}


@pytest.mark.parametrize("key", sorted(set(StageEntry.model_fields) - set(StageEntry.own)))
def test_what_is_not_a_stage_s_own_is_kept_by_the_next(write: Write, key: str) -> None:
    project = write(
        mine="from: v1.1/basic\nstages:\n"
        f"  - {{name: a, until: 1.6T, {key}: {SAID[key]}, positions: restart}}\n  - {{name: b, until: 1.7T}}\n"
    )
    basic, a, b = (leg.setting for leg in lineage(project, "mine"))
    assert getattr(b, key) == getattr(a, key) != getattr(basic, key)


def test_a_variant_s_own_optimizer_holds_also_when_its_state_is_reset(write: Write) -> None:
    project = write(
        mine="from: v1.1/basic\noptimizer: {name: adamw, weight_decay: 0.2}\nstages:\n"
        "  - {name: a, until: 1.6T, optimizer: reset}\n  - {name: b, until: 1.7T}\n"
    )
    basic, a, b = (leg.setting for leg in lineage(project, "mine"))
    assert float(basic.optimizer.weight_decay) == 0.1
    assert float(a.optimizer.weight_decay) == 0.2
    assert b.optimizer == a.optimizer


def test_tokens_are_counted_from_the_declared_end_of_what_comes_before(write: Write) -> None:
    project = write(mine="from: v1.1/basic\nstages:\n  - {name: a, tokens: 350B}\n  - {name: b, tokens: 1000 steps}\n")
    assert [leg.setting.until for leg in lineage(project, "mine")] == [
        1_500 * 10**9,
        1_850 * 10**9,
        1_850 * 10**9 + 1000 * 896 * 2048,
    ]


def test_a_branch_at_a_position_cuts_the_stage_that_contains_it(write: Write) -> None:
    project = write(mine="from: v1.1@1.2T\nstages:\n  - {name: a, tokens: 100B}\n")
    trunk, own = lineage(project, "mine")
    assert (trunk.setting.stage, trunk.cut) == ("basic", 1_200 * 10**9)
    assert own.setting.until == 1_300 * 10**9


def test_a_branch_at_a_stage_s_end_takes_the_whole_stage_whichever_way_it_is_said(write: Write) -> None:
    text = "from: {}\nstages:\n  - {{name: a, until: 1.6T}}\n"
    project = write(one=text.format("v1.1/basic"), two=text.format("v1.1@1.5T"), three=text.format("v1.1/basic@1.5T"))
    for name in ("one", "two", "three"):
        trunk, _ = lineage(project, name)
        assert (trunk.setting.stage, trunk.cut) == ("basic", None)


def test_a_branch_from_a_curriculum_without_a_stage_goes_on_from_its_end(write: Write) -> None:
    project = write(mine="from: v1.1\nstages:\n  - {name: more, tokens: 100B}\n")
    assert names(project, "mine") == ["v1.1/basic", "v1.1/continual", "v1.1/cooldown", "mine/more"]
    assert lineage(project, "mine")[-1].setting.until == 2_100 * 10**9


def test_a_branch_of_a_branch_has_one_history(write: Write) -> None:
    project = write(
        mine="from: v1.1-math-code/continual@1.7T\nstages:\n  - {name: a, tokens: 100B}\n",
        early="from: v1.1-math-code@1T\nstages:\n  - {name: a, tokens: 100B}\n",
    )
    assert names(project, "mine") == ["v1.1/basic", "v1.1-math-code/continual", "mine/a"]
    assert lineage(project, "mine")[1].cut == 1_700 * 10**9
    assert names(project, "early") == ["v1.1/basic", "early/a"]  # 1T is in the trunk of the variant


def test_the_legs_to_an_address_end_there(write: Write) -> None:
    project = write()
    assert [leg.setting.stage for leg in stages_to(project, parse_address("v1.1/continual"))] == ["basic", "continual"]
    (leg,) = stages_to(project, parse_address("v1.1@0.2T"))
    assert leg.cut == 200 * 10**9


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("v1.1@3T", "from 0 to 2T"),
        ("v1.1/basic@1.6T", "outside `v1.1/basic`, which runs from 0 to 1.5T"),
        ("v1.1@0", "`v1.1@0` is before the first step"),
    ],
)
def test_a_position_outside_the_parent_is_refused(write: Write, address: str, says: str) -> None:
    project = write(mine=f"from: {address}\nstages:\n  - {{name: a, tokens: 100B}}\n")
    with pytest.raises(PlanError, match=r"is outside|is before") as refused:
        lineage(project, "mine")
    assert says in refused.value.what
    assert refused.value.place is not None
    assert str(refused.value.place) == "stages/mine.yaml:1:7"


def test_a_circle_of_any_length_is_refused(write: Write) -> None:
    project = write(
        **{
            name: f"from: {parent}\nstages:\n  - {{name: s, tokens: 1B}}\n"
            for name, parent in zip("abc", "bca", strict=True)
        }
    )
    with pytest.raises(PlanError, match="a -> b -> c -> a"):
        lineage(project, "a")


def test_a_long_chain_of_branches_is_no_circle(write: Write) -> None:
    files = {
        f"n{i}": f"from: {f'n{i - 1}' if i else 'v1.1'}\nstages:\n  - {{name: s, tokens: 1B}}\n" for i in range(60)
    }
    assert len(lineage(write(**files), "n59")) == 63


def test_stating_the_same_seed_and_model_again_changes_nothing(write: Write) -> None:
    project = write(mine="from: v1.1/basic\nseed: 3407\nmodel: tinyllama-1.1b\nstages:\n  - {name: a, until: 1.6T}\n")
    assert lineage(project, "mine")[1].setting.seed == 3407


@pytest.mark.parametrize("end", ["tokens: 1e18", "tokens: 1e18 steps", "tokens: 1e18 sequences"])
def test_a_length_beyond_counting_is_a_refusal_with_its_place(write: Write, end: str) -> None:
    project = write(mine=f"from: v1.1/basic\nstages:\n  - {{name: a, {end}}}\n")
    with pytest.raises(CurriculumError) as refused:
        lineage(project, "mine")
    assert refused.value.place is not None
    assert refused.value.place.line == 3

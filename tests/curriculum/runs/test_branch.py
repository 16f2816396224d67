"""What `curriculum branch` writes, that it means what it shows, and what it refuses."""

from __future__ import annotations

import io
import random
from pathlib import Path

import lineages
import numpy as np
import pytest
from lineages import branched
from rich.console import Console

from curriculum.cli.view.plan import plan_view
from curriculum.compiler.compile import compile_curriculum, compile_resolved, spans
from curriculum.compiler.lineage import lineage, parse_address, stages_to
from curriculum.compiler.resolve import resolve
from curriculum.compiler.sources import PreparedInfo
from curriculum.compiler.summary import summarise
from curriculum.config.init import init
from curriculum.config.project import Project
from curriculum.errors import ConfigError, CurriculumError, NotFound, PlanError
from curriculum.plan.diff.compare import compare
from curriculum.plan.diff.timeline import Lineage
from curriculum.runs import folders
from curriculum.runs.branch import Change, draft
from curriculum.units import Length


@pytest.fixture
def shipped(tmp_path: Path) -> Project:
    init(tmp_path / "project")
    return Project(tmp_path / "project")


def stages_of(project: Project, name: str) -> list[tuple[str, int, str, str]]:
    """Name, end, mixture and batch of the stages that a curriculum's own file states."""
    return [
        (s.stage, s.until, s.mixture, str(s.batch))
        for s in (leg.setting for leg in lineage(project, name))
        if s.curriculum == name
    ]


@pytest.mark.promise(
    "`curriculum branch` writes the remaining stages of its parent; when it cannot be planned or written "
    "it leaves neither file nor pin, and without a checkpoint there it names the nearest addresses that "
    "have one"
)
def test_a_branch_keeps_the_stages_that_its_parent_has_left_with_the_new_mixture(shipped: Project) -> None:
    project = branched(shipped, "v1.1@1.2T", "mine", mixture="math-code", ramp="6B")
    assert stages_of(project, "mine") == [
        ("basic", 1_500_000_000_000, "math-code", "896 sequences"),
        ("continual", 1_850_000_000_000, "math-code", "896 sequences"),
        ("cooldown", 2_000_000_000_000, "math-code", "3584 sequences"),
    ]
    stages = compile_curriculum(project, "mine", "full").stages
    assert stages[1].ramp_sequences == 2_929_688
    assert [stage.ramp_sequences for stage in stages[2:]] == [0, 0]


def test_from_a_stage_s_end_the_branch_begins_with_the_next_stage(shipped: Project) -> None:
    project = branched(shipped, "v1.1/basic", "mine", mixture="math-code", ramp="6B")
    ours, theirs = (compile_curriculum(project, name, "full").stages for name in ("mine", "v1.1-math-code"))
    assert [stage.plan.fingerprint for stage in ours] == [stage.plan.fingerprint for stage in theirs]


@pytest.mark.parametrize("point", ["v1.1@1.2T", "v1.1/basic", "v1.1-math-code@1.6T", "v1.1-math-code@1T"])
def test_a_branch_that_changes_nothing_reads_the_same_tokens_at_the_same_rates(shipped: Project, point: str) -> None:
    project = branched(shipped, point, "mine")
    ours = compile_curriculum(project, "mine", "full").stages
    theirs = compile_curriculum(project, point.split("@")[0].split("/")[0], "full").stages
    assert ours[-1].stop == theirs[-1].stop
    assert ours[-1].plan.windows_read(ours[-1].stop) == theirs[-1].plan.windows_read(theirs[-1].stop)
    for stage in theirs:
        for step in (stage.plan.first_step, stage.plan.first_step + stage.steps_run - 1):
            mine = next(s for s in ours if s.plan.first_step <= step < s.plan.first_step + s.steps_run)
            assert mine.plan.lr(step) == stage.plan.lr(step)
            assert mine.plan.batch_sequences == stage.plan.batch_sequences
            assert (mine.plan.draws(step).window == stage.plan.draws(step).window).all()


def test_a_followed_ramp_is_shown_no_longer_than_its_stage(shipped: Project) -> None:
    project = branched(shipped, "v1.1-math-code@1.501T", "brief", until="1.502T")
    last = compile_curriculum(project, "brief", "full").stages[-1]
    assert last.ramp_sequences == last.plan.steps * last.plan.batch_sequences
    assert any("the ramp that it follows still has" in note for note in last.notes)


@pytest.mark.promise(
    "A branch inside a ramp that changes nothing draws what its parent draws, at every size, with any "
    "batch, from any depth"
)
@pytest.mark.parametrize("size", ["full", "pilot", "rehearsal"])
def test_a_branch_inside_a_ramp_that_changes_nothing_draws_what_its_parent_does(shipped: Project, size: str) -> None:
    chance = random.Random(size)
    theirs = compile_curriculum(shipped, "v1.1-math-code", size).stages
    ramp = theirs[1]
    for number in range(6):
        reached = chance.randint(0, ramp.ramp_sequences // ramp.plan.batch_sequences)
        at = folders.address_at(
            ramp.setting,
            ramp.plan,
            ramp.plan.start + (reached + 1) * ramp.plan.batch_tokens,
            compile_curriculum(shipped, "v1.1-math-code", size).scale,
        )
        project = branched(shipped, str(at), f"one-{number}", size)
        later = f"one-{number}@{Length(at.position + chance.randint(1, 5_000_000_000), 'tokens')}"
        project = branched(project, later, f"two-{number}", size)  # a branch of that branch
        project = branched(project, str(at), f"other-{number}", size, batch="1792 sequences")
        for name in (f"one-{number}", f"two-{number}"):
            ours = compile_curriculum(project, name, size).stages
            assert ours[-1].stop == theirs[-1].stop
            assert compare(spans(theirs), spans(ours)).same
            first = ours[2].plan
            for step in range(first.first_step, first.first_step + 25):
                plan = next(s.plan for s in theirs if s.plan.first_step <= step < s.plan.stop_step)
                assert (first.draws(step).window == plan.draws(step).window).all()
                assert (first.draws(step).source == plan.draws(step).source).all()
        other = compile_curriculum(project, f"other-{number}", size).stages[2].plan
        begin = (other.start - ramp.plan.start) // other.sequence_length
        sequences = np.arange(min(other.sequences, 4 * ramp.ramp_sequences, 100_000), dtype=np.int64)
        mine, parents = other.draws_at(sequences), ramp.plan.draws_at(sequences + begin)
        assert (mine.window == parents.window).all()  # twice the batch, the same sequences
        assert (mine.item == parents.item).all()


MANY_EVENTS = """\
seed: 7
model: {hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 4, num_key_value_heads: 2,
        intermediate_size: 64, vocab_size: 300}
tokenizer: small
sequence_length: 4
optimizer: {name: adamw, weight_decay: 0.1}
learning_rate: {shape: cosine, max: 1e-2, min: 1e-3, warmup: 2 steps, horizon: 100k}
stages:
  - {name: first, until: 1990, mixture: plain, batch: 5 sequences}
  - name: second
    until: 3010
    mixture: other
    ramp: 20 steps
    leave_out: [{source: a, shard: 1}]
    skip: [{from: 1991, to: 2080}, {from: 2005, to: 2045}, {from: 2960, to: 3000}]
  - {name: third, until: 3990, mixture: plain, ramp: 30 steps, batch: 7 sequences, optimizer: reset}
  - {name: fourth, until: 5000, mixture: other, learning_rate: {shape: constant, max: 2e-2}, rewarm: 10 steps}
  - {name: fifth, until: 6000, positions: restart, skip: [{from: 5100, to: 5200}]}
"""
"""Every event, at or near the edges of stages that are no step boundaries."""


@pytest.mark.promise(
    "A branch without options at, just before or just behind a stage's edge trains as its parent does from there on, "
    "at every size"
)
@pytest.mark.parametrize("size", ["full", "half", "coarse"])
@pytest.mark.parametrize("edge", [1990, 3010, 3990, 5000])
def test_a_branch_around_a_stage_s_edge_that_changes_nothing_trains_as_its_parent(edge: int, size: str) -> None:
    project = lineages.project_of(
        {
            "stages/root.yaml": MANY_EVENTS,
            "sizes.yaml": "full: {}\nhalf: {tokens: 0.5}\ncoarse: {tokens: 0.25, at_least: {ramp: 7 steps}}\n",
        }
    )

    def compiled(project: Project, name: str) -> Lineage:
        text = PreparedInfo(windows=90, digest="d", shards=(30, 30, 30))
        return spans(compile_resolved(resolve(project, name, size), prepared_info=lambda *_: text).stages)

    theirs = compiled(project, "root")
    token = {"full": 1, "half": 2, "coarse": 4}[size]
    step = 28 * token
    for position in range(edge - step - 2, edge + 2 * step + 2, token):
        drafted = project.with_draft("one", draft(project, parse_address(f"root@{position}"), "one", Change()))
        compared = compare(theirs, compiled(drafted, "one"))
        assert compared.same, (position, compared.parts)
        assert not compared.undecided
        if position % 3:
            continue
        for other in (position - step // 3, position + step // 3):  # a branch of that branch
            twice = drafted.with_draft("two", draft(drafted, parse_address(f"one@{other}"), "two", Change()))
            compared = compare(theirs, compiled(twice, "two"))
            assert compared.same, (position, other, compared.parts)


@pytest.mark.parametrize("position", [1985, 1995, 2000])
def test_a_branch_at_a_stage_s_edge_takes_its_own_changes_at_once(position: int) -> None:
    """At the start of `second`, whichever side of it is named: nothing of its ramp, skip or mixture is left."""
    project = lineages.project_of({"stages/root.yaml": MANY_EVENTS})
    change = Change(mixture="plain", until="3010")
    drafted = project.with_draft("one", draft(project, parse_address(f"root@{position}"), "one", change))
    stage = compile_curriculum(drafted, "one", "full").stages[1]
    assert stage.ramp_sequences == 0
    assert set(stage.plan.blends[0].weights) == {"a", "b"}
    assert len(stage.plan.pieces) == 1


def test_an_end_inside_the_ramp_of_the_stage_at_whose_start_a_branch_leaves_is_said(shipped: Project) -> None:
    project = branched(shipped, "v1.1-math-code@1500000001000", "brief", until="1.502T")
    last = compile_curriculum(project, "brief", "full").stages[-1]
    assert last.ramp_sequences == last.plan.steps * last.plan.batch_sequences
    assert any("the ramp that it follows still has" in note for note in last.notes)


def test_a_stage_that_has_no_step_left_after_the_branch_is_said_to_have_none(shipped: Project) -> None:
    project = branched(shipped, "v1.1@1499999999000", "mine")
    stages = compile_curriculum(project, "mine", "full").stages
    assert [stage.name for stage in stages] == ["v1.1/basic", "mine/continual", "mine/cooldown"]
    assert any("`mine/basic` has no step" in note for note in stages[1].notes)


def test_a_branch_inside_a_ramp_that_names_the_mixture_again_is_at_it_from_there(shipped: Project) -> None:
    project = branched(shipped, "v1.1-math-code@1.502T", "mine", mixture="math-code")
    first = compile_curriculum(project, "mine", "full").stages[2]
    assert first.ramp_sequences == 0
    assert [blend.ramp for blend in first.plan.blends] == [0]


def test_a_later_end_and_another_batch_are_written_where_they_begin(shipped: Project) -> None:
    project = branched(shipped, "v1.1@1.2T", "mine", batch="1792 sequences", until="1.9T", reset_optimizer=True)
    assert stages_of(project, "mine") == [
        ("basic", 1_500_000_000_000, "slimpajama", "1792 sequences"),
        ("continual", 1_850_000_000_000, "slimpajama", "1792 sequences"),
        ("cooldown", 1_900_000_000_000, "slimpajama", "3584 sequences"),
    ]
    resets = [leg.setting.reset_optimizer for leg in lineage(project, "mine")]
    assert resets == [False, True, False, False]


def test_an_earlier_end_leaves_the_stages_beyond_it_out(shipped: Project) -> None:
    project = branched(shipped, "v1.1@1.2T", "mine", until="1.3T")
    assert [(s[0], s[1]) for s in stages_of(project, "mine")] == [("basic", 1_300_000_000_000)]


def test_past_its_parent_s_end_a_branch_needs_an_end_of_its_own(shipped: Project) -> None:
    with pytest.raises(PlanError, match="has no stage left"):
        branched(shipped, "v1.1", "mine")
    project = branched(shipped, "v1.1", "mine", until="2.5T")
    assert stages_of(project, "mine") == [("continued", 2_500_000_000_000, "slimpajama", "3584 sequences")]


def test_what_a_variant_s_file_states_above_its_stages_is_repeated(shipped: Project) -> None:
    (shipped.root / "stages/odd.yaml").write_text(
        "from: v1.1/basic\nevery: {checkpoint: 1B}\n"
        "learning_rate: {shape: constant, max: 2e-4}\n"
        "stages:\n  - {name: on, until: 1.7T, rewarm: 2B}\n"
    )
    project = branched(Project(shipped.root), "odd@1T", "mine")
    first = next(leg.setting for leg in lineage(project, "mine") if leg.setting.stage == "on")
    assert first.learning_rate.shape == "constant"
    assert str(first.every.checkpoint) == "1B"
    assert str(first.rewarm) == "2B"


def test_two_stages_of_one_name_in_the_parent_s_lineage_get_two_names(shipped: Project) -> None:
    project = branched(
        shipped, "v1.1@1T", "one", batch="1792 sequences"
    )  # its first stage is called `basic`, as the trunk's
    project = branched(project, "one@0.5T", "two")
    assert [s[0] for s in stages_of(project, "two")] == ["basic", "basic-again", "continual", "cooldown"]
    project = branched(project, "v1.1@1T", "three")  # without a change it is one stage
    project = branched(project, "three@0.5T", "four", until="1.2T")
    assert [s[:2] for s in stages_of(project, "four")] == [("basic", 1_200_000_000_000)]


def test_a_plan_calls_two_stages_of_one_name_by_their_curricula_too(shipped: Project) -> None:
    project = branched(shipped, "v1.1@1.2T", "mine", mixture="math-code", ramp="6B")
    compiled = compile_curriculum(project, "mine", "rehearsal")
    summary = summarise(project, compiled, "local", project.machine("local"))
    console = Console(width=100, file=io.StringIO())
    with console.capture() as shown:
        console.print(plan_view({**summary, "harness_installed": True}, compiled, {}))
    lines = shown.get().splitlines()
    for begin in ("v1.1/basic ", "mine/basic ", "continual ", "cooldown "):
        assert len([line for line in lines if line.startswith(begin)]) == 2, begin  # stages, then sources
        assert any(line.startswith(f"  {begin.strip()}: `every: checkpoint`") for line in lines)
    assert any(line.startswith("ramp in mine/basic: ") for line in lines)


def test_a_position_is_written_without_losing_a_token(shipped: Project) -> None:
    text = draft(shipped, parse_address("v1.1@1200000000001"), "mine", Change())
    assert "from: v1.1@1200000000001\n" in text


@pytest.mark.promise(
    "`curriculum branch` writes the remaining stages of its parent; when it cannot be planned or written "
    "it leaves neither file nor pin, and without a checkpoint there it names the nearest addresses that "
    "have one"
)
@pytest.mark.parametrize(
    ("point", "name", "change", "error", "what"),
    [
        ("v1.1@1T", "v1.1-math-code", {}, ConfigError, "exists already"),
        ("v1.1@1T", "../mine", {}, NotFound, "cannot be the name"),
        ("v1.1@3T", "mine", {}, PlanError, "is outside `v1.1`"),
        ("v1.1@x", "mine", {}, NotFound, "not an address"),
        ("v1.1@1T", "mine", {"mixture": "nosuch"}, PlanError, "unknown mixture"),
        ("v1.1@1T", "mine", {"ramp": "600B"}, PlanError, "longer than its stage"),
        ("v1.1@1T", "mine", {"until": "soon"}, PlanError, "--until"),
        ("v1.1@1T", "mine", {"until": "0.9T"}, PlanError, "`--until 0.9T` leaves a branch at `v1.1@1T` no step"),
        ("v1.1", "mine", {"until": "1.9T"}, PlanError, "`--until 1.9T` leaves a branch at `v1.1` no step"),
        ("v1.1", "mine", {"until": "2000000001000"}, PlanError, "it starts at 2,000,"),
        ("v1.1@1T", "mine", {"batch": "many"}, ConfigError, "batch"),
    ],
)
def test_what_cannot_be_planned_is_refused_and_nothing_is_written(
    shipped: Project, point: str, name: str, change: dict[str, str], error: type[CurriculumError], what: str
) -> None:
    before = sorted(path.name for path in (shipped.root / "stages").iterdir())
    with pytest.raises(error, match=what):
        branched(shipped, point, name, **change)
    assert sorted(path.name for path in (shipped.root / "stages").iterdir()) == before
    assert not shipped.runs.exists()


@pytest.mark.parametrize("size", ["full", "pilot", "rehearsal"])
def test_the_address_of_a_step_boundary_is_short_and_leads_back_to_it(shipped: Project, size: str) -> None:
    chance = random.Random(size)
    compiled = compile_curriculum(shipped, "v1.1-math-code", size)
    for stage in compiled.stages:
        plan = stage.plan
        taken = {1, 2, plan.steps - 1, plan.steps, *(chance.randint(1, plan.steps) for _ in range(10))}
        for position in (plan.start + steps * plan.batch_tokens for steps in taken):
            address = folders.address_at(stage.setting, plan, position, compiled.scale)
            legs = stages_to(shipped, parse_address(str(address)))
            last = compile_resolved(resolve(shipped, "v1.1-math-code", size, legs)).stages[-1]
            assert (last.name, last.stop) == (stage.name, position)
    basic = compiled.stages[0]
    legs = stages_to(shipped, parse_address("v1.1@750B"))
    boundary = compile_resolved(resolve(shipped, "v1.1", size, legs)).stages[-1].stop
    half_way = folders.address_at(basic.setting, basic.plan, boundary, compiled.scale)
    assert str(half_way) == "v1.1@750B"


def test_a_refusal_cites_a_file_that_is_not_written_as_such(shipped: Project) -> None:
    with pytest.raises(PlanError) as refused:
        branched(shipped, "v1.1@1T", "mine", ramp="600B", mixture="math-code")
    assert str(refused.value.place).startswith("in the file that would be written, stages/mine.yaml:7:")


def test_mixtures_that_another_one_replaces_are_named_in_the_file(shipped: Project) -> None:
    """Also those of later stages, with their ramps and skips; a branch with the parent's mixtures names none."""
    stages = shipped.root / "stages/v1.1-math-code.yaml"
    assert "ramp: 6B" in stages.read_text()
    stages.write_text(stages.read_text().replace("until: 2T", "until: 2T, mixture: slimpajama, ramp: 1B"))
    text = draft(Project(shipped.root), parse_address("v1.1@1.2T"), "plain", Change(mixture="math-code"))
    assert "Left out" not in text
    project = Project(shipped.root)
    text = draft(project, parse_address("v1.1-math-code@1.6T"), "mine", Change(mixture="chinese"))
    assert "# Left out of `cooldown`, where `chinese` takes its place: {mixture: slimpajama, ramp: 1B}\n" in text
    assert "`continual`" not in text.partition("stages:")[2]
    text = draft(project, parse_address("v1.1/basic"), "mine", Change())
    assert "Left out" not in text
    assert stages_of(branched(project, "v1.1-math-code@1.6T", "mine", mixture="chinese"), "mine")[-1][2] == "chinese"

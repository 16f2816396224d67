"""The arms of a study: the curricula that a person would have written, and what their plans share."""

from __future__ import annotations

import re
import shutil
import time
from fractions import Fraction
from functools import cache
from pathlib import Path

import pytest
from projects import InProcess, write_small_project

import curriculum
from curriculum.compiler.compile import compile_curriculum
from curriculum.compiler.cost import tokens_evaluated
from curriculum.config.project import Project
from curriculum.errors import CurriculumError, DataError, NotFound, PlanError
from curriculum.runs.folders import stage_folder
from curriculum.studies import design
from curriculum.studies.arms import CompiledStudy, compile_study, expected_tokens, fix_design
from curriculum.studies.branch import branch_arm
from curriculum.studies.summary import summarise

ROOT = Path(__file__).resolve().parents[3]
QUESTIONS = [
    name for name in Project(ROOT).names("studies") if Project(ROOT).study(name)[0].vary is not None
]  # the others have no arms of their own
SIZES = ("rehearsal", "full")
CODE, MATH, WEB = "starcoder-python-jupyter", "proof-pile-2", "slimpajama"


@cache
def compiled(name: str, size: str = "rehearsal") -> CompiledStudy:
    return compile_study(Project(ROOT), name, size)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the shipped project, to write into."""
    for name in ("sources.yaml", "sizes.yaml", "machines.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("stages", "mixtures", "studies"):
        shutil.copytree(ROOT / name, tmp_path / name)
    return tmp_path


def asked(project: Path, text: str, size: str = "rehearsal") -> CompiledStudy:
    """The study of this text, compiled."""
    (project / "studies/mine.yaml").write_text(text)
    return compile_study(Project(project), "mine", size)


FOR = "for: v1.1-math-code/continual\n"
GOAL = f"goal: {{lower: {{{CODE}: 1}}}}\n"


# --- an arm is a curriculum ----------------------------------------------------------------------------------


@pytest.mark.promise("An arm of a study equals the curriculum that a person would have written, bit for bit")
@pytest.mark.parametrize("name", QUESTIONS)
def test_an_arm_written_as_files_has_the_plan_of_the_arm(name: str, project: Path) -> None:
    study = compile_study(Project(project), name, "rehearsal")
    written = 0
    trunks = set()
    for number, arm in enumerate(study.arms):
        if number % 4:
            continue
        trunks.add(arm.seed)
        branch_arm(study.study, arm, f"mine-{number}")
        again = compile_curriculum(Project(project), f"mine-{number}", "rehearsal")
        # Nothing is prepared here, so both are compiled by declared sizes.
        assert [stage.plan.fingerprint for stage in again.stages] == [
            stage.plan.fingerprint for stage in arm.compiled.stages
        ]
        written += 1
    assert written > 1
    assert len(trunks) == study.seeds


@pytest.mark.promise("An arm of a study equals the curriculum that a person would have written, bit for bit")
@pytest.mark.parametrize("size", SIZES)
def test_the_stated_control_is_the_stage_in_question_and_the_kept_one_its_parent_continued(size: str) -> None:
    study = compiled("domains", size)
    stage = compile_curriculum(Project(ROOT), "v1.1-math-code", size).stages[1]
    assert study.arm("stated").stage.plan.fingerprint == stage.plan.fingerprint
    trunk = compile_curriculum(Project(ROOT), "v1.1", size).stages[1]
    assert study.arm("kept").stage.plan.fingerprint == trunk.plan.fingerprint


@pytest.mark.parametrize("name", QUESTIONS)
def test_no_two_arms_are_the_same_and_their_files_depend_on_nothing_but_the_study(name: str) -> None:
    study = compiled(name)
    plans = [arm.stage.plan.fingerprint for arm in study.arms]
    assert len(set(plans)) == len(plans)
    again = compile_study(Project(ROOT), name, "rehearsal")
    assert [arm.draft for arm in again.arms] == [arm.draft for arm in study.arms]


@pytest.mark.parametrize("name", QUESTIONS)
def test_every_arm_measures_the_union_of_the_sources(name: str) -> None:
    study = compiled(name)
    assert study.sources
    for arm in study.arms:
        assert set(arm.compiled.sources) == set(study.sources)
        # what is measured is no part of what is learnt
        assert set(arm.stage.plan.blends[-1].weights) == set(arm.point.mixture.shares)


def test_a_source_that_no_mixture_reads_is_measured_in_every_arm(project: Path) -> None:
    study = asked(project, FOR + "vary: {share: {of: slimpajama, at: [10%, 50%]}}\ngoal: {lower: {skypile: 1}}\n")
    for arm in study.arms:
        assert "skypile" in arm.compiled.sources
        assert "skypile" not in arm.stage.plan.sources


@pytest.mark.parametrize("tokens", [512, 1024])
def test_a_swarm_of_short_arms_reads_every_source_that_it_gives_weight(tokens: int, tmp_path: Path) -> None:
    root = write_small_project(tmp_path, texts=False)
    (root / "studies").mkdir()
    text = f"from: trunk/basic\ntokens: {tokens}\nvary: {{mixture: {{around: mixed, runs: 8}}}}\n"
    (root / "studies/tiny.yaml").write_text(text + "goal: {lower: {code: 1}}\n")
    study = compile_study(Project(root), "tiny", "full", {"code": Fraction(1, 2), "prose": Fraction(1, 2)})
    assert len(study.of_role("swarm")) >= 6  # one may be a control as well
    for arm in study.arms:
        plan = arm.stage.plan
        assert {
            source for source, read in plan.windows_read(plan.end).items() if read > plan.read_before.get(source, 0)
        } == set(arm.point.mixture.shares), arm.name


def with_probe(project: Path) -> None:
    sources = project / "sources.yaml"
    sources.write_text(sources.read_text() + "\n  exam: {read: {folder: exam}, held_out: all}\n")


@pytest.mark.promise("Text that is held out as a whole is a goal of a study, and no mixture reads it")
def test_a_probe_is_measured_in_every_arm_and_has_no_text_to_train_on(project: Path) -> None:
    with_probe(project)
    study = asked(project, FOR + "vary: {mixture: {around: math-code}}\ngoal: {lower: {exam: 1}}\n")
    for arm in study.arms:
        assert arm.compiled.sources["exam"].probe
        assert arm.compiled.sources["exam"].windows == 0
        assert "exam" not in arm.stage.plan.sources
    assert "exam" not in study.limits.binding()
    assert summarise(study, "local", study.study.project.machine("local"))["cost"]["storage_bytes"]


def test_the_cost_counts_the_evaluations_of_a_proposal_that_has_no_plan_yet(project: Path) -> None:
    study = asked(project, FOR + "vary: {mixture: {around: math-code}}\nseeds: 1\n" + GOAL)
    found = summarise(study, "local", study.study.project.machine("local"))["cost"]
    each = {tokens_evaluated(arm.stage, arm.compiled) for arm in study.arms}
    assert len(each) == 1
    assert found["runs"] == len(study.arms) + study.replicates
    assert found["tokens_evaluated"] == found["runs"] * each.pop()


def test_the_cost_counts_the_workers_of_arms_that_were_measured_and_all_checkpoints_until_they_are_pruned(
    project: Path,
) -> None:
    study = asked(project, FOR + "vary: {mixture: {around: math-code}}\n" + GOAL)
    machine = study.study.project.machine("local")
    arm = study.arms[0]
    trunk, own = (stage_folder(arm.project, arm.compiled, stage) for stage in (arm.compiled.stages[0], arm.stage))
    seconds = []
    for folder, rate in ((trunk, 5000), (own, 1000)):
        folder.path.mkdir(parents=True)
        folder.metrics.write_text(f'{{"step": 1, "position": 8, "generation": 0, "tokens_per_second": {rate}}}\n')
        seconds.append([summarise(study, "local", machine, workers)["cost"]["seconds"] for workers in (1, 3)])
    (trunk_alone, trunk_of_three), (alone, of_three) = seconds
    assert trunk_alone == trunk_of_three == pytest.approx(alone / 5)
    assert of_three == pytest.approx(alone / 3)

    cost = summarise(study, "local", machine)["cost"]
    each = cost["kept_bytes"] // (len(study.of_role("control")) + study.replicates + study.seeds)
    ends = len(study.arms) + study.replicates + cost["trunks"]
    assert cost["storage_bytes"] >= ends * each > cost["kept_bytes"]


def test_a_probe_cannot_be_read_by_an_arm(project: Path) -> None:
    with_probe(project)
    text = "from: v1.1/basic\ntokens: 10B\nvary: {add: {sources: [exam, skypile], share: 30%}}\n" + GOAL
    with pytest.raises(PlanError, match="`exam` is held out as a whole: no arm can read it"):
        asked(project, text)


# --- replicates, trunks --------------------------------------------------------------------------------------


def test_replicates_of_a_point_read_the_same_amounts_in_other_orders() -> None:
    study = compiled("how-much-old")
    first, second, third = (study.arm(name).stage.plan for name in ("stated", "stated.2", "stated.3"))
    count = first.sequences
    assert first.items(count) == second.items(count) == third.items(count)
    assert len({first.fingerprint, second.fingerprint, third.fingerprint}) == 3
    assert study.arm("stated").stage.parent.plan.fingerprint == study.arm("stated.3").stage.parent.plan.fingerprint  # type: ignore[union-attr]


def test_arms_alternate_between_two_trunks_where_the_second_costs_less_than_a_quarter() -> None:
    study = compiled("domains")
    assert study.seeds == 2
    assert [arm.seed for arm in study.of_role("swarm")] == [1 + at % 2 for at in range(15)]
    assert [arm.seed for arm in study.of_role("control")] == [1, 2, 1] * 4
    first, second = (study.arm(name).compiled.stages for name in ("kept", "kept.2"))
    assert [stage.name for stage in second] == ["domains/seed-2.basic", "domains/kept.2"]
    assert second[0].plan.seed == first[0].plan.seed + 1
    assert (second[0].plan.start, second[0].stop) == (first[0].plan.start, first[0].stop)
    assert compiled("new-sources").seeds == 1  # its arms are short
    assert compiled("domains", "full").seeds == 1  # the trunk is the one that goes on


def test_without_a_branch_point_a_replicate_draws_other_initial_weights(project: Path) -> None:
    study = asked(project, "for: v1.1/basic\ntokens: 100B\nvary: {list: [slimpajama, math-code]}\n" + GOAL)
    seeds = [study.arm(name).stage.plan.seed for name in ("stated", "stated.2", "stated.3")]
    assert seeds == [3407, 3408, 3409]
    assert all(arm.compiled.stages[0] is arm.stage for arm in study.arms)


# --- repetition ----------------------------------------------------------------------------------------------


@pytest.mark.promise("An arm shorter than its stage repeats a source new to the lineage as the stage would")
@pytest.mark.parametrize("size", SIZES)
def test_a_shorter_arm_repeats_a_new_source_as_its_stage_would(project: Path, size: str) -> None:
    text = FOR + "vary: {mixture: {around: math-code}}\n" + GOAL
    shorter = asked(project, text + "tokens: 70B\n", size)
    for row in summarise(shorter, "local", shorter.study.project.machine("local"))["arms"]:
        if row["role"] == "control" and row["replicate"] == 1 and row["name"] != "kept":
            assert row["take"] == {CODE: pytest.approx(0.2), MATH: pytest.approx(0.2)}
            stood_for = row["passes_stood_for"]
            assert row["passes"][MATH] == pytest.approx(stood_for[MATH], rel=0.05 if size == "full" else 0.5)
    free = asked(project, text + "tokens: 70B\nrepetition: free\n", size)
    used, cut = (one.arm("stated").stage.plan.sources[MATH].windows for one in (free, shorter))
    assert cut == used // 5
    # what the branch point has read once stays whole
    assert len({one.arm("stated").stage.plan.sources[WEB].windows for one in (free, shorter)}) == 1


def test_a_shorter_arm_repeats_a_source_in_its_first_pass_as_its_stage_would(project: Path) -> None:
    sources = project / "sources.yaml"
    text = sources.read_text()
    assert text.count("tokens: 659B") == 1
    # 1.5T of the half that the trunk takes are read at the branch point
    sources.write_text(text.replace("tokens: 659B", "tokens: 3400B"))
    trunk = project / "mixtures/slimpajama.yaml"
    trunk.write_text(trunk.read_text() + "take: {slimpajama: 50%}\n")
    study = FOR + "vary: {mixture: {around: math-code}}\ntokens: 35B\nreplicates: 2\n" + GOAL
    shorter, free = (asked(project, study + more, "full") for more in ("", "repetition: free\n"))
    for compiled, near in ((shorter, True), (free, False)):
        rows = summarise(compiled, "local", compiled.study.project.machine("local"))["arms"]
        for row in (row for row in rows if row["name"] in ("kept.1", "kept.2", "stated.1", "stated.2")):
            assert (row["passes"][WEB] == pytest.approx(row["passes_stood_for"][WEB], rel=1e-4)) is near
            # a tenth of the half, also where the arm's own mixture states no part
            assert row["take"].get(WEB, 1) == (pytest.approx(0.05) if near else 0.5 if "kept" in row["name"] else 1)
        assert max(row["passes"][WEB] for row in rows) > (1.05 if near else 0.9)
    one, two = (shorter.arm(f"kept.{number}").first.plan.sources[WEB] for number in (1, 2))
    assert one.segments == two.segments
    assert two.reseeds != one.reseeds, "the orders differ, what is unread of the pass among them"


def test_a_shorter_arm_has_as_much_of_a_ramp_as_of_its_stage(project: Path) -> None:
    text = FOR + "vary: {mixture: {around: math-code}}\ntokens: 70B\n" + GOAL
    shorter, free = (asked(project, text + more, "full") for more in ("", "repetition: free\n"))
    whole = compiled("domains", "full").arm("stated").first.ramp_sequences
    assert whole > 0
    assert free.arm("stated").first.ramp_sequences == whole
    assert shorter.arm("stated").first.ramp_sequences == -(-whole // 5)
    assert shorter.arm("stated").entries[0]["ramp"] == "1.2B", "a fifth of 6B"
    for study, near in ((shorter, True), (free, False)):
        rows = summarise(study, "local", study.study.project.machine("local"))["arms"]
        row = next(row for row in rows if row["name"] == "stated")
        assert (row["passes"][MATH] == pytest.approx(row["passes_stood_for"][MATH], rel=1e-3)) is near
    assert "ramp" not in shorter.arm("kept").entries[0], "what goes on as before has none"


def test_a_ramp_that_is_varied_is_as_much_shorter_in_a_shorter_arm(project: Path) -> None:
    text = FOR + "vary: {ramp: [6B, 20B]}\ntokens: 70B\n" + GOAL
    study = asked(project, text, "full")
    varied = [arm for arm in study.arms if "ramp" in arm.point.settings]
    found = {str(arm.point.settings["ramp"]): arm.entries[0]["ramp"] for arm in varied}
    assert found == {"6B": "1.2B", "20B": "4B"}
    rows = summarise(study, "local", study.study.project.machine("local"))["arms"]
    for row in (row for row in rows if row["name"] != "kept"):
        assert row["passes"][MATH] == pytest.approx(row["passes_stood_for"][MATH], rel=1e-3)


def test_an_arm_as_long_as_its_stage_takes_whole_texts() -> None:
    for arm in compiled("domains").arms:
        assert "take:" not in "".join(arm.draft.mixtures.values())


# --- points --------------------------------------------------------------------------------------------------


def test_controls_that_are_the_same_are_one(project: Path) -> None:
    assert compiled("how-much-old").arm("stated").point.same_as == ("uniform",)
    names = {arm.point.name for arm in compiled("cooldown").arms}
    assert {"kept", "stated"} <= names
    assert not names & {"batch-896-rate-kept", "batch-3584-rate-kept"}  # they are the two controls
    fewer = asked(project, FOR + "vary: {mixture: {around: math-code}}\ncontrols: [kept, stated]\n" + GOAL)
    assert {arm.point.name for arm in fewer.of_role("control")} == {"kept", "stated"}
    assert {entry.name for entry in fewer.left_out} == {"natural", "uniform"}


@pytest.mark.parametrize(
    ("stage", "vary", "one_with_a_control", "trained"),
    [
        ("v1.1/cooldown", "batch: [1835008 tokens, 448 sequences]", "batch-1835008", "batch-448"),
        ("v1.1/cooldown", "mask_documents: [true, false]", "mask-false", "mask-true"),
        ("v1.1-math-code/continual", "ramp: [6000M tokens, 60000M tokens]", "ramp-6b", "ramp-60b"),
        ("v1.1-math-code/continual", "tokens: [350B, 100B]", "tokens-350b", "tokens-100b"),
    ],
)
def test_a_point_of_a_grid_that_does_what_a_control_does_is_trained_as_that_control_however_it_is_spelled(
    project: Path, stage: str, vary: str, one_with_a_control: str, trained: str
) -> None:
    study = asked(project, f"for: {stage}\nvary: {{{vary}}}\ngoal: {{lower: {{slimpajama: 1}}}}\n")
    names = {arm.point.name for arm in study.arms}
    assert trained in names
    assert one_with_a_control not in names
    plans = [(arm.stage.plan.fingerprint, arm.entries[-1].get("mask_documents", False)) for arm in study.arms]
    assert len(plans) == len(set(plans))
    varied = vary.partition(":")[0]
    assert any(varied in arm.point.settings for arm in study.of_role("control"))


def test_lengths_that_do_not_round_are_stated_with_their_unit_in_the_files_of_an_arm(project: Path) -> None:
    text = "vary: {ramp: [6000000001 tokens, 3B]}\ngoal: {lower: {slimpajama: 1}}\n"
    study = asked(project, "for: v1.1-math-code/continual\n" + text)
    assert study.arm("ramp-6000000001").entries[0]["ramp"] == "6000000001 tokens"


def test_a_swarm_stays_within_the_passes_of_its_sources_and_every_arm_can_be_planned() -> None:
    study = compiled("domains", "full")
    caps = study.limits.binding()
    assert set(caps) == {CODE, MATH}
    for arm in study.of_role("swarm"):
        assert arm.compiled.stop
        for source, cap in caps.items():
            assert arm.point.mixture.shares.get(source, 0) <= cap


def test_caps_are_where_the_planner_begins_to_refuse(project: Path) -> None:
    cap = compiled("domains", "full").limits.cap(MATH)
    for share, allowed in ((cap, True), (cap + Fraction(1, 25), False)):
        weights = f"{WEB}: {float(1 - share)}, {MATH}: {float(share)}"
        (project / "mixtures/edge.yaml").write_text(f"weights: {{{weights}}}\n")
        (project / "stages/edge.yaml").write_text(
            "from: v1.1/basic\nstages:\n  - {name: continual, until: 1.85T, mixture: edge, ramp: 6B}\n"
        )
        if allowed:
            compile_curriculum(Project(project), "edge", "full")
        else:
            with pytest.raises(CurriculumError, match="too small"):
                compile_curriculum(Project(project), "edge", "full")


def test_a_line_keeps_the_proportions_of_the_others(project: Path) -> None:
    study = asked(project, FOR + "vary: {share: {of: slimpajama, at: [20%, 60%]}}\n" + GOAL)
    for arm in study.of_role("swarm"):
        shares = arm.point.mixture.shares
        assert shares[CODE] / shares[MATH] == Fraction(3, 2)
        assert sum(shares.values()) == 1
    assert [arm.point.settings["share"] for arm in study.of_role("swarm")] == [Fraction(1, 5), Fraction(3, 5)]


def test_sources_that_are_not_asked_about_keep_their_ratios(project: Path) -> None:
    study = asked(project, FOR + f"vary: {{mixture: {{around: math-code, only: [{CODE}, skypile from 0]}}}}\n" + GOAL)
    swarm = study.of_role("swarm")
    assert len(swarm) == 15
    assert any("skypile" in arm.point.mixture.shares for arm in swarm)
    for arm in swarm:
        shares = arm.point.mixture.shares
        assert shares[MATH] / shares[WEB] == Fraction(10, 75)
        # the file that is drafted says the same, exactly
        weights = re.findall(r"([a-z0-9-]+): ([\d.]+)", next(iter(arm.draft.mixtures.values())).split("\n")[1])
        total = sum(Fraction(weight) for _, weight in weights)
        assert {name: Fraction(weight) / total for name, weight in weights} == shares


def test_annealed_arms_leave_at_the_rate_of_the_branch_point_and_end_at_zero() -> None:
    for size in SIZES:
        study = compiled("new-sources", size)
        for arm in study.arms:
            stage = arm.stage
            assert stage.parent is not None
            before = stage.parent.plan.learning_rate.at(stage.plan.start)
            assert stage.plan.learning_rate.at(stage.plan.start) == pytest.approx(before, rel=1e-6)
            assert stage.plan.learning_rate.at(stage.stop) == pytest.approx(0, abs=1e-3 * before)


def test_a_factor_multiplies_the_whole_curve_of_an_arm() -> None:
    study = compiled("cooldown")
    kept, halved = (study.arm(name).stage.plan for name in ("kept", "batch-896-rate-x0-5"))
    for position in (kept.start + 2048 * 5, kept.start + 2048 * 60):
        assert halved.learning_rate.at(position) == pytest.approx(kept.learning_rate.at(position) / 2)


# --- addresses, budget, speed --------------------------------------------------------------------------------


def test_the_first_replicate_goes_by_both_its_names_and_an_unknown_arm_by_none() -> None:
    study = compiled("domains")
    assert study.arm("kept.1") is study.arm("kept")
    assert study.arm("kept.3").address == "domains/kept.3"
    with pytest.raises(NotFound, match=r"no arm `kept\.4`"):
        study.arm("kept.4")
    with pytest.raises(NotFound, match="no proposal yet"):
        study.arm("proposal")


def test_a_proposal_is_trained_in_replicates_like_a_control() -> None:
    study = compile_study(
        Project(ROOT), "domains", "rehearsal", {WEB: Fraction(635), CODE: Fraction(175), MATH: Fraction(190)}
    )
    arms = study.of_role("proposal")
    assert [arm.name for arm in arms] == ["proposal", "proposal.2", "proposal.3"]
    assert arms[0].point.mixture.shares == {MATH: Fraction(19, 100), WEB: Fraction(127, 200), CODE: Fraction(7, 40)}
    assert expected_tokens(study) == expected_tokens(compiled("domains"))


@pytest.mark.promise("`plan` of a 40-arm study at 2T tokens takes 2 seconds")
def test_a_study_of_forty_arms_at_full_size_is_planned_in_two_seconds_of_computing(project: Path) -> None:
    text = FOR + "vary: {mixture: {around: math-code, runs: 25}}\n" + GOAL
    asked(project, text, "full")  # what is imported once is not counted
    start = time.process_time()
    study = asked(project, text, "full")
    summary = summarise(study, "local", study.study.project.machine("local"))
    seconds = time.process_time() - start
    assert len(summary["arms"]) + summary["proposal"]["runs"] == 40
    assert seconds < 2


# --- a study that has started --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["domains", "how-much-old"])
def test_text_that_grows_moves_no_arm_of_a_study_that_has_started(project: Path, name: str) -> None:
    before = compile_study(Project(project), name, "rehearsal")
    fix_design(before)
    sources = project / "sources.yaml"
    sources.write_text(sources.read_text().replace("tokens: 55B", "tokens: 80B").replace("tokens: 150B", "tokens: 90B"))
    after = compile_study(Project(project), name, "rehearsal")
    assert [arm.draft for arm in after.arms] == [arm.draft for arm in before.arms]
    design.path_of(before.study).unlink()
    again = compile_study(Project(project), name, "rehearsal")
    assert [arm.draft for arm in again.arms] != [arm.draft for arm in before.arms]


def test_a_question_that_was_edited_is_drafted_again(project: Path) -> None:
    before = compile_study(Project(project), "domains", "rehearsal")
    fix_design(before)
    study = project / "studies/domains.yaml"
    study.write_text(study.read_text().replace("runs: 15", "runs: 12"))
    after = compile_study(Project(project), "domains", "rehearsal")
    assert len(after.of_role("swarm")) == 12
    fix_design(after)  # the newer question takes its place
    assert len(compile_study(Project(project), "domains", "rehearsal").of_role("swarm")) == 12


def test_a_design_that_was_edited_by_hand_is_refused(project: Path) -> None:
    study = compile_study(Project(project), "domains", "rehearsal")
    fix_design(study)
    path = design.path_of(study.study)
    path.write_text(path.read_text().replace("swarm-03", "swarm-33"))
    with pytest.raises(DataError, match="cannot be used"):
        compile_study(Project(project), "domains", "rehearsal")


def test_a_verb_that_takes_no_study_says_what_does(project: Path) -> None:
    with pytest.raises(NotFound, match="`domains` is a study, not a curriculum"):
        compile_curriculum(Project(project), "domains", "rehearsal")


def test_an_arm_is_planned_streamed_and_exported_by_its_address_like_a_curriculum(
    project: Path, in_process: InProcess
) -> None:
    opened = curriculum.open(project)
    assert opened.plan("domains/stated").stages[-1]["stage"] == "domains/stated"
    with pytest.raises(DataError, match="is not prepared"):
        opened.stream("domains/stated")
    with pytest.raises(NotFound, match="study `domains` has no arm `nope`"):
        opened.plan("domains/nope")
    code, _, err = in_process(project, "export", "domains/stated", "--to", "out")
    assert code == 2
    assert "`domains/stated` has no checkpoint" in err

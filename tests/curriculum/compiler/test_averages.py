"""Averages of checkpoints as stages of a lineage: what they plan, what differs, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lineages
import pytest

from curriculum.compiler.compile import Compiled, compile_curriculum, spans
from curriculum.compiler.kept_positions import kept_positions
from curriculum.compiler.lineage import lineage
from curriculum.config.project import Project
from curriculum.errors import ConfigError, NotFound, PlanError
from curriculum.plan.diff.compare import AVERAGE, compare
from curriculum.plan.stage import StagePlan
from curriculum.runs.average import average

HEAD = lineages.BASE["stages/root.yaml"].split("stages:")[0] + "every: {checkpoint: 400 tokens}\n"
TWO = """\
stages:
  - {name: first, until: 2000 tokens, mixture: plain, batch: 5 sequences}
  - {name: second, until: 3000 tokens}
"""
BRANCH = "from: root@1200\nstages:\n  - {name: own, until: 3000 tokens, mixture: other}\n"


def project_of(folder: Path, **files: str) -> Project:
    texts = {f"stages/{name}.yaml": text for name, text in files.items()}
    return lineages.project_of({"stages/root.yaml": HEAD + TWO, "stages/side.yaml": BRANCH, **texts}, folder)


def planned(project: Project, name: str, size: str = "full") -> Compiled:
    return compile_curriculum(project, name, size)


def test_an_average_is_a_stage_without_a_step_at_the_end_of_its_first_checkpoint(tmp_path: Path) -> None:
    project = project_of(tmp_path, soup="from: {average: [root, side@2200], weights: [1, 0.5]}\n")
    *trunk, soup = planned(project, "soup").stages
    root, side = planned(project, "root").stages[-1], planned(project, "side").stages[-1]
    assert (soup.name, soup.plan.steps, soup.plan.start, soup.stop) == ("soup/average", 0, root.stop, root.stop)
    assert [stage.plan.fingerprint for stage in trunk] == [s.plan.fingerprint for s in planned(project, "root").stages]
    first, second = soup.plan.average
    assert (first.fingerprint, first.position, first.weight) == (root.plan.fingerprint, root.stop, 2)
    assert (second.fingerprint, second.weight) == (side.plan.history(second.position), 1)
    assert 0 <= second.position - 2200 < side.plan.batch_tokens
    assert soup.plan.read_before == root.plan.windows_read(root.stop)
    assert soup.plan.reset_optimizer
    assert StagePlan.from_json(soup.plan.to_json()) == soup.plan
    assert "averages side/own at 2.2k, 33.33% of it" in soup.events


def test_stages_after_an_average_go_on_on_its_clock_and_are_branched_from(tmp_path: Path) -> None:
    more = "stages:\n  - {name: more, until: 4000 tokens}\n"
    project = project_of(
        tmp_path,
        soup="from: {average: [side, root]}\n" + more,
        again="from: soup\nstages:\n  - {name: x, tokens: 400}\n",
    )
    *_, own, soup, after = planned(project, "soup").stages
    assert (soup.plan.start, after.plan.start, after.parent) == (own.stop, own.stop, soup)
    assert after.plan.items(0) == own.plan.items(own.plan.sequences)
    assert after.plan.parent is not None
    assert after.plan.parent.fingerprint == soup.plan.fingerprint
    assert [stage.name for stage in planned(project, "again").stages][-3:] == ["soup/average", "soup/more", "again/x"]


def test_stages_after_an_average_keep_the_rates_of_a_grown_batch_and_the_data_seed(tmp_path: Path) -> None:
    grown = "  - {name: all, until: 3000 tokens, mixture: plain, data_seed: 3, "
    grown += "batch: {from: 4 sequences, to: 16 sequences, over: 1500 tokens, in: 3, rate_exponent: 0.5}}\n"
    more = "stages:\n  - {name: more, tokens: 400, mixture: other}\n"
    project = project_of(
        tmp_path,
        grown="from: root\nstages:\n" + grown.replace("until: 3000", "tokens: 3000"),
        twin="from: root\nstages:\n" + grown.replace("until: 3000", "tokens: 3000").replace("seed: 3", "seed: 4"),
        after="from: {average: [grown, twin]}\n" + more,
        direct="from: grown\n" + more,
    )
    sources = tmp_path / "sources.yaml"
    sources.write_text(sources.read_text().replace(", order: in-order", ""))
    project = Project(project.root)
    after, direct = (planned(project, name).stages[-1].plan for name in ("after", "direct"))
    assert direct.rate_factor(direct.first_step) == 2
    assert [after.lr(step) for step in (after.first_step, after.stop_step - 1)] == [
        direct.lr(step) for step in (direct.first_step, direct.stop_step - 1)
    ]
    assert after.sources == direct.sources
    assert [reseed.data_seed for reseed in after.sources["c"].reseeds] == [3], "a source that is new after the average"


def test_the_last_checkpoints_are_those_of_the_cadence_and_are_kept(tmp_path: Path) -> None:
    project = project_of(tmp_path, last="from: {average: {last: 4, of: root/first}}\n")
    soup = planned(project, "last").stages[-1]
    positions = [member.position for member in soup.plan.average]
    assert [full - full % 20 + 20 * (full % 20 > 0) for full in (2000, 1600, 1200, 800)] == positions
    first = planned(project, "root").stages[0]
    assert set(positions[1:]) <= set(kept_positions(project, first, planned(project, "root").scale))
    assert [str(member.address) for member in soup.setting.average] == [
        f"root/first@{at}" for at in ("2k", "1.6k", "1.2k", "800")
    ]


def test_diff_finds_another_average(tmp_path: Path) -> None:
    project = project_of(
        tmp_path,
        one="from: {average: [root, side]}\n",
        two="from: {average: [root, side], weights: [2, 2]}\n",
        three="from: {average: [root, side], weights: [1, 2]}\n",
    )
    plans = {name: spans(planned(project, name).stages) for name in ("root", "one", "two", "three")}
    assert compare(plans["one"], plans["two"]).parts == ()
    for other in ("root", "three"):
        (part,) = compare(plans["one"], plans[other]).parts
        assert (part.what, part.position) == (AVERAGE, plans["root"][-1].stop)


@pytest.mark.parametrize(
    ("text", "error", "what"),
    [
        ("from: {average: [root]}\n", ConfigError, "names one checkpoint"),
        ("from: {average: [root, side], weights: [1]}\n", ConfigError, "has 1 numbers for 2"),
        ("from: {average: {last: 1, of: root}}\n", ConfigError, "averages nothing"),
        ("from: {average: {last: 40, of: root}}\n", PlanError, "checkpoints up to there, not 40"),
        ("from: {average: [root, sied]}\n", NotFound, "does not exist"),
        ("from: {average: [root, soup]}\n", PlanError, "is circular"),
        ("from: {average: [root, root/second]}\n", PlanError, "two checkpoints of the average are the same"),
        ("from: {average: [root, wide]}\n", PlanError, "another `intermediate_size`"),
        ("from: {average: [root, far]}\n", PlanError, "another `rope_theta`"),
        ("from: {average: [root, spoken]}\n", PlanError, "another tokenizer"),
        ("from: root\n", ConfigError, "lacks `stages`"),
        ("from: {ema: root}\n", PlanError, "keeps no moving average"),
        ("from: {ema: soup}\n", PlanError, "is circular"),
        ("from: {ema: root, average: [root, side]}\n", ConfigError, "is one too many"),
        ("from: {ema: root, weights: [1]}\n", ConfigError, "belongs to `average`"),
        ("from: {weights: [1]}\n", ConfigError, "lacks one of `average`, `ema`"),
        ("from: {average: [root, side]}\nstages: []\n", ConfigError, "is empty"),
    ],
)
def test_what_cannot_be_averaged_is_refused_at_its_line(text: str, error: Any, what: str, tmp_path: Path) -> None:
    project = project_of(
        tmp_path,
        soup=text,
        wide=HEAD.replace("intermediate_size: 64", "intermediate_size: 96") + TWO,
        far="from: root\nstages: [{name: far, tokens: 400, rope_theta: 50_000}]\n",
        spoken=HEAD.replace("tokenizer: small", "tokenizer: other") + TWO,
    )
    sources = tmp_path / "sources.yaml"
    sources.write_text(
        sources.read_text().replace("sources:\n", "  other: {train: [b], vocab_size: 300}\nsources:\n", 1)
    )
    with pytest.raises(error, match=what) as refused:
        planned(Project(project.root), "soup")
    assert refused.value.place is not None
    assert refused.value.place.file == "stages/soup.yaml"
    assert refused.value.hint


def test_the_verb_writes_the_file_and_says_what_is_not_trained(tmp_path: Path) -> None:
    project = project_of(tmp_path)
    made = average(project, "soup", ["root", "side@2200"], weights="1,2", last=None, size="full")
    assert made.untrained == ("root/second at 3,000", "side/own at 2,200")
    assert "from: {average: [root, side@2200], weights: [1,2]}" in (tmp_path / "stages/soup.yaml").read_text()
    assert lineage(Project(tmp_path), "soup")[-1].name == "soup/average"
    average(Project(tmp_path), "tail", ["root"], weights=None, last=3, size="full")
    assert "{last: 3, of: root}" in (tmp_path / "stages/tail.yaml").read_text()
    with pytest.raises(PlanError, match="`--last` is of one curriculum"):
        average(Project(tmp_path), "more", ["root", "side"], weights=None, last=3, size="full")
    assert not (tmp_path / "stages/more.yaml").exists()


SMOOTH = HEAD.replace("weight_decay: 0.1", "weight_decay: 0.1, ema: 30 steps")


def test_a_moving_average_is_planned_in_tokens_and_taken_as_a_stage(tmp_path: Path) -> None:
    project = project_of(
        tmp_path, smooth=SMOOTH + TWO, end="from: {ema: smooth@1200}\nstages:\n  - {name: more, until: 2000 tokens}\n"
    )
    root, kept = planned(project, "root").stages[0].plan, planned(project, "smooth").stages
    assert "ema" not in root.optimizer
    assert {stage.plan.optimizer["ema"] for stage in kept} == {30 * root.batch_tokens}
    assert root.average_decay(0) is None
    assert kept[0].plan.average_decay(0) == 0.5 ** (1 / 30)
    *_, end, more = planned(project, "end").stages
    (member,) = end.plan.average
    assert (member.ema, member.position, member.fingerprint) == (True, 1200, kept[0].plan.history(1200))
    assert (end.name, end.plan.start, end.events) == (
        "end/average",
        1200,
        ("takes the moving average of smooth/first at 1.2k",),
    )
    assert more.plan.parent is not None
    assert more.plan.parent.fingerprint == end.plan.fingerprint
    assert StagePlan.from_json(end.plan.to_json()) == end.plan
    assert average(project, "again", ["smooth"], weights=None, last=None, ema=True, size="full").untrained


def test_a_half_life_of_less_than_a_step_is_said(tmp_path: Path) -> None:
    project = project_of(tmp_path, smooth=SMOOTH.replace("30 steps", "10 tokens") + TWO)
    notes = [note for stage in planned(project, "smooth").stages for note in stage.notes]
    assert any("forgets half of them in 10 tokens, less than one step" in note for note in notes)

"""Notes of a plan on keys that change nothing, and on rates that are far too high."""

from __future__ import annotations

import lineages
import pytest

from curriculum.compiler.compile import compile_curriculum

HEAD = lineages.BASE["stages/root.yaml"].split("learning_rate:")[0]
CURVE = "{shape: cosine, max: 1e-2, min: 1e-3, warmup: 2 steps, horizon: 100k}"
FIRST = "{name: first, until: 2000 tokens, mixture: plain, batch: 5 sequences}"


def notes(*stages: str, curve: str = CURVE) -> list[str]:
    """The notes on all stages of a curriculum, those on passes and on the end of its curve left out."""
    text = f"{HEAD}learning_rate: {curve}\nstages:\n" + "".join(f"  - {stage}\n" for stage in stages)
    compiled = compile_curriculum(lineages.project_of({"stages/root.yaml": text}), "root", "full")
    words = ("changes nothing", "moves no share", "never happen", "warm-up", "the learning rate is ")
    return [note for stage in compiled.stages for note in stage.notes if any(word in note for word in words)]


@pytest.mark.parametrize(
    ("second", "said"),
    [
        ("{name: b, until: 4000, ramp: 200 tokens}", "`ramp:` moves no share"),
        ("{name: b, until: 4000, ramp: 200 tokens, mixture: plain}", "`ramp:` moves no share"),
        ("{name: b, until: 4000, ramp: 200 tokens, mixture: other}", None),
        ("{name: b, until: 4000, rewarm: 200 tokens}", "`rewarm:` changes nothing"),
        (f"{{name: b, until: 4000, rewarm: 200 tokens, learning_rate: {CURVE.replace('1e-2', '2e-2')}}}", None),
    ],
)
def test_a_ramp_or_a_rewarm_without_anything_to_move_to_is_noted(second: str, said: str | None) -> None:
    found = notes(FIRST, second)
    assert [note.split(":")[0] + ":" + note.split(":")[1] for note in found] == ([said] if said else [])


def test_a_ramp_that_is_under_way_is_ended_by_another_one_which_therefore_has_an_effect() -> None:
    moving = "{name: b, until: 2400, mixture: other, ramp: 400 tokens}"
    branch = "from: root/b@2200\nstages:\n  - {name: c, until: 4000, ramp: 20 tokens, mixture: other}\n"
    root = f"{HEAD}learning_rate: {CURVE}\nstages:\n  - {FIRST}\n  - {moving}\n"
    for at, number in (("2200", 0), ("2400", 1)):
        files = {"stages/root.yaml": root, "stages/mine.yaml": branch.replace("2200", at)}
        stage = compile_curriculum(lineages.project_of(files), "mine", "full").stages[-1]
        assert sum("moves no share" in note for note in stage.notes) == number


@pytest.mark.parametrize(
    ("batch", "after", "said"),
    [
        ("{from: 5 sequences, at: {1k: 10 sequences}}", (), None),
        ("{from: 5 sequences, at: {3k: 10 sequences}}", (), "1 of the 1 change of `batch:` never happens"),
        ("{from: 5 sequences, at: {3k: 10 sequences}}", ("{name: b, until: 4000}",), None),
        (
            "{from: 5 sequences, at: {1k: 7 sequences, 3k: 10 sequences}}",
            ("{name: b, until: 4000, batch: 5 sequences}",),
            "1 of the 2 changes of `batch:` never happens",
        ),
        ("{from: 5 sequences, to: 9 sequences, over: 1900 tokens, in: 4}", (), None),
        (
            "{from: 5 sequences, to: 9 sequences, over: 8k, in: 4}",
            ("{name: b, until: 3000}",),
            "3 of the 4 changes of `batch:` never happen:",
        ),
    ],
)
def test_a_batch_that_no_stage_reaches_is_noted_where_it_is_stated(
    batch: str, after: tuple[str, ...], said: str | None
) -> None:
    found = notes(FIRST.replace("5 sequences", batch), *after)
    assert len(found) == (said is not None)
    assert said is None or found[0].startswith(said)


def test_a_branch_before_the_batch_changes_has_no_note_of_it() -> None:
    grows = FIRST.replace("5 sequences", "{from: 5 sequences, at: {1k: 10 sequences}}")
    root = f"{HEAD}learning_rate: {CURVE}\nstages:\n  - {grows}\n"
    mine = "from: root@500\nstages:\n  - {name: a, until: 900}\n"
    project = lineages.project_of({"stages/root.yaml": root, "stages/mine.yaml": mine})
    for stage in compile_curriculum(project, "mine", "full").stages:
        assert not any("never happen" in note for note in stage.notes)


def test_a_warm_up_longer_than_the_curriculum_is_noted() -> None:
    assert not notes(FIRST)
    found = notes(FIRST, curve=CURVE.replace("2 steps", "4000 tokens"))
    assert found == [
        "the warm-up of 4k tokens is longer than the curriculum, which ends at 2k: "
        "its last learning rate is 0.005, and the highest is 0.01"
    ]


def test_a_rate_above_a_tenth_is_noted_at_its_highest_step_also_where_the_batch_raises_it() -> None:
    assert not notes(FIRST, curve=CURVE.replace("1e-2", "0.1"))
    assert notes(FIRST, curve=CURVE.replace("1e-2", "0.5"))[0].startswith("the learning rate is 0.5 at step 1:")
    grows = FIRST.replace("5 sequences", "{from: 5 sequences, at: {1k: 10 sequences}, rate_exponent: 1}")
    assert notes(grows, curve="{shape: constant, max: 0.06}")[0].startswith("the learning rate is 0.12 at step 50:")

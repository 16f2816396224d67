"""What a lineage may not do: read a source more often than allowed, by not one sequence; and what it takes over."""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction

import lineages
import numpy as np
import pytest
from hypothesis import assume, given, settings, strategies as st

from curriculum.compiler.compile import compile_curriculum, compile_resolved
from curriculum.compiler.kept_positions import kept_positions
from curriculum.compiler.prepared_text import PreparedText
from curriculum.compiler.resolve import resolve
from curriculum.compiler.sources import PreparedInfo
from curriculum.config.project import Project
from curriculum.errors import CurriculumError, PlanError


def read_of_c(files: dict[str, str], passes: str) -> int:
    """Sequences of source `c` that the plan reads; PlanError where the limit of `passes` refuses it."""
    mixture = files["mixtures/plain.yaml"] + f"passes: {{a: 1000000, c: {passes}}}\n"
    project = lineages.project_of({**files, "mixtures/plain.yaml": mixture})
    plan = compile_curriculum(project, "root", "full").stages[0].plan
    return plan.windows_read(plan.end)["c"]


@pytest.mark.promise(
    "A source is read to its limit and not one sequence more; an in-order source twice only with permission"
)
@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([1, 2, 5, 8, 16, 20, 25, 40]),
    st.integers(1, 12),
    st.integers(4, 60),
    st.integers(1, 9),
    st.sampled_from(["shuffled", "in-order"]),
)
def test_a_source_may_be_read_to_its_limit_and_not_one_sequence_more(
    windows: int, batch: int, steps: int, weight: int, order: str
) -> None:
    sources = lineages.BASE["sources.yaml"]
    root = lineages.BASE["stages/root.yaml"].replace("2000 tokens", f"{steps * batch * 4} tokens")
    files = {
        "sources.yaml": sources.replace("tokens: 85, order: in-order", f"tokens: {windows * 4}, order: {order}"),
        "stages/root.yaml": root.replace("5 sequences", f"{batch} sequences"),
        "mixtures/plain.yaml": f"weights: {{a: 3, c: {weight}}}\n",
    }
    try:
        used = read_of_c(files, "1000000")
    except PlanError as refused:
        assume("never drawn" not in refused.what)
        raise

    def passes(sequences: int) -> str:
        exact = Decimal(sequences) / Decimal(windows)
        assert exact * windows == sequences
        return str(exact)

    assert read_of_c(files, passes(used)) == used
    if used > 1:
        with pytest.raises(PlanError, match="is too small"):
            read_of_c(files, passes(used - 1))


@pytest.mark.parametrize(("limit", "fits"), [("13.25", True), ("13.225", False)])
def test_a_limit_counts_the_passes_of_windows_of_another_length_on_from_those_before(limit: str, fits: bool) -> None:
    """The root reads 80 windows 6.25 times; the variant reads 40 of twice their length, from pass 7 on, 6.25 times."""
    files = {
        "sources.yaml": lineages.BASE["sources.yaml"].replace("tokens: 412", "tokens: 320"),
        "mixtures/plain.yaml": f"weights: {{a: 1}}\npasses: {{a: {limit}}}\n",
        "stages/mine.yaml": "from: root\nstages:\n"
        "  - {name: long, until: 4000, batch: 5 sequences, sequence_length: 8, positions: restart}\n",
    }
    project = lineages.project_of(files)
    if fits:
        plan = compile_curriculum(project, "mine", "full").stages[1].plan
        assert plan.sources["a"].epochs(plan.windows_read(plan.end)["a"]) == 13.25
        return
    with pytest.raises(PlanError, match=r"bring it to 13\.250 passes over the lineage; 13\.225 is the limit"):
        compile_curriculum(project, "mine", "full")


IN_ORDER = "weights: {a: 1, c: 1}\n"


@pytest.mark.promise(
    "A source is read to its limit and not one sequence more; an in-order source twice only with permission"
)
@pytest.mark.parametrize(("sequences", "fits"), [(42, True), (44, False)])
def test_an_ordered_corpus_is_read_in_order_and_a_second_time_only_with_permission(sequences: int, fits: bool) -> None:
    """Source c has 21 windows and is in order; half of the sequences are its."""
    root = lineages.BASE["stages/root.yaml"].replace("2000 tokens", f"{sequences * 4} tokens")
    files = {"stages/root.yaml": root.replace("5 sequences", "2 sequences"), "mixtures/plain.yaml": IN_ORDER}
    project = lineages.project_of(files)
    if fits:
        plan = compile_curriculum(project, "root", "full").stages[0].plan
        draws = plan.draws_at(np.arange(plan.sequences))
        assert draws.window[draws.source == draws.names.index("c")].tolist() == list(range(21))
        return
    with pytest.raises(PlanError, match=r"1 is the limit without .* `order: in-order`") as refused:
        compile_curriculum(project, "root", "full")
    assert refused.value.hint is not None
    assert "passes: {c: 2}" in refused.value.hint
    allowed = lineages.project_of({**files, "mixtures/plain.yaml": IN_ORDER + "passes: {c: 2}\n"})
    plan = compile_curriculum(allowed, "root", "full").stages[0].plan
    draws = plan.draws_at(np.arange(plan.sequences))
    assert draws.window[draws.source == draws.names.index("c")].tolist() == [*range(21), 0]


@settings(max_examples=40, deadline=None)
@given(st.integers(20, 300), st.integers(1, 5), st.integers(0, 4), st.integers(1, 3))
def test_the_length_that_is_named_for_a_source_never_drawn_serves_it_and_no_shorter_one_does(
    rarity: int, trunk: int, ramp: int, batch: int
) -> None:
    """With a ramp, of `ramp` sequences, it comes later; it is counted to the sequence."""

    def stage(tokens: int) -> Project:
        ramped = f", ramp: {4 * ramp} tokens" if ramp else ""
        return lineages.project_of(
            {
                "mixtures/plain.yaml": f"weights: {{a: {rarity}, b: 1}}\npasses: {{a: 10000, b: 10000}}\n",
                "mixtures/first.yaml": "weights: {a: 1}\npasses: {a: 10000}\n",
                "stages/root.yaml": lineages.BASE["stages/root.yaml"]
                .replace("2000 tokens", f"{trunk * batch * 4} tokens")
                .replace("5 sequences", f"{batch} sequences")
                .replace("plain", "first"),
                "stages/mine.yaml": f"from: root\nstages:\n  - {{name: s, tokens: {tokens} tokens, mixture: plain"
                f"{ramped}}}\n",
            }
        )

    with pytest.raises(PlanError, match="never drawn") as refused:
        compile_curriculum(stage(4 * max(ramp, 1)), "mine", "full")
    found = re.search(r"served by a stage of ([0-9,]+) tokens", str(refused.value.hint))
    assert found is not None
    named = int(found[1].replace(",", ""))
    plan = compile_curriculum(stage(named), "mine", "full").stages[1].plan
    assert plan.windows_read(plan.end)["b"] == 1
    if named - 4 * batch >= 4 * max(ramp, 1):
        with pytest.raises(PlanError, match="never drawn"):
            compile_curriculum(stage(named - 4 * batch), "mine", "full")


def test_the_length_that_is_named_counts_from_what_the_lineage_has_drawn_before() -> None:
    def stage(tokens: int) -> Project:
        return lineages.project_of(
            {
                "mixtures/plain.yaml": "weights: {a: 50, b: 1}\npasses: {a: 1000, b: 1000}\n",
                "stages/root.yaml": lineages.BASE["stages/root.yaml"].replace("2000 tokens", "400 tokens"),
                "stages/mine.yaml": f"from: root\nstages:\n  - {{name: s, tokens: {tokens} tokens}}\n",
            }
        )

    with pytest.raises(PlanError, match="never drawn") as refused:
        compile_curriculum(stage(20), "mine", "full")
    length = re.search(r"served by a stage of ([0-9,]+) tokens", str(refused.value.hint))
    assert length is not None
    tokens = int(length[1].replace(",", ""))
    plan = compile_curriculum(stage(tokens), "mine", "full").stages[1].plan
    assert plan.windows_read(plan.end)["b"] == plan.read_before["b"] + 1
    with pytest.raises(PlanError, match="never drawn"):
        compile_curriculum(stage(tokens - 20), "mine", "full")


def test_the_length_that_is_named_counts_on_behind_what_a_skip_throws_away() -> None:
    def stage(tokens: int, skip: str = "") -> Project:
        root = lineages.BASE["stages/root.yaml"].replace("until: 2000 tokens", f"until: {tokens}{skip}")
        mixture = "weights: {a: 50, b: 1}\npasses: {a: 1000, b: 1000}\n"
        return lineages.project_of({"mixtures/plain.yaml": mixture, "stages/root.yaml": root})

    def named(project: Project) -> int:
        with pytest.raises(PlanError, match="never drawn") as refused:
            compile_curriculum(project, "root", "full")
        found = re.search(r"served by a stage of ([0-9,]+) tokens", str(refused.value.hint))
        assert found is not None
        return -(-int(found[1].replace(",", "")) // 20) * 20

    end = named(stage(20))
    skip = f", skip: [{{from: {end - 20}, to: {end}, why: spike}}]"
    served = named(stage(end, skip))
    assert served > end
    plan = compile_curriculum(stage(served, skip), "root", "full").stages[0].plan
    assert plan.windows_read(plan.end)["b"] == 1
    assert named(stage(served - 20, skip)) == served


def test_text_of_unknown_amount_is_noted_once_and_the_other_sources_are_checked_all_the_same() -> None:
    def project(passes: int) -> Project:
        return lineages.project_of(
            {
                "sources.yaml": lineages.BASE["sources.yaml"].replace(", tokens: 412", ""),
                "mixtures/plain.yaml": f"weights: {{a: 3, b: 1}}\npasses: {{b: {passes}}}\n",
                "stages/mine.yaml": "from: root\nstages:\n  - {name: a, until: 3000}\n",
            }
        )

    stages = compile_curriculum(project(1000), "mine", "full").stages
    assert [[note for note in stage.notes if "passes of `a` are not checked" in note] != [] for stage in stages] == [
        True,
        False,
    ]
    with pytest.raises(PlanError, match="source `b` is too small"):
        compile_curriculum(project(1), "mine", "full")


def test_a_limit_that_is_no_whole_number_is_shown_as_a_decimal() -> None:
    project = lineages.project_of({"mixtures/plain.yaml": "weights: {a: 3, b: 1}\npasses: {a: 1.5, b: 1000}\n"})
    with pytest.raises(PlanError, match=r"passes over the lineage; 1\.5 is the limit"):
        compile_curriculum(project, "root", "full")


def test_weights_finer_than_the_largest_total_are_rounded_and_the_plan_says_so() -> None:
    fine = "weights: {a: 0.9999999999, b: 0.333333333333}\npasses: {a: 1000, b: 1000}\n"
    notes = {
        name: compile_curriculum(lineages.project_of(files), "root", "full").stages[0].notes
        for name, files in {"fine": {"mixtures/plain.yaml": fine}, "plain": {}}.items()
    }
    assert any("shares are rounded" in note for note in notes["fine"])
    assert not any("shares are rounded" in note for note in notes["plain"])


# --- positions that someone branches from ----------------------------------------------------------------


def test_a_position_named_through_a_variant_is_kept_in_the_ancestor_s_stage_that_contains_it() -> None:
    project = lineages.project_of(
        {
            "stages/mine.yaml": "from: root@1500\nstages:\n  - {name: a, until: 3000, mixture: other}\n",
            "stages/early.yaml": "from: mine@700\nstages:\n  - {name: b, tokens: 400}\n",
            "stages/late.yaml": "from: mine@1800\nstages:\n  - {name: b, tokens: 400}\n",
            "sizes.yaml": HALF,
        }
    )
    root, own = compile_curriculum(project, "mine", "full").stages
    assert kept_positions(project, root, Fraction(1)) == (700, 1500)
    assert kept_positions(project, own, Fraction(1)) == (1800,)
    half = compile_curriculum(project, "mine", "half").stages[0]
    assert kept_positions(project, half, Fraction(1, 2)) == (360, 760)  # step boundaries at or past 350 and 750
    early = compile_curriculum(project, "early", "full").stages
    assert early[0].stop == 700
    assert early[0].name == "root/first"


# --- what a size changes ---------------------------------------------------------------------------------


def test_a_warm_up_is_lengthened_to_the_size_s_floor_and_the_plan_says_so() -> None:
    size = (
        "full: {}\nsmall: {tokens: 0.5, at_least: {warmup: 7 steps}}\nlow: {tokens: 0.5, at_least: {warmup: 1 step}}\n"
    )
    project = lineages.project_of({"sizes.yaml": size})
    small = compile_curriculum(project, "root", "small").stages[0]
    assert small.plan.learning_rate.warmup == 7 * 20
    assert small.notes == ("the warm-up of 20 tokens is lengthened to 140",)
    low = compile_curriculum(project, "root", "low").stages[0]
    assert low.plan.learning_rate.warmup == 20
    assert low.notes == ()


@pytest.mark.parametrize(("mine", "lowest"), [("5e-4", 1e-4), ("1e-3", 2e-4), ("2e-3", 4e-4)])
def test_a_variant_s_lowest_rate_keeps_its_ratio_to_the_root_s_where_a_size_states_one(
    mine: str, lowest: float
) -> None:
    """The size states the root's rates, 1e-2 and 1e-3 in its file; the variant's curve is as far below or above."""
    variant = (
        "from: root\nlearning_rate: {shape: cosine, max: 1e-2, min: %s, horizon: 100k}\n"
        "stages:\n  - {name: a, until: 3000, rewarm: 20 tokens}\n"
    )
    sizes = "full: {}\nsmall: {learning_rate: {max: 4e-2, min: 2e-4}}\nhigh: {learning_rate: {max: 4e-2}}\n"
    project = lineages.project_of({"stages/mine.yaml": variant % mine, "sizes.yaml": sizes})
    root, own = (stage.plan.learning_rate for stage in compile_curriculum(project, "mine", "small").stages)
    assert (root.max, root.min) == (own.max, 2e-4) == (4e-2, 2e-4)
    assert own.min == lowest
    assert compile_curriculum(project, "mine", "high").stages[1].plan.learning_rate.min == pytest.approx(20 * lowest)


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("{hidden_size: 36}", "`num_attention_heads` of 4 does not cut a width of 36"),
        ("{num_attention_heads: 8, num_key_value_heads: 3}", "does not divide 8"),
        ("{num_key_value_heads: 3}", "`num_key_value_heads` of 3 does not divide 4 query heads"),
    ],
)
def test_a_size_s_half_of_a_model_is_checked_together_with_the_curriculum_s(model: str, says: str) -> None:
    project = lineages.project_of({"sizes.yaml": f"full: {{}}\nsmall: {{model: {model}}}\n"})
    with pytest.raises(CurriculumError, match=says) as refused:
        compile_curriculum(project, "root", "small")
    assert refused.value.place is not None
    assert refused.value.place.file == "sizes.yaml"


@pytest.mark.parametrize(
    ("model", "width"),
    [("{num_hidden_layers: 1}", 24), ("{hidden_size: 64}", None), ("{num_attention_heads: 2}", None)],
)
def test_a_head_keeps_its_width_until_a_size_states_numbers_that_it_follows_from(model: str, width: int | None) -> None:
    root = lineages.BASE["stages/root.yaml"].replace("vocab_size: 300}", "vocab_size: 300, head_dim: 24}")
    project = lineages.project_of({"stages/root.yaml": root, "sizes.yaml": f"full: {{}}\nsmall: {{model: {model}}}\n"})
    assert compile_curriculum(project, "root", "small").stages[0].plan.model.get("head_dim") == width


def test_a_size_s_scaling_of_rotations_is_as_complete_as_the_curriculum_s() -> None:
    scaling = "rope_scaling: {factor: 32, original_max_position_embeddings: 8192}"
    root = lineages.BASE["stages/root.yaml"].replace("vocab_size: 300}", f"vocab_size: 300, {scaling}}}")
    size = f"full: {{}}\nsmall: {{model: {{{scaling}}}}}\n"
    of_curriculum, of_size = (
        compile_curriculum(lineages.project_of(files), "root", name).stages[0].plan.model
        for files, name in (({"stages/root.yaml": root}, "full"), ({"sizes.yaml": size}, "small"))
    )
    assert of_size == of_curriculum


@pytest.mark.parametrize(
    ("size", "original", "context"),
    [("{tokens: 0.5}", 2048, 2048), ("{sequence_length: 2}", 2048, 1024), ("{sequence_length: 1}", 1, 1)],
)
def test_the_context_of_a_stage_s_rotations_is_scaled_as_its_windows_are(
    size: str, original: int, context: int
) -> None:
    scaling = f"rope_scaling: {{rope_type: yarn, factor: 4, original_max_position_embeddings: {original}}}"
    root = lineages.BASE["stages/root.yaml"].replace("5 sequences}", f"5 sequences, {scaling}}}")
    project = lineages.project_of({"stages/root.yaml": root, "sizes.yaml": f"full: {{}}\nsmall: {size}\n"})
    for name, expected in (("full", original), ("small", context)):
        model = compile_curriculum(project, "root", name).stages[0].plan.model
        assert model["rope_scaling"] == {"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": expected}


def test_a_curve_that_meets_the_parent_s_at_zero_needs_no_rewarm() -> None:
    curve = "learning_rate: {shape: linear, max: %s, min: 0, horizon: 2000}"
    root = re.sub(r"learning_rate: .*", curve % "1e-2", lineages.BASE["stages/root.yaml"])
    mine = f"from: root\n{curve % '2e-2'}\nstages:\n  - {{name: a, until: 3000}}\n"
    project = lineages.project_of({"stages/root.yaml": root, "stages/mine.yaml": mine})
    own = compile_curriculum(project, "mine", "full").stages[1].plan.learning_rate
    assert (own.at(2000), own.rewarm) == (0, None)


@pytest.mark.parametrize(
    ("curve", "noted"),
    [
        ("shape: linear, max: 1e-2, min: 1e-3, horizon: 2000", False),  # the stage ends there
        ("shape: linear, max: 1e-2, min: 1e-3, horizon: 1999 tokens", True),
        ("shape: constant, max: 1e-2", False),
    ],
)
def test_only_a_stage_that_goes_on_beyond_a_horizon_has_a_note_of_it(curve: str, noted: bool) -> None:
    root = re.sub(r"learning_rate: .*", f"learning_rate: {{{curve}}}", lineages.BASE["stages/root.yaml"])
    stage = compile_curriculum(lineages.project_of({"stages/root.yaml": root}), "root", "full").stages[0]
    assert any("beyond its horizon" in note for note in stage.notes) == noted


HALF = "full: {}\nhalf: {tokens: 0.5}\n"


def test_a_size_takes_its_share_of_text_whose_amount_is_not_declared() -> None:
    sources = lineages.BASE["sources.yaml"].replace(", tokens: 412", "")
    project = lineages.project_of({"sizes.yaml": HALF, "sources.yaml": sources})
    compiled = compile_resolved(
        resolve(project, "root", "half"), prepared_info=lambda *_: PreparedInfo(windows=90, digest="d")
    )
    assert (compiled.sources["a"].windows, compiled.sources["a"].out_of) == (45, 90)
    assert compiled.sources["a"].declared is None
    assert compiled.sources["b"].declared == 148


@pytest.mark.parametrize("missing", [0, 1])
def test_text_of_exactly_the_share_that_a_size_takes_is_enough_and_one_window_less_is_not(missing: int) -> None:
    project = lineages.project_of({"sizes.yaml": HALF})
    needed = {"a": 412 // 2 // 4, "b": 148 // 2 // 4}

    def facts(name: str, _: int) -> PreparedInfo:
        return PreparedInfo(windows=needed[name] - missing, digest="d")

    if missing:
        with pytest.raises(PlanError, match="too little text"):
            compile_resolved(resolve(project, "root", "half"), prepared_info=facts)
    else:
        sources = compile_resolved(resolve(project, "root", "half"), prepared_info=facts).stages[0].plan.sources
        assert {name: source.windows for name, source in sources.items()} == needed


def test_the_shape_of_a_decay_comes_out_of_the_stage_file() -> None:
    curve = "{shape: wsd, max: 1e-2, min: 1e-3, warmup: 2 steps, horizon: 2000, decay: 400 tokens%s}"
    for said, shape in (("", "linear"), (", decay_shape: sqrt", "sqrt"), (", decay_shape: linear", "linear")):
        root = lineages.BASE["stages/root.yaml"].replace(
            "{shape: cosine, max: 1e-2, min: 1e-3, warmup: 2 steps, horizon: 100k}", curve % said
        )
        plan = compile_curriculum(lineages.project_of({"stages/root.yaml": root}), "root", "full").stages[0].plan
        assert plan.learning_rate.decay_shape == shape
    gone = (1800 - 1600) / 400
    assert plan.lr(plan.first_step + 89) == pytest.approx(1e-3 + (1 - gone) * 9e-3)


def test_windows_of_prepared_text_are_counted_at_each_stage_s_own_length() -> None:
    text = (
        "from: root\nstages:\n  - {name: a, until: 4000, sequence_length: 8, batch: 3 sequences, positions: restart}\n"
    )
    project = lineages.project_of({"stages/mine.yaml": text})
    asked: list[int] = []

    def facts(_: str, length: int) -> PreparedInfo:
        asked.append(length)
        return PreparedInfo(windows=800 // length, digest="d")

    compiled = compile_resolved(resolve(project, "mine", "full"), prepared_info=facts)
    assert [stage.plan.sources["a"].windows for stage in compiled.stages] == [200, 100]
    assert compiled.sources["a"].windows == 100
    assert set(asked) == {4, 8}
    texts = PreparedText.open(Project(project.root), "mine", "full")
    assert texts.sequence_length == 8


@pytest.mark.parametrize(
    ("until", "note"),
    [
        (1400, None),  # at the end of the stable stage
        (1600, None),  # where the decay starts
        (1800, "ends at 1.8k tokens, inside the decay from 1.6k to 2k: its last learning rate is 0.0055, not 0.001"),
        (1980, "its last learning rate is 0.00145, not 0.001"),
        (2000, None),
        (2400, None),
    ],
)
def test_a_curriculum_that_ends_inside_its_decay_has_a_note_of_the_rate_there(until: int, note: str | None) -> None:
    curve = "{shape: wsd, max: 1e-2, min: 1e-3, warmup: 2 steps, horizon: 2000, decay: 400 tokens}"
    project = lineages.project_of(
        {
            "stages/root.yaml": lineages.BASE["stages/root.yaml"]
            .replace("until: 2000 tokens", "until: 1200 tokens")
            .replace("{shape: cosine, max: 1e-2, min: 1e-3, warmup: 2 steps, horizon: 100k}", curve),
            "stages/mine.yaml": "from: root@1000\nstages:\n  - {name: a, until: 1100}\n"
            f"  - {{name: b, until: {until}}}\n",
        }
    )
    stages = compile_curriculum(project, "mine", "full").stages
    notes = [line for line in stages[-1].notes if "inside the decay" in line]
    assert len(notes) == (note is not None)
    assert note is None or note in notes[0]
    assert not any("inside the decay" in line for stage in stages[:-1] for line in stage.notes)


def test_a_stage_that_ends_inside_the_decay_gets_no_note_where_the_next_one_follows_it() -> None:
    curve = "{shape: wsd, max: 1e-2, min: 1e-3, warmup: 2 steps, horizon: 2000, decay: 400 tokens}"
    text = "from: root\nlearning_rate: %s\nstages:\n  - {name: a, until: 1800}\n  - {name: b, until: 2000}\n"
    root = lineages.BASE["stages/root.yaml"].replace("until: 2000 tokens", "until: 1200 tokens")
    root = root.replace("{shape: cosine, max: 1e-2, min: 1e-3, warmup: 2 steps, horizon: 100k}", curve)
    project = lineages.project_of({"stages/root.yaml": root, "stages/mine.yaml": text % curve})
    stages = compile_curriculum(project, "mine", "full").stages
    assert not any("inside the decay" in line for stage in stages for line in stage.notes)

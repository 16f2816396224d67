"""Where two curricula part: against a replay of every step as the judge, and what people ask it about."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, example, given, settings, strategies as st

from curriculum.analysis import diff_sides
from curriculum.compiler import compile
from curriculum.compiler.compile import compile_curriculum, compile_resolved
from curriculum.compiler.resolve import resolve
from curriculum.compiler.sources import PreparedInfo
from curriculum.config.project import Project
from curriculum.errors import PlanError
from curriculum.plan.diff import compare, learning_rate, timeline, tokens as diff_tokens
from curriculum.plan.diff.timeline import Span
from curriculum.plan.learning_rate import LearningRate, Rewarm
from curriculum.plan.permutation import rotation
from curriculum.plan.stage import StagePlan

ROOT = Path(__file__).resolve().parents[3]
LENGTH = 4  # tokens of a sequence
MIXTURES = {
    "one": "a: 1",
    "three-to-one": "a: 3, b: 1",
    "six-to-two": "a: 6, b: 2.0",  # the same, written otherwise
    "nearly": "a: 3000, b: 1001",
    "three": "a: 2, b: 1, c: 1",
}
CURVES = (
    "{shape: cosine, max: 1e-2, min: 1e-3, warmup: 24 tokens, horizon: 240}",
    "{shape: cosine, max: 1e-2, min: 1e-3, warmup: 24 tokens, horizon: 241}",
    "{shape: linear, max: 1e-2, min: 1e-3, warmup: 24 tokens, horizon: 240}",
    "{shape: wsd, max: 1e-2, min: 1e-3, warmup: 24 tokens, horizon: 240, decay: 60 tokens}",
    "{shape: wsd, max: 1e-2, min: 1e-3, warmup: 24 tokens, horizon: 400, decay: 60 tokens}",
    "{shape: constant, max: 1e-2, warmup: 24 tokens}",
    "{shape: constant, max: 1e-2, warmup: 25 tokens}",
)


@dataclass(frozen=True)
class Row:
    """One stage of a small curriculum; lengths in sequences."""

    sequences: int
    batch: int
    mixture: str
    ramp: int = 0
    skip: tuple[int, int] | None = None
    data_seed: int | None = None


@dataclass(frozen=True)
class Small:
    rows: tuple[Row, ...]
    curve: str
    seed: int = 3

    def yaml(self) -> str:
        lines = [
            f"seed: {self.seed}",
            "model: {hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 4, num_key_value_heads: 2,",
            "        intermediate_size: 64, vocab_size: 300}",
            f"tokenizer: t\nsequence_length: {LENGTH}\noptimizer: {{name: adamw, weight_decay: 0.1}}",
            f"learning_rate: {self.curve}\nstages:",
        ]
        at = 0
        for number, row in enumerate(self.rows):
            begin, at = at, at + row.sequences * LENGTH
            extra = f", ramp: {row.ramp * LENGTH} tokens" if row.ramp else ""
            if row.skip:
                extra += f", skip: [{{from: {begin + row.skip[0] * LENGTH}, to: {begin + row.skip[1] * LENGTH}}}]"
            if row.data_seed is not None:
                extra += f", data_seed: {row.data_seed}"
            lines.append(
                f"  - {{name: s{number}, until: {at}, mixture: {row.mixture}, batch: {row.batch} sequences{extra}}}"
            )
        return "\n".join(lines) + "\n"


def limits(weights: str) -> str:
    return ", ".join(f"{part.split(':')[0].strip()}: 99999" for part in weights.split(","))


def project_of(folder: Path, files: dict[str, str]) -> Project:
    written = {f"mixtures/{name}.yaml": f"weights: {{{w}}}\npasses: {{{limits(w)}}}\n" for name, w in MIXTURES.items()}
    written |= {
        "sources.yaml": "tokenizers: {t: {train: [a], vocab_size: 300}}\n"
        "sources:\n" + "".join(f"  {n}: {{read: {{folder: texts/{n}}}, held_out: 5%}}\n" for n in "abc"),
        "sizes.yaml": "full: {}\nhalf: {tokens: 0.5}\n",
        "machines.yaml": "local: {launcher: process}\n",
    }
    for name, text in {**written, **files}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Project(folder)


def lineage_of(project: Project, name: str, windows: int = 7) -> timeline.Lineage:
    compiled = compile_resolved(
        resolve(project, name, "full"), prepared_info=lambda d, _: PreparedInfo(windows=windows, digest=d)
    )
    return compile.spans(compiled.stages)


# --- the judge: every step of both is replayed -------------------------------------------------------------


@dataclass
class Replay:
    """What a lineage does, token by token: the sequence read, the batch, the rate at every position."""

    reads: list[tuple[str, int]]
    batch: list[int]  # in force at each sequence
    ends: list[int]  # of the steps
    lineage: timeline.Lineage

    def lr(self, position: int) -> float:
        stretch = next(s for s in self.lineage if s.plan.start < position <= s.stop)
        return stretch.plan.learning_rate.at(position)


def replay(lineage: timeline.Lineage) -> Replay:
    reads: list[tuple[str, int]] = []
    batches: list[int] = []
    ends: list[int] = []
    for stretch in lineage:
        plan = stretch.plan
        for step in range(plan.first_step, plan.step_at(stretch.stop)):
            draws = plan.draws(step)
            turn = rotation(plan.seed, step, plan.batch_sequences)
            sources, windows = np.roll(draws.source, turn), np.roll(draws.window, turn)
            reads += [(draws.names[s], int(w)) for s, w in zip(sources, windows, strict=True)]
            batches += [plan.batch_sequences] * plan.batch_sequences
            ends.append(plan.position_after(step))
    return Replay(reads, batches, ends, lineage)


def first(values: Iterable[bool]) -> int | None:
    return next((i for i, value in enumerate(values) if value), None)


def judged(old: timeline.Lineage, new: timeline.Lineage) -> dict[str, int]:
    """The position at which the first step begins in which each kind differs, by looking at every step."""
    mine, theirs = replay(old), replay(new)

    def step_of(token: int) -> int:
        begins = [[0, *r.ends] for r in (mine, theirs)]
        return max(max(b for b in side if b <= token) for side in begins)

    found = {}
    tokens = first(a != b for a, b in zip(mine.reads, theirs.reads, strict=False))
    if tokens is not None:
        found[compare.TOKENS] = step_of(tokens * LENGTH)
    batch = first(a != b for a, b in zip(mine.batch, theirs.batch, strict=False))
    if batch is not None:
        found[compare.BATCH] = step_of(batch * LENGTH)
    both = min(mine.ends[-1], theirs.ends[-1])
    for end in sorted({*mine.ends, *theirs.ends}):
        if end <= both and mine.lr(end) != theirs.lr(end):
            found[compare.RATE] = step_of(end - 1)
            break
    if mine.ends[-1] != theirs.ends[-1]:
        found[compare.END] = both
    return found


# --- small curricula and edits of them --------------------------------------------------------------------

row = st.builds(
    Row,
    sequences=st.integers(4, 16),
    batch=st.sampled_from([1, 2, 4]),
    mixture=st.sampled_from(sorted(MIXTURES)),
    ramp=st.sampled_from([0, 0, 0, 2, 3]),
)
smalls = st.builds(Small, rows=st.lists(row, min_size=1, max_size=3).map(tuple), curve=st.sampled_from(CURVES)).map(
    lambda small: replace(small, rows=(replace(small.rows[0], ramp=0), *small.rows[1:]))
)


EDITS = ("cut", "mixture", "batch", "length", "ramp", "curve", "seed", "skip", "data seed")


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Small, Small]:
    old = draw(smalls)
    rows = list(old.rows)
    new = old
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(rows) - 1))
        edit = draw(st.sampled_from(EDITS))
        if edit == "cut" and rows[at].sequences % (2 * rows[at].batch) == 0 and rows[at].skip is None:
            half = rows[at].sequences // 2
            if rows[at].ramp <= half:
                rows[at : at + 1] = [
                    replace(rows[at], sequences=half),
                    replace(rows[at], sequences=half, ramp=0, data_seed=None),
                ]
        elif edit == "mixture":
            rows[at] = replace(rows[at], mixture=draw(st.sampled_from(sorted(MIXTURES))))
        elif edit == "batch":
            rows[at] = replace(rows[at], batch=draw(st.sampled_from([1, 2, 4])))
        elif edit == "length":
            rows[at] = replace(rows[at], sequences=draw(st.integers(4, 16)), skip=None)
        elif edit == "ramp" and at:
            rows[at] = replace(rows[at], ramp=draw(st.integers(1, 4)))
        elif edit == "skip" and rows[at].sequences > 2:
            begin = draw(st.integers(1, rows[at].sequences - 2))
            rows[at] = replace(rows[at], skip=(begin, draw(st.integers(begin + 1, rows[at].sequences - 1))))
        elif edit == "data seed":
            rows[at] = replace(rows[at], data_seed=draw(st.integers(0, 2)))
        elif edit == "curve":
            new = replace(new, curve=draw(st.sampled_from(CURVES)))
        elif edit == "seed":
            new = replace(new, seed=draw(st.integers(3, 4)))
        new = replace(new, rows=tuple(rows))
    return old, new


def compiled_pair(old: Small, new: Small, folder: Path, windows: int = 7) -> list[timeline.Lineage] | None:
    project = project_of(folder, {"stages/old.yaml": old.yaml(), "stages/new.yaml": new.yaml()})
    try:
        return [lineage_of(project, name, windows) for name in ("old", "new")]
    except PlanError:  # a stage too short, a source never drawn: no pair to compare
        return None


@pytest.mark.promise(
    "The first steps at which two curricula differ, in tokens, rate and batch, are those of a full "
    "replay; agreement is proven without drawing"
)
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(pairs())
@example((Small((Row(8, 2, "three-to-one"),), CURVES[0]), Small((Row(8, 2, "six-to-two"),), CURVES[0])))
@example((Small((Row(16, 2, "one"),), CURVES[3]), Small((Row(8, 2, "one"), Row(8, 2, "one")), CURVES[5])))
@example(  # the same items so far, at another place in the mixture's own count
    (
        Small((Row(6, 2, "nearly"), Row(8, 2, "three-to-one")), CURVES[0]),
        Small((Row(6, 2, "three-to-one"), Row(8, 2, "three-to-one")), CURVES[0]),
    )
)
@example((Small((Row(16, 2, "one"),), CURVES[0]), Small((Row(16, 4, "one"),), CURVES[0])))
def test_the_first_differences_are_those_of_a_replay_of_every_step(pair: tuple[Small, Small]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        lineages = compiled_pair(*pair, Path(folder))
    assume(lineages is not None)
    assert lineages is not None
    old, new = lineages
    compared = compare.compare(old, new)
    expected = judged(old, new)
    reported = {part.what: part.position for part in compared.parts if part.what != "the seed"}
    assert reported == expected
    assert not compared.undecided
    assert all(part.exact for part in compared.parts)
    for part in compared.parts:
        assert replay_step(old, part.position) == part.step
        assert replay_step(new, part.position) <= part.new_step


def replay_step(lineage: timeline.Lineage, position: int) -> int:
    """How many steps end at or before `position`."""
    return sum(end <= position for end in replay(lineage).ends)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(pairs())
def test_tokens_moved_are_what_each_reads_after_the_parting(pair: tuple[Small, Small]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        lineages = compiled_pair(*pair, Path(folder))
    assume(lineages is not None)
    assert lineages is not None
    compared = compare.compare(*lineages)
    moved = {entry.source: [entry.old, entry.new] for entry in compared.moved}
    counted: dict[str, list[int]] = {}
    if not compared.same:
        for side, lineage in enumerate(lineages):
            for name, _ in replay(lineage).reads[compared.same_until // LENGTH :]:
                counted.setdefault(name, [0, 0])[side] += LENGTH
    assert moved == counted


# --- what agrees is proven, what cannot be is said -----------------------------------------------------------


@pytest.mark.promise(
    "Other stage names or cuts into stages are no difference; a difference too small to locate is "
    "bounded, and reported as a bound"
)
def test_the_same_tokens_cut_into_other_stages_under_other_names_are_the_same(tmp_path: Path) -> None:
    whole = Small((Row(16, 2, "three-to-one"),), CURVES[0])
    cut = Small((Row(4, 2, "three-to-one"), Row(8, 2, "six-to-two"), Row(4, 2, "three-to-one")), CURVES[0])
    lineages = compiled_pair(whole, cut, tmp_path)
    assert lineages is not None
    compared = compare.compare(*lineages)
    assert compared.same
    assert [shared.steps for shared in compared.shared] == [2, 4, 2]


@pytest.mark.promise(
    "The first steps at which two curricula differ, in tokens, rate and batch, are those of a full "
    "replay; agreement is proven without drawing"
)
def test_agreement_is_proven_from_the_parameters_and_not_by_drawing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lineages = compiled_pair(*[Small((Row(16, 2, "three"),), CURVES[0])] * 2, tmp_path)
    assert lineages is not None
    drawn: list[int] = []
    monkeypatch.setattr(diff_tokens._Side, "draws", lambda *_: drawn.append(1))
    monkeypatch.setattr(LearningRate, "at", lambda *_: drawn.append(1))
    assert compare.compare(*lineages).same
    assert not drawn


@pytest.mark.promise(
    "Other stage names or cuts into stages are no difference; a difference too small to locate is "
    "bounded, and reported as a bound"
)
def test_shares_that_differ_by_little_are_bounded_from_above_where_comparing_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diff_tokens, "SEQUENCES_COMPARED", 256)
    rows = [Small((Row(40_000, 40, mixture),), CURVES[5]) for mixture in ("three-to-one", "nearly")]
    lineages = compiled_pair(*rows, tmp_path, windows=40_000)  # one pass: a replay is quick
    assert lineages is not None
    (part,) = compare.compare(*lineages).parts
    assert not part.exact
    true = judged(*lineages)[compare.TOKENS]
    assert part.same_until <= true <= part.position
    assert part.position < 40_000 * LENGTH / 2


@pytest.mark.promise(
    "Other stage names or cuts into stages are no difference; a difference too small to locate is "
    "bounded, and reported as a bound"
)
def test_a_horizon_moved_by_little_is_bounded_from_above_where_comparing_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning_rate, "VALUES_COMPARED", 8)
    curves = [
        LearningRate("cosine", max=4e-4, min=4e-5, warmup=10**9, horizon=2 * 10**12 + extra) for extra in (0, 1000)
    ]
    base = compile_curriculum(Project(ROOT), "v1.1", "full").stages[0].plan
    sides_ = [(Span("s", replace(base, learning_rate=curve), base.end),) for curve in curves]
    (part,) = compare.compare(*sides_).parts
    assert part.what == compare.RATE
    assert not part.exact
    plans = [side[0].plan for side in sides_]
    assert plans[0].lr(part.step) != plans[1].lr(part.step)
    before = plans[0].step_at(part.same_until)
    assert all(plans[0].lr(step) == plans[1].lr(step) for step in range(before))
    assert 10**9 // 1_835_008 < before < part.step < before + 1000


@given(
    st.sampled_from(["cosine", "linear", "wsd", "constant"]),
    st.integers(0, 40),
    st.integers(41, 99),
    st.none() | st.builds(Rewarm, st.integers(0, 99), st.integers(1, 40), st.sampled_from([0.0, 0.5])),
    st.integers(0, 120),
)
def test_curves_with_equal_forms_have_equal_values_until_the_next_break(
    shape: Any, warmup: int, horizon: int, rewarm: Rewarm | None, position: int
) -> None:
    curve = LearningRate(
        shape, max=1.0, min=0.25, warmup=warmup, horizon=horizon, decay=1 if shape == "wsd" else 0, rewarm=rewarm
    )
    other = max((b for b in (0, *curve.breaks()) if b <= position), default=0)
    assert curve.form(position) == curve.form(other)
    if curve.form(position)[0] == "steady":
        assert curve.at(position) == curve.form(position)[1]


@pytest.mark.parametrize("position", [10, 24, 100, 180, 181, 240])
def test_a_history_leaves_out_what_the_curve_does_later_and_nothing_else(position: int) -> None:
    short = LearningRate("wsd", max=1.0, min=0.1, warmup=24, horizon=240, decay=60)
    later = LearningRate("wsd", max=1.0, min=0.1, warmup=24, horizon=400, decay=60)
    same = all(short.at(p) == later.at(p) for p in range(position + 1))
    assert (short.until(position) == later.until(position)) is same


# --- shipped curricula, addresses, files ----------------------------------------------------------------------


def test_variants_part_at_the_first_sequence_of_other_text_at_full_size_in_milliseconds() -> None:
    project = Project(ROOT)
    mine, theirs = (diff_sides.side(project, name, "full").lineage for name in ("v1.1", "v1.1-math-code"))
    compared = compare.compare(mine, theirs)
    (part,) = compared.parts
    assert part.what == compare.TOKENS
    assert 817_436 <= part.step < 817_436 + 8
    assert compared.shared[0].whole
    assert compared.shared[0].steps == 817_436
    assert sum(entry.old for entry in compared.moved) == sum(entry.new for entry in compared.moved)
    assert {entry.source: entry.difference > 0 for entry in compared.moved} == {
        "proof-pile-2": True,
        "slimpajama": False,
        "starcoder-python-jupyter": True,
    }


def test_a_cooldown_without_the_larger_batch_parts_in_the_batch_and_not_in_the_tokens(tmp_path: Path) -> None:
    text = (ROOT / "stages/v1.1-math-code.yaml").read_text().replace("3584", "896")
    (tmp_path / "control.yaml").write_text(text)
    project = Project(ROOT)
    mine = diff_sides.side(project, "v1.1-math-code", "full").lineage
    theirs = diff_sides.side(project, str(tmp_path / "control.yaml"), "full").lineage
    parts = {part.what: part for part in compare.compare(mine, theirs).parts}
    assert set(parts) == {compare.BATCH}
    assert parts[compare.BATCH].step == 817_436 + 190_734


def test_an_address_ends_where_it_says() -> None:
    project = Project(ROOT)
    whole = diff_sides.side(project, "v1.1", "full").lineage
    part = diff_sides.side(project, "v1.1@1.2T", "full").lineage
    compared = compare.compare(whole, part)
    assert [p.what for p in compared.parts] == [compare.END]
    assert compared.new_end == -(-12 * 10**11 // 1_835_008) * 1_835_008
    assert compare.compare(diff_sides.side(project, "v1.1/basic", "full").lineage, whole[:1]).same


def test_a_plan_file_is_compared_from_where_it_begins_with_the_history_it_names(tmp_path: Path) -> None:
    stages = compile_curriculum(Project(ROOT), "v1.1-math-code", "full").stages
    stages[1].plan.save(tmp_path / "plan.json")
    alone = diff_sides.side(Project(ROOT), str(tmp_path / "plan.json"), "full").lineage
    assert alone[0].name == "v1.1-math-code/continual"
    same = compare.compare(alone, compile.spans(stages))
    assert [part.what for part in same.parts] == [compare.END]
    assert same.begin == stages[1].plan.start
    parent = stages[1].plan.parent
    assert parent is not None
    other = replace(stages[1].plan, parent=replace(parent, fingerprint="0" * 64))
    parts = compare.compare(alone, (Span("other", other, other.end),)).parts
    assert [part.what for part in parts] == [compare.HISTORY]


def both(old: StagePlan, new: StagePlan) -> compare.PlanDiff:
    """Two plans of the same stage, compared."""
    return compare.compare((Span("", old, old.end),), (Span("", new, new.end),))


def test_every_setting_that_trains_otherwise_is_named() -> None:
    plan = compile_curriculum(Project(ROOT), "v1.1", "rehearsal").stages[1].plan
    changes: Sequence[tuple[str, dict[str, Any]]] = [
        ("the seed", {"seed": 1}),
        ("the model", {"model": {**plan.model, "hidden_size": 1}}),
        ("the tokenizer", {"tokenizer": {"digest": "x"}}),
        ("the optimizer", {"optimizer": {**plan.optimizer, "weight_decay": 0.0}}),
        ("the sequence length", {"sequence_length": 64, "batch_sequences": 32}),
        ("the batch", {"batch_sequences": 4, "steps": plan.steps * 4}),
        (compare.RESET, {"reset_optimizer": True}),
        ("document masking", {"mask_documents": True}),
        ("the text of `slimpajama`", {"sources": {n: replace(s, dataset="other") for n, s in plan.sources.items()}}),
    ]
    for what, change in changes:
        found = {part.what: part.step for part in both(plan, replace(plan, **change)).parts}
        assert found[what] == plan.first_step


def test_text_appended_for_later_passes_changes_nothing_before_it_is_read(tmp_path: Path) -> None:
    lineages = compiled_pair(*[Small((Row(16, 2, "three-to-one"),), CURVES[5])] * 2, tmp_path)
    assert lineages is not None
    plan = lineages[0][0].plan
    source = plan.sources["a"]
    added = replace(
        source,
        segments=(*source.segments, replace(source.segments[0], first_item=9, pass_number=1, name="1", windows=5)),
    )
    grown = replace(plan, sources={**plan.sources, "a": added})
    old, new = ((Span("s", p, p.end),) for p in (plan, grown))
    (part,) = [p for p in compare.compare(old, new).parts if p.what == compare.TOKENS]
    assert part.position == judged(old, new)[compare.TOKENS]
    assert plan.items(part.position // LENGTH)["a"] >= 9 - 2


def test_weights_as_percentages_or_fractions_are_one_plan(tmp_path: Path) -> None:
    files = {"stages/x.yaml": Small((Row(16, 2, "m"),), CURVES[0]).yaml()}
    plans: list[StagePlan] = []
    for weights in ("a: 75, b: 25", "b: 25.0, a: 75.00", "a: 0.75, b: 0.25"):
        files["mixtures/m.yaml"] = f"weights: {{{weights}}}  # shares\n"
        plans.append(lineage_of(project_of(tmp_path, files), "x", windows=50)[0].plan)
    assert plans[0].blends[0].mixer.weights == {"a": 3, "b": 1}  # type: ignore[union-attr]
    assert both(plans[0], plans[1]).same
    assert len({plan.fingerprint for plan in plans}) == 1
    assert Fraction(3, 4) == plans[2].blends[0].mixer.share("a")  # type: ignore[union-attr]

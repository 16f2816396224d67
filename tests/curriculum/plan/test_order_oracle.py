"""Every slot of thousands of small plans is what the oracle finds, and every mutation listed here is noticed.

A plan is drawn at random: mixtures with ties, ramps, several stages, batches that change, skips, restarts, and
variants that branch anywhere, also in the middle of a ramp and off each other; `oracle.py` walks it from its root.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import lineages
import mutants
import numpy as np
import oracle
import pytest

from curriculum.compiler.compile import compile_curriculum
from curriculum.errors import CurriculumError
from curriculum.plan.mixing import Ramp, Tree
from curriculum.plan.stage import Draws

LENGTH = lineages.LENGTH
TOKENS = {"a": 85, "b": 148, "c": 41, "d": 60}
IN_ORDER = "c"
EXAMPLES, EACH = 12, 24


def draw_stages(draw: random.Random, start: int, mixtures: list[dict[str, int]], branch: bool) -> list[dict[str, Any]]:
    stages = []
    for number in range(draw.randint(1, 3)):
        batch = draw.choice([1, 2, 3, 5, 8])
        until = start + draw.randint(batch * LENGTH + 40, 500)
        stage: dict[str, Any] = {"until": until, "batch": batch, "mixture": draw.choice(mixtures)}
        if (branch or number) and draw.random() < 0.3:
            del stage["mixture"]  # a stage that says neither goes on as it was, also along a ramp
        elif (branch or number) and draw.random() < 0.6:
            stage["ramp"] = draw.randint(1, until - start - 35)
        if (branch or number) and draw.random() < 0.2:
            stage["restart"] = True
        if draw.random() < 0.35 and until - start > 40:
            # two that begin at one step are refused; the stage begins up to a step past its declared start
            begins = sorted(draw.sample(range(start + 33, until), 2))
            apart = begins[1] - begins[0] >= batch * LENGTH
            stage["skip"] = [(at, draw.randint(at + 1, until)) for at in begins[: 1 + apart]]
        reseeds = random.Random(f"{until} {batch}")  # the other draws stay what they were without data seeds
        if reseeds.random() < 0.3:
            stage["data_seeds"] = [reseeds.randint(0, 3)]
        stages.append(stage)
        start = until
    return stages


def text_of(stages: list[dict[str, Any]], mixtures: list[dict[str, int]]) -> str:
    lines = []
    for number, stage in enumerate(stages):
        words = [f"name: s{number}", f"until: {stage['until']} tokens", f"batch: {stage['batch']} sequences"]
        if "mixture" in stage:
            words.append(f"mixture: m{mixtures.index(stage['mixture'])}")
        if "ramp" in stage:
            words.append(f"ramp: {stage['ramp']} tokens")
        if "restart" in stage:
            words.append("positions: restart")
        if "data_seeds" in stage:
            words.append(f"data_seed: {stage['data_seeds'][0]}")
        if "skip" in stage:
            skips = ", ".join(f"{{from: {max(a, 1)}, to: {b}, why: x}}" for a, b in stage["skip"])
            words.append(f"skip: [{skips}]")
        lines.append(f"  - {{{', '.join(words)}}}")
    return "\n".join(lines) + "\n"


def leave(
    lineage: oracle.Lineage,
    stage: dict[str, Any],
    following: dict[str, Any] | None,
    children: dict[str, int],
    at_branch: dict[str, tuple[oracle.Lineage, dict[str, Any]]],
) -> None:
    """At the first step boundary at or past where a child branches, it takes the state along.

    With it goes what is not done yet of the stage in which it branches: of `following`, where `stage` ends before.
    """
    for child, at in list(children.items()):
        if lineage.position >= at:
            left: dict[str, Any] = {"skip": lineage.skips}
            if at > stage["until"] and following is not None:
                left = following
            skips = [skip for skip in left.get("skip", ()) if skip[0] < at]
            at_branch[child] = lineage.copy(), {**left, "skip": skips}
            del children[child]


def drawn(draws: Draws) -> list[oracle.Slot]:
    each = zip(draws.source.tolist(), draws.pass_number.tolist(), draws.window.tolist(), strict=True)
    return [(draws.names[source], number, window) for source, number, window in each]


def check(number: int, folder: Path) -> int:
    """Draw example `number`, compile it, walk it; returns how many stages agreed. AssertionError where one does not."""
    draw = random.Random(number)
    mixtures = [
        {name: draw.randint(1, 4) for name in draw.sample(sorted(TOKENS), draw.randint(1, 4))} for _ in range(3)
    ]
    seed = draw.randint(0, 3)
    files = {
        f"mixtures/m{at}.yaml": f"weights: {{{', '.join(f'{n}: {w}' for n, w in mixture.items())}}}\n"
        f"passes: {{{', '.join(f'{n}: 10000' for n in mixture)}}}\n"
        for at, mixture in enumerate(mixtures)
    }
    files["sources.yaml"] = "tokenizers:\n  small: {train: [a], vocab_size: 300}\nsources:\n" + "".join(
        f"  {name}: {{read: {{folder: {name}}}, held_out: 25%, tokens: {tokens}"
        f"{', order: in-order' if name == IN_ORDER else ''}}}\n"
        for name, tokens in TOKENS.items()
    )
    head = lineages.BASE["stages/root.yaml"].split("stages:")[0].replace("seed: 7", f"seed: {seed}")
    stages = {"one": draw_stages(draw, 0, mixtures, False)}
    files["stages/one.yaml"] = head + "stages:\n" + text_of(stages["one"], mixtures)
    branches: dict[str, tuple[str, int]] = {}
    for name, parent in (("two", "one"), ("three", "two")):
        at = draw.randint(1 if parent == "one" else branches[parent][1] + 1, stages[parent][-1]["until"] - 1)
        branches[name] = (parent, at)
        # The parent's own step may end well past `at`; what follows begins behind it.
        stages[name] = draw_stages(draw, at + 8 * LENGTH, mixtures, True)
        files[f"stages/{name}.yaml"] = f"from: {parent}@{at}\nstages:\n" + text_of(stages[name], mixtures)
    project = lineages.project_of(files, folder)
    agreed = 0
    at_branch: dict[str, tuple[oracle.Lineage, dict[str, Any]]] = {"one": (oracle.Lineage(), {})}
    for name, own in stages.items():
        compiled = compile_curriculum(project, name, "full").stages[-len(own) :]
        texts = {
            source: oracle.Text(plan.windows, plan.order == "in-order")
            for stage in compiled
            for source, plan in stage.plan.sources.items()
        }
        lineage, left = at_branch[name]
        own = [oracle.joined(own[0], left), *own[1:]]
        children = {child: at for child, (parent, at) in branches.items() if parent == name}
        before = {"until": lineage.position if name == "one" else branches[name][1]}
        for stage, written, following in zip(compiled, own, [*own[1:], None], strict=True):
            plan, first = stage.plan, lineage.step
            assert (plan.first_step, plan.start) == (lineage.step, lineage.position)
            texts = {source: texts[source] for source in plan.sources} | texts
            found = drawn(plan.draws_of(plan.first_step, plan.stop_step))
            leave(lineage, before, written, children, at_branch)
            for step, slots in oracle.take(lineage, written, texts, seed=seed, length=LENGTH):
                here = (step - first) * len(slots)
                assert found[here : here + len(slots)] == slots, f"example {number}, {name}, step {step}"
                if step in (first, plan.stop_step - 1):
                    assert drawn(plan.draws(step)) == slots
                leave(lineage, written, following, children, at_branch)
            before = written
            assert plan.stop_step == lineage.step > first
            used = {source: count for source, count in lineage.used.items() if count}
            planned = {source: count for source, count in plan.items(plan.sequences).items() if count}
            assert planned == used or written.get("skip")
            agreed += 1
    return agreed


@pytest.mark.promise(
    "A branch inside a ramp that changes nothing draws what its parent draws, at every size, with any "
    "batch, from any depth"
)
@pytest.mark.promise(
    "Every slot of random lineages equals a reference oracle's; each of a list of mutated orders is noticed"
)
@pytest.mark.parametrize("part", range(EXAMPLES))
def test_every_slot_of_random_lineages_is_what_the_oracle_finds(part: int, tmp_path: Path) -> None:
    agreed = 0
    for number in range(part * EACH, (part + 1) * EACH):
        agreed += check(number, tmp_path / str(number))
    assert agreed > 3 * EACH


# --- mutations ----------------------------------------------------------------------------------------------

EXACT = {
    "d": {"a": 1, "b": 2**31 - 4, "c": 2},
    "e": {"a": 999_983, "b": 1_000_003, "c": 17},
    "f": {f"s{n}": 3**n for n in range(19)},
}


def check_far(number: int, folder: Path) -> None:
    """Draws far out, where a product of two of their numbers leaves int64, against whole numbers without bounds."""
    draw = random.Random(number)
    for weights in EXACT.values():
        tree = Tree(weights)
        places = [draw.randrange(10 ** draw.randint(1, 18)) for _ in range(20)]
        found = tree.draw(np.array(places))
        ramp = Ramp(tree, 0, Tree({"a": 1, "z": 2}), 2**31 - 1)
        for place, source, ordinal in zip(places, *(part.tolist() for part in found), strict=True):
            before, after = tree.counts(place), tree.counts(place + 1)
            grown = [name for name in before if after[name] > before[name]]
            assert grown == [tree.names[source]]
            assert before[grown[0]] == ordinal
            share = {name: Fraction(weight, tree.total) for name, weight in weights.items()}
            assert all(abs(before[name] - place * share[name]) < 2 for name in weights)
            i = place % ramp.sequences
            assert ramp.after_index(i) == oracle.nearest(i * i, 2 * ramp.sequences)


ORDER, PERMUTATION, MIXING = (
    "curriculum.compiler.mixture_phases",
    "curriculum.plan.permutation",
    "curriculum.plan.mixing",
)
PLAN, PASSES, PLANNER = "curriculum.plan.stage", "curriculum.plan.source", "curriculum.compiler.clock"
Check = Callable[[int, Path], object]

MUTATIONS: dict[str, tuple[Check, str, str, str]] = {
    "floor instead of round in a tree": (
        check,
        MIXING,
        "product = 2 * (m - q * w) * part + w",
        "product = 2 * (m - q * w) * part",
    ),
    "floor instead of round in its counts": (
        check,
        MIXING,
        "return (2 * m * left + weight) // (2 * weight)",
        "return m * left // weight",
    ),
    "floor instead of round in a ramp": (
        check,
        MIXING,
        "a, remainder = np.divmod(i * i + n, 2 * n)",
        "a, remainder = np.divmod(i * i, 2 * n)",
    ),
    "floor instead of round in a ramp's counts": (
        check,
        MIXING,
        "return same_kind(index, np.asarray((i * i + self.sequences) // (2 * self.sequences)))",
        "return same_kind(index, np.asarray((i * i) // (2 * self.sequences)))",
    ),
    "naive int64 product in a tree": (check_far, MIXING, "q = m // w", "q = m * 0"),
    "ties by list order": (
        check,
        MIXING,
        "heap = [(weight, name, ~number)",
        "heap = [(weight, f'{99 - number:02}', ~number)",
    ),
    "ties by the largest name inside": (check, MIXING, "min(lighter[1], heavier[1])", "max(lighter[1], heavier[1])"),
    "the heavier first": (
        check,
        MIXING,
        "lighter, heavier = heapq.heappop(heap), heapq.heappop(heap)",
        "heavier, lighter = heapq.heappop(heap), heapq.heappop(heap)",
    ),
    "ramp ends a sequence early": (
        check,
        ORDER,
        "MixtureSegment(first=ramp, blend=1, index=after)",
        "MixtureSegment(first=ramp - 1, blend=1, index=after)",
    ),
    "after a ramp the tree restarts": (
        check,
        ORDER,
        "MixtureSegment(first=ramp, blend=1, index=after)",
        "MixtureSegment(first=ramp, blend=1, index=0)",
    ),
    "a ramp started in a ramp leaves from its end": (
        check,
        ORDER,
        "from_weights, from_index = integer_weights(mixer.shares(state.index), lossy=True), 0",
        "from_weights, from_index = dict(old.weights), 0",
    ),
    "a ramp's old tree restarts": (
        check,
        ORDER,
        "from_weights, from_index = dict(old.weights), state.index",
        "from_weights, from_index = dict(old.weights), 0",
    ),
    "the same mixture restarts": (
        check,
        ORDER,
        "return (old,), [MixtureSegment(first=0, blend=0, index=state.index)]",
        "return (old,), [MixtureSegment(first=0, blend=0, index=0)]",
    ),
    "a left ramp's tree restarts": (
        check,
        ORDER,
        "[MixtureSegment(first=0, blend=0, index=after)]",
        "[MixtureSegment(first=0, blend=0, index=0)]",
    ),
    "positions forgotten at a new mixture": (
        check,
        ORDER,
        "(MixturePhase(weights=weights, base=state.items),)",
        "(MixturePhase(weights=weights, base={}),)",
    ),
    "half-open edge of a piece closed": (
        check,
        PLAN,
        'firsts, sequence, side="right"',
        'firsts, sequence - 1, side="right"',
    ),
    "half-open edge of a pass closed": (
        check,
        PASSES,
        "divmod(item[inside] - segment.first_item,",
        "divmod(item[inside] - segment.first_item - 1,",
    ),
    "half-open edge of a segment closed": (
        check,
        PASSES,
        'np.searchsorted(starts, item, side="right")',
        'np.searchsorted(starts, item - 1, side="right")',
    ),
    "rotation left out": (check, PLAN, "(slot + self.rotations(step)) % batch", "slot % batch"),
    "rotation the other way": (
        check,
        PLAN,
        "(slot + self.rotations(step)) % batch",
        "(slot - self.rotations(step)) % batch",
    ),
    "rotation not keyed by the step": (check, PERMUTATION, "digest.update(text)", 'digest.update(b"0" * len(text))'),
    "pass not in the key": (
        check,
        PERMUTATION,
        "names = (ORDER_VERSION, seed, source, pass_number, segment)",
        "names = (ORDER_VERSION, seed, source, 0, segment)",
    ),
    "source not in the key": (
        check,
        PERMUTATION,
        "names = (ORDER_VERSION, seed, source, pass_number, segment)",
        "names = (ORDER_VERSION, seed, '', pass_number, segment)",
    ),
    "seed not in the key": (
        check,
        PERMUTATION,
        "names = (ORDER_VERSION, seed, source, pass_number, segment)",
        "names = (ORDER_VERSION, 0, source, pass_number, segment)",
    ),
    "eight rounds on a small grid": (
        check,
        PERMUTATION,
        "ROUNDS_ON_SMALL_GRIDS: Final = 24",
        "ROUNDS_ON_SMALL_GRIDS: Final = 8",
    ),
    "one multiplication": (check, PERMUTATION, "x ^= x >> shift", "x ^= x >> np.uint64(1)"),
    "walking on once at most": (check, PERMUTATION, "outside = outside[moved >= part.size]", "outside = outside[:0]"),
    "data seed not in the key": (check, PASSES, "further=(reseed.data_seed,", "further=(0,"),
    "a data seed also moves what was read": (check, PASSES, "max(0, reseed.first_item - first_item)", "0"),
    "the first data seed is applied first": (check, PASSES, "in reversed(self.rests)", "in (*self.rests,)"),
    "a source forgets the data seeds from before it": (
        check,
        "curriculum.compiler.sources",
        "for data_seed in setting.earlier_data_seeds)",
        "for data_seed in ())",
    ),
    "an in-order source is shuffled": (check, PASSES, 'self.order == "in-order"', 'self.order == "never"'),
    "a skip's length floored": (
        check,
        ORDER,
        "length = -(-(end - begin) // batch_tokens) * batch",
        "length = (end - begin) // batch_tokens * batch",
    ),
    "a skip begins a step early": (
        check,
        ORDER,
        "step = max(0, clock.batches.step_from(begin))",
        "step = max(0, clock.batches.step_from(begin) - 1)",
    ),
    "a stage ends before its end": (
        check,
        "curriculum.plan.batch_clock",
        "return clock, clock.step_from(declared_end)",
        "return clock, max(1, clock.step_from(declared_end) - 1)",
    ),
    "a branch leaves a step early": (
        check,
        PLANNER,
        "cut_steps = batches.step_from(scaler.tokens(stage.cut))",
        "cut_steps = batches.step_from(scaler.tokens(stage.cut)) - 1",
    ),
    "a restart goes on with the pass": (
        check,
        "curriculum.compiler.segments",
        "used, last.pass_number + passes, out_of",
        "used, last.pass_number, out_of",
    ),
}


@pytest.mark.promise(
    "Every slot of random lineages equals a reference oracle's; each of a list of mutated orders is noticed"
)
@pytest.mark.parametrize("what", MUTATIONS)
def test_a_wrong_order_is_noticed(what: str, tmp_path: Path) -> None:
    probe, module, old, new = MUTATIONS[what]
    with mutants.mutated(module, old, new):
        noticed = False
        for number in range(3 * EACH):
            try:
                probe(number, tmp_path / str(number))
            except (AssertionError, CurriculumError, ValueError, IndexError):  # wrong, or out of any bounds
                noticed = True
                break
    assert noticed, "every example agreed with a wrong order"
    probe(0, tmp_path / "sound")

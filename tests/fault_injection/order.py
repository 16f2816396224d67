"""R6: generated plans stopped and resumed on other numbers of ranks, against a plain list of what must be read."""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter
from fractions import Fraction

from curriculum.plan.mixing import Tree
from curriculum.plan.ranks import share_of_rank
from curriculum.plan.source import Segment, SourcePlan
from curriculum.plan.stage import MixturePhase, MixtureSegment, StagePlan
from tests.fault_injection import small
from tests.fault_injection.figures import Case, Tally, figure

WORLDS = (1, 2, 3, 4, 6, 8)
RESUMES = 6


def drawn_lineage(draw: random.Random) -> list[StagePlan]:
    """One to three stages of random mixtures, batches, ramps and text sizes, each going on where the last left."""
    names = sorted(draw.sample(["arts", "code", "law", "maths", "prose", "wiki"], draw.randint(1, 5)))
    windows = {name: draw.randint(1, 60) for name in names}
    plans: list[StagePlan] = []
    seed = draw.randrange(1 << 30)
    base: dict[str, int] = {}
    start = first_step = 0
    before: dict[str, int] | None = None
    for _ in range(draw.randint(1, 3)):
        weights = {name: draw.randint(1, 50) for name in draw.sample(names, draw.randint(1, len(names)))}
        steps = draw.randint(2, 9)
        batch = draw.choice((24, 48))
        sequences = steps * batch
        ramp = draw.randint(1, sequences) if before is not None and draw.random() < 0.5 else 0
        blends, pieces = ([MixturePhase(weights=weights, base=base)], [MixtureSegment(first=0, blend=0, index=0)])
        if ramp:
            index = draw.randrange(30)
            moving = MixturePhase(weights=weights, base=base, before=before, before_index=index, ramp=ramp)
            taken = _after(ramp, ramp)  # what follows the ramp goes on counting in the tree after it
            counted = Tree(weights).counts(taken)
            rest = {name: items - counted.get(name, 0) for name, items in moving.items(ramp).items()}
            blends = [moving, MixturePhase(weights=weights, base=rest)]
            if ramp < sequences:
                pieces.append(MixtureSegment(first=ramp, blend=1, index=taken))
        plan = small.plan(
            seed=seed,
            batch_sequences=batch,
            first_step=first_step,
            steps=steps,
            start=start,
            sources={
                name: SourcePlan(dataset=name, segments=(Segment(first_item=0, pass_number=0, windows=windows[name]),))
                for name in names
            },
            blends=tuple(blends),
            pieces=tuple(pieces),
            read_before={},
        )
        plans.append(plan)
        base = {**base, **plan.items(sequences)}
        before = weights
        start, first_step = plan.end, plan.stop_step
    return plans


def expected(plan: StagePlan) -> list[tuple[str, int]]:
    """The list, made by counting one sequence after another: source and how-manieth of it, in the stage's order."""
    blend = plan.blends[0]
    count = {name: blend.base.get(name, 0) for name in plan.names}
    one, other = _Counter(blend.weights), _Counter(blend.before) if blend.before else None
    for _ in range(blend.before_index if other else 0):
        other.next()
    found = []
    for number in range(plan.sequences):
        if other is None or number >= blend.ramp or _after(number + 1, blend.ramp) > _after(number, blend.ramp):
            name = one.next()
        else:
            name = other.next()
        found.append((name, count[name]))
        count[name] += 1
    return found


def _after(sequences: int, ramp: int) -> int:
    return (sequences * sequences + ramp) // (2 * ramp)


class _Counter:
    """A mixture drawn by hand: a tree of splits, each sending on to the side that lags behind its share."""

    def __init__(self, weights: dict[str, int]) -> None:
        leaves = [(Fraction(weight), (name,), name) for name, weight in weights.items()]
        while len(leaves) > 1:
            leaves.sort(key=lambda leaf: (leaf[0], min(leaf[1])))
            (lw, ln, left), (rw, rn, right) = leaves[:2]
            leaves = [*leaves[2:], (lw + rw, (*ln, *rn), [left, right, lw / (lw + rw), 0])]  # type: ignore[list-item]
        self.tree = leaves[0][2]

    def next(self) -> str:
        at = self.tree
        while not isinstance(at, str):
            left, right, share, seen = at
            at[3] = seen + 1
            to_left = _half_up(share * (seen + 1)) > _half_up(share * seen)
            at = left if to_left else right
        return at


def _half_up(value: Fraction) -> int:
    return (2 * value.numerator + value.denominator) // (2 * value.denominator)


@figure("R6", "1 to 3 generated stages stopped 6 times and resumed on 1 to 8 ranks: none twice, none missing")
def exactly_once(case: Case, tally: Tally) -> None:
    for number in range(case.count(20, 1000, 50_000)):
        draw = case.draw("R6", number)
        wrong = ""
        per_pass: Counter[tuple[str, int, int]] = Counter()
        for plan in drawn_lineage(draw):
            wrong = wrong or _stage(plan, draw, per_pass)
        tally.trial(f"case {number}: {wrong}", not wrong)


def _stage(plan: StagePlan, draw: random.Random, per_pass: Counter[tuple[str, int, int]]) -> str:
    """What is wrong with what a stage reads; `per_pass` counts source, pass and window over the lineage."""
    wanted = expected(plan)
    steps = [plan.first_step + draw.randrange(plan.steps + 1) for _ in range(RESUMES)]
    stops = sorted({plan.first_step, *steps, plan.stop_step})
    read: list[Counter[tuple[str, int]]] = []
    written = json.dumps(plan.to_json())
    for begin, end in itertools.pairwise(stops):
        # every attempt knows nothing but the file and the step
        again = StagePlan.from_json(json.loads(written))
        ranks = draw.choice([size for size in WORLDS if not again.batch_sequences % size])
        share_of_rank(again.batch_sequences, ranks)
        for step in range(begin, end):
            parts = [again.draws(step).rank(rank, ranks) for rank in range(ranks)]
            counted: Counter[tuple[str, int]] = Counter()
            for part in parts:
                for source, item, turn, window in zip(
                    part.source.tolist(),
                    part.item.tolist(),
                    part.pass_number.tolist(),
                    part.window.tolist(),
                    strict=True,
                ):
                    counted[again.names[source], item] += 1
                    per_pass[again.names[source], turn, window] += 1
            read.append(counted)
    batch = plan.batch_sequences
    for number, counted in enumerate(read):
        mine = Counter(wanted[number * batch : (number + 1) * batch])
        if counted != mine:
            lost, double = mine - counted, counted - mine
            return f"step {plan.first_step + number}: missing {dict(lost)}, not expected {dict(double)}"
    if len(read) != plan.steps:
        return f"{len(read)} steps instead of {plan.steps}"
    twice = [key for key, times in per_pass.items() if times > 1]
    return f"read twice in one pass: {twice[:3]}" if twice else ""

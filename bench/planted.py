"""How often the interval of a proposed share contains the share that the planted laws prefer, on simulated studies.

Every study has laws of its own, drawn at random, of three losses of three sources: log-linear ones, or ones with a
power of the own source's share. A swarm of 15 mixtures and two controls in three runs each are measured with noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.measure import Row, arguments, goal, machine, save, table
from curriculum.studies import programme
from curriculum.studies.decide import decide
from curriculum.studies.decision import Question
from curriculum.studies.evidence import Evidence, Role, Row as Run
from curriculum.studies.intervals import RESAMPLES
from curriculum.studies.laws.huber import Array
from curriculum.studies.laws.mixture import SHIFTS, MixtureLaw
from curriculum.studies.programme import Programme

SOURCES = ("text", "code", "math")
AROUND = np.array([0.6, 0.2, 0.2])
SWARM, REPLICATES = 15, 3
POWERED = "own-share-power"
LAWS = ("log-linear", POWERED)
AWAITED = 0.9
"""Share of the studies whose interval contains the planted share, of a nominal 95%: few arms leave it open."""


def planted_laws(seed: int, *, power: bool) -> dict[str, MixtureLaw]:
    """A law of each source's loss: it falls with the source's own share, by the exponent and, with `power`, by both."""
    draw = np.random.default_rng([7, seed])
    laws = {}
    for own, source in enumerate(SOURCES):
        slopes = draw.uniform(-0.4, 0.2, len(SOURCES))
        slopes[own] -= draw.uniform(0.0, 0.4) if power else draw.uniform(0.3, 1.2)
        floor, exponent, shift = float(draw.uniform(1, 3)), float(draw.uniform(0.03, 0.3)), float(draw.choice(SHIFTS))
        law = MixtureLaw(floor, tuple((slopes - slopes.mean()).tolist()), None, 0.0, 0.0, 0.0)
        laws[source] = replace(law, own=own, power=exponent, shift=shift) if power else law
    return laws


def planted_optimum(laws: Mapping[str, MixtureLaw]) -> Array:
    """The shares that the programme of the planted laws prefers."""
    lower = tuple((law, 1 / len(laws)) for law in laws.values())
    free = np.zeros(len(SOURCES)), np.ones(len(SOURCES))
    return programme.solve(Programme(lower, AROUND, *free)).shares


def planted_study(laws: Mapping[str, MixtureLaw], seed: int, noise: float) -> Evidence:
    """The runs of a study whose losses are those of `laws` with normal `noise` (nats) for each run."""
    draw = np.random.default_rng([11, seed])
    arms: list[tuple[str, Role, Array, int]] = [
        (f"swarm-{at:02}", "swarm", shares, 1) for at, shares in enumerate(draw.dirichlet([2.0, 1.0, 1.0], size=SWARM))
    ]
    arms.append(("stated", "control", AROUND, REPLICATES))
    arms.append(("uniform", "control", np.full(len(SOURCES), 1 / len(SOURCES)), REPLICATES))
    rows = []
    for name, role, shares, replicates in arms:
        settings = dict(zip(SOURCES, shares.tolist(), strict=True))
        for replicate in range(1, replicates + 1):
            for source, law in laws.items():
                loss = float(law.predict(shares[None])[0]) + float(draw.normal(0, noise))
                rows.append(Run(name, replicate, 1, role, settings, source, loss))
    return Evidence(tuple(rows))


def inside(seed: int, *, power: bool, noise: float, resamples: int) -> tuple[NDArray[np.bool_], Array]:
    """Whether the interval of each share contains the planted one, and how wide it is, both of shape `[sources]`."""
    laws = planted_laws(seed, power=power)
    optimum = planted_optimum(laws)
    around = dict(zip(SOURCES, AROUND.tolist(), strict=True))
    lower = dict.fromkeys(SOURCES, 1.0)
    question = Question("planted", "mixture", lower, {}, SOURCES, around, resamples=resamples)
    proposal = decide(question, planted_study(laws, seed, noise)).proposal
    assert proposal is not None, "a mixture is proposed"
    spans = np.array([proposal.intervals[source] for source in SOURCES])
    return (spans[:, 0] <= optimum) & (optimum <= spans[:, 1]), spans[:, 1] - spans[:, 0]


def main() -> None:
    more: dict[str, Any] = {
        "laws": {"nargs": "+", "choices": LAWS, "default": LAWS, "help": "which laws are planted"},
        "noise": {"type": float, "default": 0.003, "help": "standard deviation of a run, nats"},
        "studies": {"type": int, "default": 100, "help": "how many of each"},
        "resamples": {"type": int, "default": RESAMPLES, "help": "of the arms of a study"},
    }
    given = arguments(__doc__, **more)
    machine("scipy")
    number, resamples = (2, 5) if given.toy else (given.studies, given.resamples)
    rows = []
    for name in given.laws:
        power = name == POWERED
        each = [inside(seed, power=power, noise=given.noise, resamples=resamples) for seed in range(number)]
        hits, widths = np.array([hit for hit, _ in each]), np.array([width for _, width in each])
        row = Row(name, hits.mean(axis=0).tolist())
        row.more = {"all three": f"{hits.all(axis=1).mean():.2f}", "median width": f"{np.median(widths):.3f}"}
        rows.append(row)
    title = f"{number} planted studies of three sources, share whose 95% interval contains the planted share"
    table(title, rows, "")
    goal("of each source and law", min(min(row.values) for row in rows), AWAITED)
    save(given.json, {title: rows})


if __name__ == "__main__":
    main()

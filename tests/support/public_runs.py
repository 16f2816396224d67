"""Runs that others trained, as arrays: the proxy runs of RegMix and the loss curves of the Multi-Power Law."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from curriculum.studies.evidence import Evidence, Role, Row
from curriculum.studies.laws.schedules import Curve

STUDIES = Path(__file__).resolve().parents[1] / "fixtures/studies"
PEAK = 3e-4
WARMUP = 2160


@dataclass(frozen=True)
class Runs:
    """Shares, shape `[runs, sources]`, rows sum to 1; losses, shape `[runs, domains]`."""

    sources: tuple[str, ...]
    domains: tuple[str, ...]
    shares: NDArray[np.float64]
    losses: NDArray[np.float64]

    def own(self, domain: str) -> int:
        return self.sources.index(domain)

    def of(self, domain: str) -> NDArray[np.float64]:
        return self.losses[:, self.domains.index(domain)]


def _table(name: str) -> tuple[list[str], dict[str, list[float]]]:
    with (STUDIES / "regmix" / name).open() as file:
        header, *rows = csv.reader(file)
    return header[1:], {row[0]: [float(value) for value in row[1:]] for row in rows if row}


@cache
def regmix(split: str, size: str) -> Runs:
    """The runs `train` at `1m`, or `test` at `1m`, `60m` and `1B`, in the order of the files."""
    sources, shares = _table(f"{split}_mixture_{size}.csv")
    domains, losses = _table(f"{split}_pile_loss_{size}.csv")
    x = np.array([shares[index] for index in shares if index in losses])
    y = np.array([losses[index] for index in shares if index in losses])
    names = tuple(name.removeprefix("train_the_pile_") for name in sources)
    targets = tuple(name.removeprefix("metric/the_pile_").removesuffix("_val_loss") for name in domains)
    return Runs(names, targets, x / x.sum(axis=1, keepdims=True), y)


def rates(schedule: str) -> NDArray[np.float64]:
    """The learning rate of every step of `schedule`, a file's name without its ending."""
    name, *numbers = schedule.split("_")
    steps = int(numbers[-1]) if name != "wsdcon" else 16_000
    step = np.arange(WARMUP, steps)
    if name == "cosine":
        after = 0.1 * PEAK + 0.45 * PEAK * (1 + np.cos(np.pi * (step - WARMUP) / (steps - WARMUP)))
    elif name == "wsdcon":
        after = np.where(step < 8000, PEAK, float(numbers[0]) * 1e-5)
    else:
        decayed = np.clip((step - 20_000) / 4000, 0, 1) if name != "constant" else np.zeros(len(step))
        after = PEAK * 0.1**decayed if name == "wsd" else PEAK * (1 - 0.9 * decayed)
    return np.append(PEAK * np.arange(WARMUP) / (WARMUP - 1), after)


@cache
def curve(size: str, schedule: str) -> Curve:
    """A published training curve, without the row at its last step."""
    with (STUDIES / f"multipowerlaw/csv_{size}/{schedule}.csv").open() as file:
        rows = list(csv.DictReader(file))
    at = np.array([int(row["step"]) for row in rows])
    losses = np.array([float(row["loss"]) for row in rows])
    every = rates(schedule)
    inside = at < len(every)
    written = np.array([float(row["lr"]) for row in rows])[inside]
    assert np.abs(every[at[inside]] - written).max() < 1e-9, schedule
    return Curve(every, at[inside], losses[inside], WARMUP)


def trial() -> list[dict[str, str]]:
    """The rows of our miniature study."""
    with (STUDIES / "trial/arms.csv").open() as file:
        return list(csv.DictReader(file))


TRIAL_SOURCES = ("slimpajama", "starcoder-python-jupyter", "proof-pile-2")
ROLES: dict[str, Role] = {"c": "control", "g": "proposal"}


def trial_evidence(seeds: tuple[int, ...] = (3407, 2)) -> Evidence:
    """The trial's arms on these trunks, without the run on later windows."""
    rows: dict[tuple[str, int, str], Row] = {}
    for line in trial():
        arm, seed = line["arm"].split("-")[1], int(line["trunk_seed"])
        if seed not in seeds or line["order"] != "plain":
            continue
        shares = {name: float(line[f"weight_{name}"]) / 100 for name in TRIAL_SOURCES}
        for name in TRIAL_SOURCES:
            loss, before = float(line[f"loss_{name}"]), float(line[f"before_{name}"])
            rows[arm, seed, name] = Row(arm, 1, seed, ROLES.get(arm, "swarm"), shares, name, loss)
            rows["before", seed, name] = Row("before", 1, seed, "before", {}, name, before)
    return Evidence(tuple(rows.values()))

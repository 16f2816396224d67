"""The evidence of a study: one row for each run of an arm and each held-out source, and differences paired by run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np

from curriculum.analysis import bootstrap
from curriculum.studies.laws.huber import Array
from curriculum.studies.laws.schedules import Curve

Role = Literal["before", "swarm", "control", "proposal"]
ROLES: tuple[Role, ...] = ("before", "swarm", "control", "proposal")
"""`before` is the branch point; the law is fitted to `swarm` and `control`; a `proposal` is left out of every fit."""
Settings = Mapping[str, float | str]
"""What was varied: shares of sources, which sum to 1, or values of keys."""


class Run(NamedTuple):
    """One training of an arm: the seed of its trunk, and the number of its replicate."""

    seed: int
    replicate: int


@dataclass(frozen=True)
class Row:
    """The held-out loss (nats a token) of one source in one run of an arm.

    `windows` are the losses of its windows, always the same ones for a source, and `documents` number the document of
    each; None where only the mean is known.
    """

    arm: str
    replicate: int
    seed: int
    role: Role
    settings: Settings
    source: str
    loss: float
    windows: tuple[float, ...] | None = None
    documents: tuple[int, ...] | None = None


@dataclass(frozen=True)
class TrainingCurve:
    """The training loss of a curriculum up to `position` (tokens), by units of as many steps each.

    `rates` is the learning rate of every unit from the root, shape `[units]`; `losses` (nats a token) are means around
    the units `at`, both shape `[n]`, those that another curve has already left out. The rate rises during the first
    `warmup` units.
    """

    arm: str
    position: int
    warmup: int
    rates: tuple[float, ...]
    at: tuple[int, ...]
    losses: tuple[float, ...]

    @cached_property
    def curve(self) -> Curve:
        return Curve(np.array(self.rates), np.array(self.at, np.int64), np.array(self.losses), self.warmup)


@dataclass(frozen=True)
class Evidence:
    """All rows of a study, or the curves of one that asks about schedules.

    ValueError for two rows of one run and source.
    """

    rows: tuple[Row, ...]
    curves: tuple[TrainingCurve, ...] = ()

    def __post_init__(self) -> None:
        seen = set()
        for row in self.rows:
            key = (row.arm, row.seed, row.replicate, row.source)
            if key in seen:
                raise ValueError(f"two rows of {row.arm}, seed {row.seed}, replicate {row.replicate}: {row.source}")
            seen.add(key)

    @cached_property
    def _by_arm(self) -> dict[str, dict[Run, dict[str, Row]]]:
        arms: dict[str, dict[Run, dict[str, Row]]] = {}
        for row in self.rows:
            arms.setdefault(row.arm, {}).setdefault(Run(row.seed, row.replicate), {})[row.source] = row
        return arms

    @property
    def sources(self) -> tuple[str, ...]:
        """The held-out sources, in the order of the rows."""
        return tuple(dict.fromkeys(row.source for row in self.rows))

    def arms(self, *roles: Role) -> tuple[str, ...]:
        """The names of the arms, of these roles or of all, in the order of the rows."""
        return tuple(dict.fromkeys(row.arm for row in self.rows if not roles or row.role in roles))

    @property
    def reference(self) -> str | None:
        """The arm that others are compared with: `kept`, else `stated`, else another control, else the branch point."""
        controls = self.arms("control")
        first = next((name for name in ("kept", "stated", *controls) if name in controls), None)
        return first or next(iter(self.arms("before")), None)

    def settings(self, arm: str) -> Settings:
        return self._first(arm).settings

    def role(self, arm: str) -> Role:
        return self._first(arm).role

    def _first(self, arm: str) -> Row:
        return next(iter(next(iter(self._by_arm[arm].values())).values()))

    def runs(self, arm: str) -> tuple[Run, ...]:
        return tuple(self._by_arm.get(arm, {}))

    @cached_property
    def repeated(self) -> tuple[str, ...]:
        """The arms that ran more than once, the branch point left out."""
        return tuple(arm for arm in self.arms("swarm", "control", "proposal") if len(self.runs(arm)) > 1)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of all trunks, in the order of the rows."""
        return tuple(dict.fromkeys(row.seed for row in self.rows))

    def losses(self, arm: str, source: str) -> dict[Run, float]:
        """The loss of `source` in each run of `arm` that measured it."""
        runs = self._by_arm.get(arm, {})
        return {run: rows[source].loss for run, rows in runs.items() if source in rows}

    def mean(self, arm: str, weights: Mapping[str, float]) -> float | None:
        """The mean over runs of the weighted mean loss; None where no run measured all of its sources."""
        values = list(self._weighted(arm, weights).values())
        return float(np.mean(values)) if values else None

    def level(self, arm: str, weights: Mapping[str, float]) -> float | None:
        """`mean`, of each run without what its trunk adds to all arms: comparable between arms of one trunk each."""
        total = sum(weights.values())
        adds = {source: self._trunk_effects(source) for source, weight in weights.items() if weight}
        values = [
            loss - sum(weights[source] / total * adds[source][run.seed] for source in adds)
            for run, loss in self._weighted(arm, weights).items()
        ]
        return float(np.mean(values)) if values else None

    def spread(self, weights: Mapping[str, float]) -> tuple[float, int] | None:
        """The standard deviation of the weighted mean loss between runs of an arm, pooled, and its degrees of freedom.

        None where no arm ran more than once.
        """
        each = [list(self._weighted(arm, weights).values()) for arm in self.repeated]
        freedom = sum(len(values) - 1 for values in each if values)
        squares = sum(float(((np.array(values) - np.mean(values)) ** 2).sum()) for values in each if values)
        return (float(np.sqrt(squares / freedom)), freedom) if freedom else None

    def _weighted(self, arm: str, weights: Mapping[str, float]) -> dict[Run, float]:
        total = sum(weights.values())
        each = [(weight / total, self.losses(arm, source)) for source, weight in weights.items() if weight]
        runs = [run for run in self.runs(arm) if all(run in losses for _, losses in each)]
        return {run: sum(weight * losses[run] for weight, losses in each) for run in runs}

    def table(self, source: str, sources: Iterable[str]) -> tuple[tuple[str, ...], Array, Array]:
        """What a law of `source` is fitted to: arms, their shares of `sources`, shape `[n, sources]`, and losses `[n]`.

        The arms are those of the swarm and the controls; a loss is the mean over runs, each without what its trunk
        adds to all arms. No proposal is among them.
        """
        arms, shares, losses = [], [], []
        names = tuple(sources)
        adds = self._trunk_effects(source)
        for arm in self.arms("swarm", "control"):
            values = [loss - adds[run.seed] for run, loss in self.losses(arm, source).items()]
            if values:
                settings = self.settings(arm)
                arms.append(arm)
                shares.append([float(settings.get(name, 0.0)) for name in names])
                losses.append(float(np.mean(values)))
        return tuple(arms), np.array(shares).reshape(-1, len(names)), np.array(losses)

    def _trunk_effects(self, source: str) -> dict[int, float]:
        """What each trunk adds to the loss of an arm; their mean is 0.

        It is measured by the arms that a trunk shares with the first one, so that arms of one trunk alone can be
        compared with means over all.
        """
        of_seed: dict[int, dict[str, list[float]]] = {seed: {} for seed in self.seeds}
        for arm in self.arms("swarm", "control"):
            for run, loss in self.losses(arm, source).items():
                of_seed[run.seed].setdefault(arm, []).append(loss)
        first = next(iter(of_seed.values()))
        effects = {}
        for seed, losses in of_seed.items():
            both = [float(np.mean(losses[arm]) - np.mean(first[arm])) for arm in losses if arm in first]
            effects[seed] = float(np.mean(both)) if both else 0.0
        centre = float(np.mean(list(effects.values())))
        return {seed: effect - centre for seed, effect in effects.items()}

    def with_limit(self, name: str, source: str, loss: float) -> Evidence:
        """The evidence with an arm `name` of every trunk whose loss on `source` is `loss`, to compare with."""
        rows = tuple(Row(name, 1, seed, "before", {}, source, loss) for seed in self.seeds)
        return Evidence(self.rows + rows)

    def without(self, arm: str) -> Evidence:
        """The evidence without the rows of `arm`."""
        return Evidence(tuple(row for row in self.rows if row.arm != arm))

    def differences(self, arm: str, reference: str, weights: Mapping[str, float]) -> tuple[tuple[Run, float], ...]:
        """The differences of the weighted mean loss of `arm` to `reference`, paired by run.

        Runs pair by seed and replicate; with the branch point, and where no replicate agrees, by the seed's mean.
        """
        ours, theirs = self._weighted(arm, weights), self._weighted(reference, weights)
        pairs = tuple((run, ours[run] - theirs[run]) for run in ours if run in theirs)
        if pairs and self.role(reference) != "before":
            return pairs
        of_seed: dict[int, list[float]] = {}
        for run, loss in theirs.items():
            of_seed.setdefault(run.seed, []).append(loss)
        return tuple(
            (run, loss - float(np.mean(of_seed[run.seed]))) for run, loss in ours.items() if run.seed in of_seed
        )

    def window_error(self, arm: str, reference: str, weights: Mapping[str, float]) -> float:
        """One standard error (nats) of the difference that comes from the choice of held-out documents.

        The windows' differences are averaged over runs first: more runs do not make it smaller. 0 where losses of
        windows are not known.
        """
        total = sum(weights.values())
        squared = 0.0
        for source, weight in weights.items():
            each = [
                np.subtract(ours.windows, theirs.windows)
                for run, _ in self.differences(arm, reference, {source: 1.0})
                if (ours := self._row(arm, run, source)) is not None
                and (theirs := self._row(reference, run, source)) is not None
                and ours.windows is not None
                and theirs.windows is not None
            ]
            if not weight or not each:
                continue
            documents = next(row.documents for row in self.rows if row.arm == arm and row.source == source)
            numbered = None if documents is None else np.array(documents)
            error = bootstrap.paired(np.mean(each, axis=0), numbered).error
            squared += (weight / total * (error or 0.0)) ** 2
        return float(np.sqrt(squared))

    def _row(self, arm: str, run: Run, source: str) -> Row | None:
        """The row of a run; of the branch point that of the run's seed."""
        runs = self._by_arm[arm]
        if run not in runs and self.role(arm) == "before":
            run = next((other for other in runs if other.seed == run.seed), run)
        return runs.get(run, {}).get(source)

"""How well a law of a mixture ranks runs that it has not seen, beside a linear one and boosted trees, on public runs.

The first runs of a million parameters are fitted; mixtures of the same size, of 60 and of 1,000 times it are ranked by
their loss on web text. Nothing is timed.
"""

from __future__ import annotations

import csv
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from bench.measure import Row, arguments, goal, machine, save, table
from bench.studies import RUNS
from curriculum.studies.contenders import rank
from curriculum.studies.laws import mixture

Array = NDArray[np.float64]
Predict = Callable[[Array], Array]
SIZES = ("1m", "60m", "1B")
LOSS = "metric/the_pile_pile_cc_val_loss"
OWN = "train_the_pile_pile_cc"
ROUNDS = 1000


def _rows(name: str) -> list[dict[str, str]]:
    with (RUNS / name).open() as file:
        return list(csv.DictReader(file))


def runs(split: str, size: str) -> tuple[list[str], Array, Array]:
    """Columns of shares, the shares, shape `[runs, sources]`, and the losses on web text, shape `[runs]`."""
    losses = {row["index"]: float(row[LOSS]) for row in _rows(f"{split}_pile_loss_{size}.csv")}
    mixtures = [row for row in _rows(f"{split}_mixture_{size}.csv") if row["index"] in losses]
    names = [name for name in mixtures[0] if name != "index"]
    shares = np.array([[float(row[name]) for name in names] for row in mixtures])
    return names, shares / shares.sum(axis=1, keepdims=True), np.array([losses[row["index"]] for row in mixtures])


def _linear(shares: Array, losses: Array) -> Predict:
    slopes = np.linalg.lstsq(shares, losses, rcond=None)[0]
    return lambda other: np.asarray(other @ slopes)


def _boosted(shares: Array, losses: Array) -> Predict:
    import lightgbm  # type: ignore[import-not-found]

    settings = {"objective": "regression", "learning_rate": 0.01, "num_leaves": 31, "verbose": -1, "num_threads": 1}
    trees = lightgbm.train(settings, lightgbm.Dataset(shares, losses), num_boost_round=ROUNDS)
    return lambda other: np.asarray(trees.predict(other))


def main() -> None:
    given = arguments(__doc__)
    machine("scipy", "lightgbm")
    names, shares, losses = runs("train", "1m")
    own = names.index(OWN)
    tests = {size: runs("test", size)[1:] for size in SIZES}
    fits: dict[str, Callable[[Array, Array], Predict]] = {
        "more of its own text": lambda x, y: lambda other: -other[:, own],
        "linear": _linear,
        "LightGBM": _boosted,
        "log-linear": lambda x, y: mixture.fit(x, y).predict,
        "log-linear with own-share power": lambda x, y: mixture.fit(x, y, own).predict,
    }
    tables = {}
    for number in (34,) if given.toy else (34, 85, 128, 512):
        rows = []
        for name, fit in fits.items():
            row = Row(name)
            try:
                predict = fit(shares[:number], losses[:number])
            except ImportError as error:
                row.absent = str(error)
            else:
                ranks = [rank(predict(x), y) or 0.0 for x, y in tests.values()]
                row.values = [ranks[-1]]
                row.more = {size: f"{value:.3f}" for size, value in zip(SIZES, ranks, strict=True)}
            rows.append(row)
        title = f"{number} runs of 1M parameters, rank of the loss on web text at 1B"
        table(title, rows, "")
        tables[title] = rows
    goal("rank of the log-linear law at 1,000 times the size", rows[3].median, 0.97)
    save(given.json, tables)


if __name__ == "__main__":
    main()

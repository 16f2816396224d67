"""What makes an order as good as a drawn one, as four numbers, at 30 to 3e8 windows; and that weaker orders fail them.

Each is in standard deviations from what a drawn order gives: neighbours at three distances, place by window, how
evenly a step's windows lie over the source, and a window's place in one pass and in the next.
"""

from __future__ import annotations

import mutants
import numpy as np
import pytest
from numpy.typing import NDArray

from curriculum.plan.permutation import Permutation

pytestmark = pytest.mark.promise("Orders from 30 to 3e8 windows pass the statistics that weaker orders fail")

Integers = NDArray[np.int64]

READ = 1 << 16
"""Places looked at in a large order: a run of them, as training reads it."""
TOO_FAR = 5.0
SIZES = {30: 1500, 101: 300, 1009: 120, 65_536: 2, 1_000_003: 3, 300_000_000: 3}
"""Windows, and with how many keys."""


def too_many(seen: NDArray[np.float64], expected: NDArray[np.float64], freedom: float) -> float:
    held = expected > 0
    chi = float(((seen - expected)[held] ** 2 / expected[held]).sum())
    return (chi - freedom) / (2 * freedom) ** 0.5


def joint(a: Integers, b: Integers, cells: int) -> NDArray[np.float64]:
    return np.bincount(a * cells + b, minlength=cells**2).reshape(cells, cells).astype(np.float64)


def deviations(size: int, keys: int) -> dict[str, float]:
    cells = min(size, 24)
    places = np.arange(min(size, READ), dtype=np.int64) + (size - min(size, READ)) // 2
    held = np.bincount(np.arange(size) * cells // size).astype(float) if size <= READ else np.full(cells, size / cells)
    lags = sorted({1, 2, int(size**0.5)})
    neighbours = {lag: np.zeros((cells, cells)) for lag in lags}
    by_window, by_pass = np.zeros((cells, cells)), np.zeros((cells, cells))
    # a fifth of a small order, so that steps differ; as many as a batch of a large one
    step = max(3, min(64, size // 5))
    dispersion, steps = 0.0, 0
    for key in range(keys):
        first, second = (Permutation(size, seed=key, source="text", pass_number=n, segment="0") for n in (0, 1))
        windows = first(places)
        region = windows * cells // size
        for lag in lags:
            neighbours[lag] += joint(region[:-lag], region[lag:], cells)
        begin = places[0]
        by_window += joint((places - begin) * cells // len(places), region, cells)
        again = second.inverse(windows) * cells // size
        by_pass += joint((places - begin) * cells // len(places), again, cells)
        taken = region[: len(region) // step * step].reshape(-1, step)
        counts = np.stack([(taken == cell).sum(1) for cell in range(cells)], 1)
        wanted = step * held / size
        dispersion += float(((counts - wanted) ** 2 / wanted).sum())
        steps += len(taken)
    apart = np.outer(held, held) - np.diag(held)
    found = {
        f"neighbours {lag} apart": too_many(seen, apart / apart.sum() * seen.sum(), cells**2 - 1)
        for lag, seen in neighbours.items()
    }
    even = np.outer(np.bincount((places - places[0]) * cells // len(places)), held)
    for name, seen in (("place by window", by_window), ("pass to pass", by_pass)):
        found[name] = too_many(seen, even / even.sum() * seen.sum(), (cells - 1) ** 2)
    fewer = (size - step) / (size - 1)
    mean, deviation = (cells - 1) * fewer * steps, fewer * (2 * (cells - 1) * steps) ** 0.5
    found["within a step"] = abs(dispersion - mean) / deviation
    return found


@pytest.mark.parametrize("size", SIZES)
def test_an_order_is_as_good_as_a_drawn_one(size: int) -> None:
    found = deviations(size, SIZES[size])
    assert not {name: far for name, far in found.items() if far > TOO_FAR}


LARGE = (1009, 65_536, 1_000_003, 300_000_000)
WEAKER = {
    "four rounds on a small grid": (
        "ROUNDS_ON_SMALL_GRIDS: Final = 24",
        "ROUNDS_ON_SMALL_GRIDS: Final = 4",
        "neighbours",
        (30,),
    ),
    "two rounds on a large one": (" else ROUNDS\n", " else 2\n", "neighbours", LARGE),
    "one multiplication": (
        "zip(_SHIFT, _MULTIPLY, strict=True)",
        "zip(_SHIFT[:1], _MULTIPLY[:1], strict=True)",
        "within a step",
        (1009,),
    ),
    "none": ("zip(_SHIFT, _MULTIPLY, strict=True)", "()", "place by window", (101, *LARGE)),
    "none, seen in the steps": ("zip(_SHIFT, _MULTIPLY, strict=True)", "()", "within a step", (101, *LARGE)),
    "the same order in every pass": (
        "names = (ORDER_VERSION, seed, source, pass_number, segment)",
        "names = (ORDER_VERSION, seed, source, 0, segment)",
        "pass to pass",
        (101, *LARGE),
    ),
}


@pytest.mark.parametrize("what", WEAKER)
def test_a_weaker_order_is_not(what: str) -> None:
    old, new, by, sizes = WEAKER[what]
    with mutants.mutated("curriculum.plan.permutation", old, new):
        for size in sizes:
            found = deviations(size, SIZES[size])
            assert any(far > 2 * TOO_FAR for name, far in found.items() if name.startswith(by)), (size, found)

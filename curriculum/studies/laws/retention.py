"""The law of retention: the loss on old text as a function of its share, and the smallest share that keeps a loss.

Two forms of one dimension: `floor + exp(slope * share + constant)` (Ye et al., *Data Mixing Laws*, arXiv 2403.16952,
section 5, for continual pretraining) and `exp(constant) * share ** -power`. That of the smaller left-out error is used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from curriculum.studies.laws.huber import Array
from curriculum.units import counted

Form = Literal["exponential", "power"]
FORMS: tuple[Form, ...] = ("exponential", "power")
_STEEPEST = 60.0


@dataclass(frozen=True, slots=True)
class RetentionLaw:
    """A fitted law. `rate` is the slope by the share of the exponential form, or the power of the other.

    `floor` is 0 in the power form. `left_out_error` is the root mean square error (nats) at arms that the fit had not
    seen, None where too few were left to fit.
    """

    form: Form
    floor: float
    rate: float
    constant: float
    left_out_error: float | None

    @property
    def terms(self) -> dict[str, float]:
        if self.form == "power":
            return {"power": self.rate, "constant": self.constant}
        return {"floor": self.floor, "slope": self.rate, "constant": self.constant}

    @classmethod
    def of_terms(cls, terms: Mapping[str, float]) -> RetentionLaw:
        """The law of a record's terms."""
        if "power" in terms:
            return cls("power", 0.0, terms["power"], terms["constant"], None)
        return cls("exponential", terms["floor"], terms["slope"], terms["constant"], None)

    def predict(self, shares: Array) -> Array:
        """Losses in nats at `shares` of the old text, both of shape `[n]`."""
        if self.form == "power":
            return np.exp(self.constant - self.rate * np.log(shares))
        return self.floor + np.exp(self.rate * shares + self.constant)

    def root(self, limit: float) -> float | None:
        """The share at which the loss is `limit`; None where the law reaches it at no share between 0 and 1."""
        if self.form == "power":
            exponent = (self.constant - math.log(limit)) / self.rate if self.rate and limit > 0 else math.inf
            share = math.exp(min(exponent, 1.0))
        elif limit <= self.floor or not self.rate:
            return None
        else:
            share = (math.log(limit - self.floor) - self.constant) / self.rate
        return share if 0 < share <= 1 else None


@dataclass(frozen=True, slots=True)
class KeptShare:
    """The smallest share that keeps a limit, and the same when each arm is left out of the fit.

    `share` and an entry of `left_out` are None where that law reaches the limit at no share between 0 and 1.
    """

    law: RetentionLaw
    limit: float
    share: float | None
    left_out: tuple[float | None, ...]

    @property
    def spread(self) -> tuple[float, float] | None:
        """The lowest and the highest share over the left-out arms; None where one of them has none."""
        shares = [share for share in self.left_out if share is not None]
        return (min(shares), max(shares)) if shares and len(shares) == len(self.left_out) else None


def least_arms(form: Form) -> int:
    """The numbers of a form, which a fit needs at least as many different shares for."""
    return 3 if form == "exponential" else 2


def fit(shares: Array, losses: Array, form: Form) -> RetentionLaw:
    """The law of `form` by least squares at `shares` (all above 0) and `losses`, both of shape `[n]`.

    Raises ValueError with fewer different shares than the form has numbers.
    """
    different = len(np.unique(shares))
    if different < least_arms(form):
        raise ValueError(f"{counted(different, 'different share')} cannot fit {least_arms(form)} numbers")
    terms = _fit(shares, losses, form)
    return RetentionLaw(*terms, _left_out_error(shares, losses, form))


def choose(shares: Array, losses: Array) -> tuple[RetentionLaw, ...]:
    """The laws that can be fitted, that of the smallest left-out error first."""
    different = len(np.unique(shares))
    forms = [form for form in FORMS if form != "power" or shares.min() > 0]
    laws = [fit(shares, losses, form) for form in forms if different >= least_arms(form)]
    return tuple(sorted(laws, key=lambda law: math.inf if law.left_out_error is None else law.left_out_error))


def kept_share(shares: Array, losses: Array, limit: float, law: RetentionLaw) -> KeptShare:
    """The share that keeps `limit` by `law`, and by its form fitted without each arm."""
    left_out = []
    for arm in range(len(shares)):
        others = np.arange(len(shares)) != arm
        enough = len(np.unique(shares[others])) >= least_arms(law.form)
        fitted = RetentionLaw(*_fit(shares[others], losses[others], law.form), None) if enough else None
        left_out.append(fitted.root(limit) if fitted else None)
    return KeptShare(law, limit, law.root(limit), tuple(left_out))


def settled_from(roots: Sequence[tuple[int, float | None]], spread: tuple[float, float]) -> int | None:
    """The first position from which on every root is within `spread`; None where not even the last one is.

    `roots` has pairs of a position in training and the share that the same arms gave there, in order. Before that
    position the share was drifting: a study that had stopped there would have misled.
    """
    settled: int | None = None
    for position, root in reversed(roots):
        if root is None or not spread[0] <= root <= spread[1]:
            break
        settled = position
    return settled


def _fit(shares: Array, losses: Array, form: Form) -> tuple[Form, float, float, float]:
    """The form, its floor, rate and constant by least squares."""
    if form == "power":
        logarithms = np.log(shares)

        def power_error(power: float) -> float:
            return _scaled(np.exp(-power * logarithms), losses)[1]

        power = _lowest(power_error, -5.0, 5.0)
        scale = _scaled(np.exp(-power * logarithms), losses)[0]
        return form, 0.0, power, math.log(scale)

    def error(slope: float) -> float:
        return _lifted(np.exp(slope * shares), losses)[2]

    slope = min((_lowest(error, -_STEEPEST, -1e-3), _lowest(error, 1e-3, _STEEPEST)), key=error)
    floor, scale, _ = _lifted(np.exp(slope * shares), losses)
    return form, floor, slope, math.log(scale)


def _scaled(shape: Array, losses: Array) -> tuple[float, float]:
    """The factor of `shape` nearest to `losses`, and the squared error."""
    factor = float(shape @ losses / (shape @ shape))
    return factor, float(((factor * shape - losses) ** 2).sum())


def _lifted(shape: Array, losses: Array) -> tuple[float, float, float]:
    """The floor and the factor, at least 1e-12, of `shape` nearest to `losses`, and the squared error."""
    centred = shape - shape.mean()
    factor = max(float(centred @ losses / (centred @ centred)), 1e-12)
    floor = float(losses.mean() - factor * shape.mean())
    return floor, factor, float(((floor + factor * shape - losses) ** 2).sum())


def _lowest(error: Callable[[float], float], low: float, high: float) -> float:
    """Where `error` is lowest: the best of a grid that is finer near 0, then refined between its neighbours."""
    from scipy.optimize import minimize_scalar

    part = np.linspace(-1.0, 1.0, 241) if low < 0 < high else np.linspace(0.0, 1.0, 121)
    reach = max(abs(low), abs(high))
    grid = np.clip(np.sign(part) * part**2 * reach * (1 if high > 0 else -1), low, high)
    grid = np.unique(grid)
    best = int(np.argmin([error(float(point)) for point in grid]))
    left, right = float(grid[max(best - 1, 0)]), float(grid[min(best + 1, len(grid) - 1)])
    return float(minimize_scalar(error, bounds=(left, right), method="bounded", options={"xatol": 1e-10}).x)


def _left_out_error(shares: Array, losses: Array, form: Form) -> float | None:
    errors = []
    for arm in range(len(shares)):
        others = np.arange(len(shares)) != arm
        if len(np.unique(shares[others])) < least_arms(form):
            return None
        law = RetentionLaw(*_fit(shares[others], losses[others], form), None)
        errors.append(float(law.predict(shares[arm : arm + 1])[0] - losses[arm]))
    return float(np.sqrt(np.mean(np.square(errors))))

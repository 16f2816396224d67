"""The law of a mixture: a held-out loss as a function of the shares that were trained on.

    loss(x) = floor + exp(slopes . x) * ((x_own + shift) / (1 + shift)) ** -power

Without the power it is the log-linear law of Ye et al., *Data Mixing Laws* (arXiv 2403.16952, section 4); shares sum to
1, so its constant is in the slopes. The power of the own source's share holds where the first percent of a source
matters most; near a share of zero the exponent alone fits badly. Both are convex in the shares.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from curriculum.studies.laws.huber import DELTA, Array, descend, huber

SHIFTS = (0.001, 0.003, 0.01)
RIDGE = 1e-3 * DELTA
"""What pulls the slopes of a law with a power to their mean: the objective grows by half of it times their squares."""
FLOORS = {False: (0.0, 0.8, 0.95), True: (0.0, 0.9)}
"""Shares of the lowest loss at which descents start, without the power and with it."""
FOLDS = 20
_SLOPES = {False: (-500.0, 30.0), True: (-30.0, 10.0)}
_POWER = (0.0, 5.0)
_LARGEST_EXPONENT = 50.0


@dataclass(frozen=True, slots=True)
class MixtureLaw:
    """A fitted law of one held-out loss. `slopes` has one number a source; `own` is the index of the loss's own source.

    Without a power `own` is None. `objective` is the mean Huber loss of the fit, `left_out_error` the root mean square
    error (nats) at arms that a fit had not seen, None until it was measured.
    """

    floor: float
    slopes: tuple[float, ...]
    own: int | None
    power: float
    shift: float
    objective: float
    left_out_error: float | None = None

    @property
    def name(self) -> str:
        return "log-linear" if self.own is None else "log-linear with own-share power"

    @property
    def terms(self) -> dict[str, float | list[float] | None]:
        """The numbers of the law by name, as a record keeps them."""
        own = {} if self.own is None else {"power": self.power, "shift": self.shift}
        return {"floor": self.floor, "slopes": list(self.slopes), **own}

    @classmethod
    def of_terms(cls, terms: Mapping[str, Any], own: int | None) -> MixtureLaw:
        """The law of a record's terms; `own` is the index of the loss's own source, read where there is a power."""
        with_power = own if "power" in terms else None
        return cls(
            terms["floor"], tuple(terms["slopes"]), with_power, terms.get("power", 0.0), terms.get("shift", 0.0), 0.0
        )

    def predict(self, shares: Array) -> Array:
        """Losses in nats, shape `[n]`, at `shares`, shape `[n, sources]`."""
        exponent = shares @ np.array(self.slopes)
        if self.own is not None:
            exponent = exponent + self.power * _own_feature(shares[:, self.own], self.shift)
        return np.asarray(self.floor + np.exp(np.minimum(exponent, _LARGEST_EXPONENT)))

    def at(self, shares: Array) -> tuple[float, Array]:
        """The loss at one mixture, shape `[sources]`, and its gradient by the shares."""
        slopes = np.array(self.slopes)
        exponent = float(shares @ slopes)
        if self.own is not None:
            exponent += self.power * float(_own_feature(shares[self.own], self.shift))
            slopes[self.own] -= self.power / (max(shares[self.own], 0.0) + self.shift)
        above = float(np.exp(min(exponent, _LARGEST_EXPONENT)))
        return self.floor + above, above * slopes


def fit(
    shares: Array, losses: Array, own: int | None = None, *, like: MixtureLaw | None = None, ridge: float = RIDGE
) -> MixtureLaw:
    """The law with the lowest mean Huber loss at `shares`, shape `[n, sources]`, and `losses`, shape `[n]`, nats.

    With `own` it has a power of that source's share, with the best of `SHIFTS`, and the ridge `ridge`. `like` is a law
    of nearly the same arms: the descent starts from it alone and keeps its shift.
    """
    if own is None:
        return _fit_shifted(shares, losses, None, 0.0, like, 0.0)[0]
    shifts = SHIFTS if like is None else (like.shift,)
    return min(
        (_fit_shifted(shares, losses, own, shift, like, ridge) for shift in shifts), key=lambda fitted: fitted[1]
    )[0]


def left_out(shares: Array, losses: Array, law: MixtureLaw, folds: int = FOLDS) -> Array:
    """What `law`'s form predicts for each arm, shape `[n]`, when fitted without it.

    Every arm is left out alone where there are at most `folds`, otherwise every `folds`-th arm together.
    """
    predicted = np.empty(len(losses))
    fold = np.arange(len(losses)) % folds
    for number in range(min(folds, len(losses))):
        without = fold != number
        predicted[~without] = fit(shares[without], losses[without], law.own, like=law).predict(shares[~without])
    return predicted


def choose(shares: Array, losses: Array, own: int | None) -> tuple[tuple[MixtureLaw, Array], ...]:
    """The laws without and with the power of the source `own`, that of the smaller left-out error first.

    With each comes what it predicts for every arm, shape `[n]`, when fitted without it (`left_out`). For a loss
    without an own source (`own` None) there is one law.
    """
    laws = []
    for source in (None,) if own is None else (None, own):
        law = fit(shares, losses, source)
        predicted = left_out(shares, losses, law)
        laws.append((replace(law, left_out_error=float(np.sqrt(((predicted - losses) ** 2).mean()))), predicted))
    return tuple(sorted(laws, key=lambda fitted: fitted[0].left_out_error or 0.0))


def _own_feature(share: Array, shift: float) -> Array:
    return -np.log((np.maximum(share, 0.0) + shift) / (1.0 + shift))


def _fit_shifted(
    shares: Array, losses: Array, own: int | None, shift: float, like: MixtureLaw | None, ridge: float
) -> tuple[MixtureLaw, float]:
    """The law with one `shift`, and its objective with the ridge."""
    sources = shares.shape[1]
    features = shares
    low, high = (np.full(sources, bound) for bound in _SLOPES[own is not None])
    if own is not None:
        features = np.column_stack([shares, _own_feature(shares[:, own], shift)])
        low, high = np.append(low, _POWER[0]), np.append(high, _POWER[1])
    low, high = np.append(0.0, low), np.append(float(losses.max()), high)
    units = np.append(1.0, 1.0 / np.sqrt((features**2).mean(axis=0) + 1e-12))

    def objective(numbers: Array) -> tuple[float, Array]:
        above = np.exp(np.minimum(features @ numbers[1:], _LARGEST_EXPONENT))
        value, slope = huber(numbers[0] + above - losses)
        gradient = np.empty(len(numbers))
        gradient[0] = slope.sum()
        gradient[1:] = (slope * above) @ features
        if ridge:
            slopes = numbers[1 : 1 + sources]
            pull = slopes - slopes.mean()
            value += 0.5 * ridge * float(pull @ pull)
            gradient[1 : 1 + sources] += ridge * pull
        return value, gradient

    end = descend(objective, _starts(features, losses, own, like), low, high, units)
    numbers = end.numbers
    law = MixtureLaw(
        floor=float(numbers[0]),
        slopes=tuple(numbers[1 : 1 + sources].tolist()),
        own=own,
        power=0.0 if own is None else float(numbers[-1]),
        shift=shift,
        objective=0.0,
    )
    return replace(law, objective=huber(law.predict(shares) - losses)[0]), end.objective


def _starts(features: Array, losses: Array, own: int | None, like: MixtureLaw | None) -> Iterable[Array]:
    """A law's numbers as a start, or the log-linear least squares at each of `FLOORS`."""
    if like is not None:
        yield np.array([like.floor, *like.slopes, *(() if own is None else (like.power,))])
        return
    for part in FLOORS[own is not None]:
        floor = part * float(losses.min())
        above = np.maximum(losses - floor, np.finfo(float).tiny)  # less what its trunk adds, a loss may be below 0
        yield np.append(floor, np.linalg.lstsq(features, np.log(above), rcond=None)[0])

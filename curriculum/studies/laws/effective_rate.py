"""The law of a cooldown: the loss as a function of the learning rate over a power of the batch.

At equal tokens, arms of equal `rate / batch ** exponent` end nearly alike; the exponent is 1 for SGD (Smith et al.,
*Don't Decay the Learning Rate, Increase the Batch Size*, arXiv 1711.00489) and nearer to 0.5 for Adam (Malladi et al.,
arXiv 2205.10287). It is measured here, as `floor + scale * (rate / batch ** exponent) ** power`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from curriculum.studies.laws.huber import Array

_EXPONENTS = np.linspace(0.0, 2.0, 81)
_POWERS = np.concatenate([np.linspace(-2.0, -0.05, 40), np.linspace(0.05, 2.0, 40)])
LEAST_RATES = 3
RESAMPLES = 200


@dataclass(frozen=True, slots=True)
class EffectiveRateLaw:
    """`floor + scale * (rate / batch ** exponent) ** power`; rates and batches relative to those of the first arm."""

    floor: float
    scale: float
    exponent: float
    power: float
    error: float

    @property
    def at_bound(self) -> bool:
        """Whether the exponent is the smallest or the largest that is tried: the best may be beyond it."""
        return self.exponent in (float(_EXPONENTS[0]), float(_EXPONENTS[-1]))

    def predict(self, rates: Array, batches: Array) -> Array:
        """Losses in nats, shape `[n]`."""
        return np.asarray(self.floor + self.scale * (rates / batches**self.exponent) ** self.power)


def missing(rates: Array, batches: Array) -> str | None:
    """What a fit still needs: three rates at one batch, and one rate at another; None where nothing is missing."""
    per_batch = {float(batch): len(np.unique(rates[batches == batch])) for batch in np.unique(batches)}
    most = max(per_batch, key=lambda batch: per_batch[batch])
    if (lacking := LEAST_RATES - per_batch[most]) > 0:
        return f"{lacking} more learning rate{'' if lacking == 1 else 's'} at the batch {most:g}"
    if len(per_batch) < 2:
        return f"an arm at another batch than {most:g}"
    return None


def fit(rates: Array, batches: Array, losses: Array) -> EffectiveRateLaw:
    """The law by least squares at `rates`, `batches` and `losses`, shape `[n]`. ValueError where arms are missing."""
    lacks = missing(rates, batches)
    if lacks is not None:
        raise ValueError(lacks)
    best: EffectiveRateLaw | None = None
    for exponent in _EXPONENTS:
        effective = rates / batches**exponent
        shapes = effective[None] ** _POWERS[:, None]
        centred = shapes - shapes.mean(axis=1, keepdims=True)
        scale = centred @ (losses - losses.mean()) / np.maximum((centred**2).sum(axis=1), 1e-300)
        floor = losses.mean() - scale * shapes.mean(axis=1)
        errors = ((floor[:, None] + scale[:, None] * shapes - losses) ** 2).sum(axis=1)
        at = int(errors.argmin())
        if best is None or errors[at] < best.error:
            best = EffectiveRateLaw(
                float(floor[at]), float(scale[at]), float(exponent), float(_POWERS[at]), float(errors[at])
            )
    assert best is not None
    return best


def exponent_interval(rates: Array, batches: Array, losses: Array, errors: Array, freedom: int) -> tuple[float, float]:
    """The 95% interval of the exponent, by fits to losses with other noise: `errors` are standard errors, shape `[n]`.

    They were measured with so many degrees of freedom, which Student's t allows for. It ends at the bounds of a fit.
    """
    draw = np.random.default_rng(0)
    noise = draw.standard_t(freedom, (RESAMPLES, len(losses))) * errors
    low, high = np.percentile([fit(rates, batches, losses + one).exponent for one in noise], (2.5, 97.5))
    return float(low), float(high)

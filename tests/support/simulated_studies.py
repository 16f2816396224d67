"""Evidence of studies that were never run: losses from a known law, with the noise of runs and trunks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from curriculum.studies.evidence import Evidence, Role, Row, Settings
from curriculum.studies.laws.mixture import MixtureLaw

Arms = Sequence[tuple[str, Role, Settings, int]]
"""Name, role, settings and number of replicates."""


def evidence(
    arms: Arms,
    laws: Mapping[str, MixtureLaw],
    sources: Sequence[str],
    *,
    seed: int,
    noise: float,
    seeds: Sequence[int] = (1,),
    trunk_noise: float = 0.0,
    before: Mapping[str, float] | None = None,
) -> Evidence:
    """The rows of `arms`, each loss its law's plus normal noise of a run, and of the trunk for all arms of it."""
    draw = np.random.default_rng(seed)
    rows = []
    for trunk in seeds:
        luck = {source: float(draw.normal(0, trunk_noise)) for source in laws}
        if before is not None:
            rows += [Row("before", 1, trunk, "before", {}, name, loss + luck[name]) for name, loss in before.items()]
        for name, role, settings, replicates in arms:
            shares = np.array([[float(settings.get(source, 0.0)) for source in sources]])
            for replicate in range(1, replicates + 1):
                for source, law in laws.items():
                    loss = float(law.predict(shares)[0]) + luck[source] + float(draw.normal(0, noise))
                    rows.append(Row(name, replicate, trunk, role, settings, source, loss))
    return Evidence(tuple(rows))


def mixture(sources: Sequence[str], shares: Sequence[float]) -> dict[str, float | str]:
    return dict(zip(sources, shares, strict=True))

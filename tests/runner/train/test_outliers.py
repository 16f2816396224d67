"""Which steps are outliers of the gradient norm: by the last steps' mean and deviation, the same after a resume."""

from __future__ import annotations

import json
import math
import statistics

import pytest
import torch
from hypothesis import example, given, strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from runner.train.outliers import OutlierRule

NUMBERS = {"window": 8, "deviations": 3.0}
CPU = torch.device("cpu")
NORMS = st.lists(st.floats(0.5, 1.5) | st.sampled_from([50.0, math.nan, math.inf]), min_size=1, max_size=40)


def observed(rule: OutlierRule, norms: list[float]) -> list[bool]:
    return [bool(rule.observe(torch.tensor(norm, dtype=torch.float64))) for norm in norms]


def expected(norms: list[float]) -> list[bool | None]:
    """By the definition; None where rounding decides."""
    outliers: list[bool | None] = []
    for at, norm in enumerate(norms):
        known = [value for value in norms[max(0, at - 8) : at] if math.isfinite(value)]
        limit = statistics.fmean(known) + 3 * statistics.stdev(known) if len(known) >= 4 else math.inf
        outliers.append(
            None if math.isfinite(norm) and math.isclose(norm, limit, rel_tol=1e-9) else limit < norm < math.inf
        )
    return outliers


@given(NORMS)
@example([1.0, 1.0, 1.0, 2.0, math.inf])  # not finite, which is counted by itself
@example([1.0, 1.0, 1.0, 2.0, 2.6])  # 2.75 is the limit, and of the population's deviation 2.55
def test_an_outlier_exceeds_the_mean_of_the_last_norms_by_so_many_deviations(norms: list[float]) -> None:
    for found, right in zip(observed(OutlierRule(NUMBERS, CPU), norms), expected(norms), strict=True):
        assert right is None or found is right


@given(NORMS, NORMS)
def test_a_rule_that_resumes_from_the_norms_of_a_checkpoint_decides_the_same(
    before: list[float], after: list[float]
) -> None:
    rule = OutlierRule(NUMBERS, CPU)
    observed(rule, before)
    again = OutlierRule(NUMBERS, CPU, json.loads(json.dumps(rule.norms(), allow_nan=False)))
    assert observed(again, after) == observed(rule, after)


def test_a_norm_that_stays_high_is_soon_no_outlier() -> None:
    found = observed(OutlierRule({"window": 128, "deviations": 6.0}, CPU), [1.0, 1.1] * 64 + [30.0] * 20)
    assert found[128]
    assert sum(found) < 6
    assert not found[-1]


@pytest.mark.parametrize(("window", "known"), [(4, 4), (16, 8)])
def test_a_longer_or_a_shorter_window_takes_the_last_norms(window: int, known: int) -> None:
    rule = OutlierRule(NUMBERS, CPU)
    observed(rule, [float(norm) for norm in range(8)])
    other = OutlierRule(NUMBERS | {"window": window}, CPU, rule.norms())
    assert [norm for norm in other.norms() if norm is not None] == [float(norm) for norm in range(8 - known, 8)]


def test_the_rule_reads_no_figure_back_from_the_device() -> None:
    class Reads(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            assert func is not torch.ops.aten._local_scalar_dense.default
            return func(*args, **(kwargs or {}))

    rule = OutlierRule(NUMBERS, CPU)
    with Reads():
        for _ in range(9):
            rule.observe(torch.ones(()))

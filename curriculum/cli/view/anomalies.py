"""Anomalies of a stage as lines: loss spikes, gradients that are not finite, and outliers that were skipped."""

from __future__ import annotations

from collections.abc import Mapping

from curriculum.artifacts.anomalies import NONFINITE, OUTLIER, SPIKE, Anomaly
from curriculum.units import show_exact

MOST_DOCUMENTS = 4
_NAMES = {
    SPIKE: ("loss spike", "loss spikes"),
    NONFINITE: ("gradient not finite", "gradients not finite"),
    OUTLIER: ("outlier of the gradient norm skipped", "outliers of the gradient norm skipped"),
}


def anomaly_counts(counts: Mapping[str, int]) -> str:
    """Such as `1 loss spike, 2 gradients not finite`."""
    return ", ".join(f"{show_exact(n)} {_NAMES.get(kind, (kind, kind))[n > 1]}" for kind, n in counts.items())


def anomaly_line(anomaly: Anomaly) -> str:
    """Step, kind, losses, documents, and the `skip:` entry that leaves its data out."""
    usual = "" if anomaly.median is None else f" (median {anomaly.median:.3f})"
    documents = anomaly.documents[:MOST_DOCUMENTS]
    more = len(anomaly.documents) - len(documents)
    parts = [
        f"step {show_exact(anomaly.step)}, up to {show_exact(anomaly.position)} tokens: "
        f"{_NAMES.get(anomaly.kind, (anomaly.kind,))[0]}, loss {anomaly.loss:.3f}{usual}"
        + (f", gradient norm {anomaly.grad_norm:.3g}" if anomaly.kind == OUTLIER else ""),
        f"documents {', '.join(documents)}" + (f" and {more} more" if more else ""),
    ]
    if anomaly.skip:
        parts.append(f"to train without its data, branch before it with `{anomaly.skip_entry}`")
    return "; ".join(parts)

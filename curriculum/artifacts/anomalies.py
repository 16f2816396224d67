"""Anomalies of a stage: steps whose gradient was not finite or an outlier, or whose loss jumped.

One a line of `events.jsonl`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from curriculum import fs
from curriculum.artifacts.stage_folder import StageFolder

SPIKE, NONFINITE, OUTLIER = "spike", "gradient not finite", "outlier skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Anomaly:
    """A step that went wrong; `position` is where it ends, in tokens, `loss` its mean in nats a token.

    A spike is a loss above `limit`, which follows from the losses before it and their `median`. `documents` are those
    of the step's worst sequences, the worst first. `skip` is the entry of a stage file's `skip:` that leaves the
    step's data out, in full-size tokens; None for the first step.
    """

    kind: str
    step: int
    position: int
    loss: float
    grad_norm: float
    median: float | None
    limit: float | None
    documents: tuple[str, ...]
    skip: Mapping[str, int] | None

    @property
    def skip_entry(self) -> str:
        """The line of YAML; empty for the first step, before which nothing can branch."""
        return f"skip: [{{from: {self.skip['from']}, to: {self.skip['to']}}}]" if self.skip else ""


def read_anomalies(folder: StageFolder, until: int) -> tuple[Anomaly, ...]:
    """Those up to position `until`, oldest first; DataError names a line that is damaged."""
    anomalies = []
    for number, line in enumerate(fs.read_json_lines(folder.events), 1):
        try:
            anomalies.append(_anomaly(line))
        except (KeyError, TypeError, ValueError) as error:
            raise fs.line_error(folder.events, number, repr(error)) from None
    return tuple(anomaly for anomaly in anomalies if anomaly.position <= until)


def _anomaly(line: Mapping[str, Any]) -> Anomaly:
    documents = [str(name) for sequence in line["sequences"] for name in sequence["documents"]]
    skip = line.get("skip")
    return Anomaly(
        kind=str(line["kind"]),
        step=int(line["step"]),
        position=int(line["position"]),
        loss=float(line["loss"]),  # JSON has no NaN: it is written as text
        grad_norm=float(line["grad_norm"]),
        median=float(line["median"]) if "median" in line else None,
        limit=float(line["limit"]) if "limit" in line else None,
        documents=tuple(dict.fromkeys(documents)),
        skip={key: int(skip[key]) for key in ("from", "to")} if skip else None,
    )


def count_by_kind(anomalies: Iterable[Anomaly]) -> dict[str, int]:
    """How many of each kind, by kind."""
    return dict(sorted(Counter(anomaly.kind for anomaly in anomalies).items()))

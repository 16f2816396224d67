"""A study as tables, for a notebook or a script: `study = curriculum.open(".").study("domains")`.

Every table is read as the files are now; losses are in nats a token, positions in tokens. Nothing is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, TypeAlias

from curriculum.artifacts import checkpoints
from curriculum.artifacts.metrics import read_metrics
from curriculum.errors import NotFound, PlanError, did_you_mean
from curriculum.runs.folders import is_finished, stage_folder
from curriculum.studies import record
from curriculum.studies.arms import Arm, CompiledStudy
from curriculum.studies.measured import Measured, measure
from curriculum.studies.question import kind_of
from curriculum.studies.summary import arm_row

Row: TypeAlias = dict[str, Any]
Table: TypeAlias = list[Row]


class StudyTables:
    """A study with its arms; `measured` is the evidence of those that ended."""

    def __init__(self, compiled: CompiledStudy) -> None:
        self.compiled = compiled

    def __repr__(self) -> str:
        return f"study {self.compiled.name}, size {self.compiled.study.size}: {len(self.compiled.arms)} arms"

    @property
    def arms(self) -> Table:
        """A row for every arm and replicate: its role, shares, state, tokens and seconds; settings of a grid."""
        sources = sorted({source for arm in self.compiled.arms for source in arm.point.mixture.shares})
        keys = sorted({key for arm in self.compiled.arms for key in arm_row(self.compiled, arm)["settings"]})
        return [self._arm(arm, sources, keys) for arm in self.compiled.arms]

    def _arm(self, arm: Arm, sources: list[str], keys: list[str]) -> Row:
        row, folder = arm_row(self.compiled, arm), stage_folder(arm.project, arm.compiled, arm.stage)
        last = checkpoints.latest(folder)
        done = is_finished(folder, arm.stage)
        state = "done" if done else "started" if folder.plan.exists() else "not started"
        seconds = sum(line["seconds"] for line in read_metrics(folder.metrics)) if folder.metrics.exists() else 0.0
        return {
            **{key: row[key] for key in ("address", "point", "role", "replicate", "trunk", "tokens", "steps")},
            "state": state,
            "position": arm.stage.stop if done else last.position if last else arm.stage.plan.start,
            "seconds": float(seconds),
            **{f"share/{source}": row["shares"].get(source, 0.0) for source in sources},
            **{key: row["settings"].get(key) for key in keys},
        }

    @cached_property
    def measured(self) -> Measured:
        """The evidence of the arms that ended, what is missing and what was set aside; read once."""
        return measure(self.compiled)

    @property
    def responses(self) -> Table:
        """A row for every arm, replicate and source: the loss at its end, and the difference to each trunk's control.

        The control is `kept`, or what there is in its place; None where it was not measured in the same run.
        """
        evidence = self.measured.evidence
        controls = evidence.arms("control")
        control = next((name for name in ("kept", "stated", *controls) if name in controls), None)
        rows = []
        for row in evidence.rows:
            pairs = dict(evidence.differences(row.arm, control, {row.source: 1.0})) if control is not None else {}
            of_run = next((value for run, value in pairs.items() if run == (row.seed, row.replicate)), None)
            error = evidence.window_error(row.arm, control, {row.source: 1.0}) if control is not None else None
            rows.append(
                {
                    "arm": row.arm,
                    "replicate": row.replicate,
                    "trunk": row.seed,
                    "role": row.role,
                    "source": row.source,
                    "loss": row.loss,
                    "difference": of_run,
                    "window_error": error,
                }
            )
        return rows

    def law(self, source: str) -> StudyLaw:
        """The law of the held-out loss of `source` in the shares; PlanError where the arms do not suffice for one."""
        if source not in self.compiled.sources:
            raise NotFound(f"no arm measures `{source}`", hint=did_you_mean(source, self.compiled.sources))
        if kind_of(self.compiled) != "mixture":
            raise PlanError(
                f"study `{self.compiled.name}` varies no mixture, so there is no law of shares",
                hint="`responses` has what was measured",
            )
        sources = sorted({name for arm in self.compiled.arms for name in arm.point.mixture.shares})
        return StudyLaw(self.measured, source, sources)

    @property
    def decision(self) -> StudyDecision | None:
        """The newest record of `curriculum decide`; None before the first."""
        study = self.compiled.study
        newest = record.newest(study.project.runs / study.size / study.name)
        return StudyDecision(newest) if newest is not None else None


class StudyLaw:
    """A fitted law of one held-out loss: `predict` gives it at any mixture, `terms` are its numbers."""

    def __init__(self, measured: Measured, source: str, sources: list[str]) -> None:
        from curriculum.studies.decide_mixture import check_enough
        from curriculum.studies.decision import Undecidable
        from curriculum.studies.laws import mixture

        arms, shares, losses = measured.evidence.table(source, sources)
        try:
            check_enough(len(arms), len(sources))
        except Undecidable as error:
            raise PlanError(error.what, hint=error.hint) from None
        self.source, self.sources = source, tuple(sources)
        own = sources.index(source) if source in sources else None
        self._law = mixture.choose(shares, losses, own)[0]

    def __repr__(self) -> str:
        return f"law of {self.source}: {self._law.name}, left-out error {self.left_out_error}"

    @property
    def terms(self) -> Mapping[str, Any]:
        return self._law.terms

    @property
    def left_out_error(self) -> float | None:
        """The root mean square error (nats) at arms that a fit had not seen."""
        return self._law.left_out_error

    def predict(self, weights: Mapping[str, float]) -> float:
        """The loss in nats a token at a mixture, whose weights are on any scale; NotFound for a source of no arm."""
        import numpy as np

        for name in weights:
            if name not in self.sources:
                raise NotFound(f"the law knows no `{name}`", hint=did_you_mean(name, self.sources))
        total = sum(weights.values())
        if total <= 0:
            raise PlanError("the weights sum to nothing", hint="as in `predict({'slimpajama': 0.6, 'code': 0.4})`")
        shares = np.array([[weights.get(name, 0.0) / total for name in self.sources]])
        return float(self._law.predict(shares)[0])


class StudyDecision:
    """A record of `curriculum decide`; `content` is the file without its seal."""

    def __init__(self, found: record.Record) -> None:
        self.address, self.path, self.content = found.address, found.path, found.content

    def __repr__(self) -> str:
        return f"{self.address}: {self.content['decision']['word']}"

    @property
    def proposal(self) -> dict[str, float]:
        """The shares that were proposed, by source; empty where no mixture was."""
        found = self.content["decision"].get("proposal")
        return dict(found["shares"]) if found else {}

    @property
    def verdicts(self) -> Table:
        """A row for every part of the goal and every arm that it was held against."""
        rows = []
        for verdict in self.content["decision"]["verdicts"]:
            difference = verdict.get("difference") or {}
            rows.append(
                {
                    **{key: verdict.get(key) for key in ("goal", "source", "against", "word")},
                    **{key: difference.get(key) for key in ("mean", "low", "high", "runs")},
                }
            )
        return rows

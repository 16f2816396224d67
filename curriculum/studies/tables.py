"""A study as tables, for a notebook or a script: `study = curriculum.open(".").study("domains")`.

Every table is read as the files are now; losses are in nats a token, positions in tokens. Nothing is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, TypeAlias

from curriculum.artifacts import checkpoints
from curriculum.artifacts.metrics import read_metrics
from curriculum.compiler.compile import CompiledStage
from curriculum.compiler.prepared_text import PreparedText
from curriculum.config.project import Project
from curriculum.errors import NotFound, PlanError, did_you_mean
from curriculum.runs import held_out
from curriculum.runs.folders import is_finished, stage_folder
from curriculum.studies import record
from curriculum.studies.arm import Arm
from curriculum.studies.arm_evidence import ArmEvidence, measure
from curriculum.studies.arms import CompiledStudy
from curriculum.studies.decision_input import read_input
from curriculum.studies.evidence import Evidence
from curriculum.studies.question import kind_of
from curriculum.studies.summary import arm_row
from curriculum.units import counted

Row: TypeAlias = dict[str, Any]
Table: TypeAlias = list[Row]


class StudyTables:
    """A study with its arms; `measured` is the evidence of those that ended."""

    def __init__(self, compiled: CompiledStudy) -> None:
        self.compiled = compiled

    def __repr__(self) -> str:
        arms = counted(len(self.compiled.arms), "arm")
        return f"study {self.compiled.name}, size {self.compiled.study.size}: {arms}"

    @property
    def arms(self) -> Table:
        """A row for every arm and replicate: its role, shares, state, tokens and seconds; settings of a grid."""
        sources = sorted({source for arm in self.compiled.arms for source in arm.point.mixture.shares})
        keys = sorted({key for arm in self.compiled.arms for key in arm_row(self.compiled, arm)["settings"]})
        return [self._arm(arm, sources, keys) for arm in self.compiled.arms]

    def _arm(self, arm: Arm, sources: list[str], keys: list[str]) -> Row:
        row = arm_row(self.compiled, arm)
        return {
            **{key: row[key] for key in ("address", "point", "role", "replicate", "trunk", "tokens", "steps")},
            **_progress(arm, *arm.own_stages),
            **{f"share/{source}": row["shares"].get(source, 0.0) for source in sources},
            # a length that is varied is the column `tokens` already, as a number
            **{key: row["settings"].get(key) for key in keys if key != "tokens"},
        }

    @property
    def trunks(self) -> Table:
        """A row for every stage that arms leave: its trunk, tokens, state and seconds; `own` if the study trains it."""
        rows: dict[str, Row] = {}
        for arm in self.compiled.arms:
            for stage in arm.compiled.stages[: -len(arm.entries)]:
                if stage.name not in rows:
                    own = stage.setting.curriculum == self.compiled.name
                    tokens = stage.stop - stage.plan.start
                    row = {"stage": stage.name, "trunk": arm.seed, "own": own, "tokens": tokens}
                    rows[stage.name] = {**row, **_progress(arm, stage)}
        return list(rows.values())

    @cached_property
    def measured(self) -> ArmEvidence:
        """The evidence of the arms that ended, what is missing and what was set aside; read once."""
        return measure(self.compiled)

    @property
    def responses(self) -> Table:
        """A row for every arm, replicate and source: the loss at its end, and the difference to each trunk's control.

        The control is `kept`, or what there is in its place; None where it was not measured in the same run.
        """
        evidence = self.measured.evidence
        control = evidence.reference
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
            raise _no_shares(self.compiled.name)
        sources = sorted({name for arm in self.compiled.arms for name in arm.point.mixture.shares})
        return StudyLaw(self.measured.evidence, source, sources)

    @property
    def decision(self) -> StudyDecision | None:
        """The newest record of `curriculum decide`; None before the first."""
        study = self.compiled.study
        return newest_decision(study.project, study.name, study.size)


def _progress(arm: Arm, *stages: CompiledStage) -> Row:
    """How far `stages` of an arm's lineage are together, and the seconds of training that their metrics count."""
    folders = [stage_folder(arm.project, arm.compiled, stage) for stage in stages]
    end, last = stages[-1], folders[-1]
    # the weights of an arm that ended may be pruned
    done = is_finished(last, end) or (end.stop == end.plan.end and last.done.exists())
    kept = [min(newest.position, end.stop) for folder in folders if (newest := checkpoints.latest(folder)) is not None]
    seconds = 0.0
    for stage, folder in zip(stages, folders, strict=True):
        seconds += sum(line["seconds"] for line in read_metrics(folder.metrics) if line["position"] <= stage.stop)
    return {
        "state": "done" if done else "started" if any(folder.plan.exists() for folder in folders) else "not started",
        "position": end.stop if done else max(kept, default=stages[0].plan.start),
        "seconds": float(seconds),
    }


class RunTables:
    """A study of runs that are there already: curricula (`arms:`), or those of others (`table:`)."""

    def __init__(self, project: Project, name: str, size: str) -> None:
        self.project, self.name, self.size = project, name, size
        self.curricula = project.study(name)[0].arms

    def __repr__(self) -> str:
        return f"study {self.name}, size {self.size}, of runs that are there"

    @cached_property
    def evidence(self) -> Evidence:
        """The runs of the table; PlanError of curricula that are asked about schedules before any of them ran."""
        return read_input(self.project, self.name, self.size).evidence

    @property
    def arms(self) -> Table:
        """A row for every curriculum, with its state, tokens and seconds; of a table for every run, with its shares."""
        if self.curricula is None:
            evidence = self.evidence
            sources = sorted({source for arm in evidence.arms() for source in evidence.settings(arm)})
            return [
                {
                    "address": arm,
                    "role": evidence.role(arm),
                    **{f"share/{source}": evidence.settings(arm).get(source, 0.0) for source in sources},
                }
                for arm in evidence.arms()
            ]
        return [self._curriculum(name) for name in self.curricula]

    def _curriculum(self, name: str) -> Row:
        compiled = PreparedText.open(self.project, name, self.size).compiled
        folders = [stage_folder(self.project, compiled, stage) for stage in compiled.stages]
        done = is_finished(folders[-1], compiled.stages[-1])
        kept = [last.position for folder in folders if (last := checkpoints.latest(folder)) is not None]
        seconds = sum(line["seconds"] for folder in folders for line in read_metrics(folder.metrics))
        return {
            "address": name,
            "role": "curriculum",
            "tokens": compiled.stop,
            "steps": sum(stage.steps_run for stage in compiled.stages),
            "state": "done" if done else "started" if folders[0].plan.exists() else "not started",
            "position": compiled.stop if done else min(max(kept, default=0), compiled.stop),
            "seconds": float(seconds),
        }

    @property
    def responses(self) -> Table:
        """A row for every curriculum or run and source: the held-out loss that was measured last, and where."""
        if self.curricula is None:
            return [
                {"arm": row.arm, "source": row.source, "position": None, "loss": row.loss} for row in self.evidence.rows
            ]
        rows = []
        for name in self.curricula:
            compiled = PreparedText.open(self.project, name, self.size).compiled
            rows += [
                {"arm": name, "source": source, "position": curve[-1][0], "loss": curve[-1][1]}
                for source, curve in held_out.curves(self.project, compiled).items()
                if curve
            ]
        return rows

    def law(self, source: str) -> StudyLaw:
        """The law of the held-out loss of `source` in the shares; PlanError where there are none, or too few runs."""
        if self.curricula is not None:
            raise _no_shares(self.name)
        if source not in self.evidence.sources:
            raise NotFound(f"no run measures `{source}`", hint=did_you_mean(source, self.evidence.sources))
        sources = sorted({name for arm in self.evidence.arms() for name in self.evidence.settings(arm)})
        return StudyLaw(self.evidence, source, sources)

    @property
    def decision(self) -> StudyDecision | None:
        """The newest record of `curriculum decide`; None before the first."""
        return newest_decision(self.project, self.name, self.size)


def newest_decision(project: Project, name: str, size: str) -> StudyDecision | None:
    """The newest record of a study; None before the first."""
    newest = record.newest(project.runs / size / name)
    return StudyDecision(newest) if newest is not None else None


def _no_shares(name: str) -> PlanError:
    return PlanError(
        f"study `{name}` varies no mixture, so there is no law of shares", hint="`responses` has what was measured"
    )


class StudyLaw:
    """A fitted law of one held-out loss: `predict` gives it at any mixture, `terms` are its numbers."""

    def __init__(self, evidence: Evidence, source: str, sources: list[str]) -> None:
        from curriculum.studies.decide_mixture import check_enough
        from curriculum.studies.decision import Undecidable
        from curriculum.studies.laws import mixture

        arms, shares, losses = evidence.table(source, sources)
        try:
            check_enough(evidence, arms, source, len(sources))
        except Undecidable as error:
            raise PlanError(error.what, hint=error.hint) from None
        self.source, self.sources = source, tuple(sources)
        own = sources.index(source) if source in sources else None
        self._law, _ = mixture.choose(shares, losses, own)[0]

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

    def __init__(self, entry: record.Record) -> None:
        self.address, self.path, self.content = entry.address, entry.path, entry.content

    def __repr__(self) -> str:
        return f"{self.address}: {self.content['decision']['word']}"

    @property
    def proposal(self) -> dict[str, float]:
        """The shares that were proposed, by source; empty where no mixture was."""
        content = self.content["decision"].get("proposal")
        return dict(content["shares"]) if content else {}

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

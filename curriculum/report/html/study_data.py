"""The data of a study's page: its file, its arms as compiled and trained, and the newest record of a decision."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from curriculum.config.project import Project
from curriculum.studies import record
from curriculum.studies.arms import compile_study
from curriculum.studies.compare import ArmLosses, side_by_side
from curriculum.studies.decision import Decision, LawReport, Question
from curriculum.studies.evidence import Evidence
from curriculum.studies.laws.huber import Array
from curriculum.studies.laws.mixture import MixtureLaw
from curriculum.studies.laws.retention import RetentionLaw
from curriculum.studies.record import Record
from curriculum.studies.tables import Row, StudyTables

NORMAL = 1.96
"""Half a 95% interval, in standard errors."""


@dataclass(frozen=True, slots=True)
class LawPoint:
    """An arm beside its law: shares, measured loss (nats, without what its trunk adds) and what the law gives there."""

    arm: str
    role: str
    shares: Mapping[str, float]
    loss: float
    predicted: float


@dataclass(frozen=True, slots=True)
class LawPanel:
    """The law of one held-out source beside what was measured.

    `half_width` (nats) is that of conformal prediction at 90%, else 1.96 left-out errors, as `interval` says; None
    without either. `curve` has (share, loss) of a law of one share.
    """

    report: LawReport
    points: tuple[LawPoint, ...]
    half_width: float | None
    interval: str
    curve: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Cooldown:
    """The arms of a grid of learning rates and batches, by effective rate: rate / batch^`exponent`.

    Both are relative to the first arm's; `points` are (arm, batch in sequences, effective rate, loss), losses means of
    `lower` in nats a token, and `curve` the law. Without a law the exponent is 0 and there is no curve.
    """

    exponent: float
    points: tuple[tuple[str, float, float, float], ...]
    curve: tuple[tuple[float, float], ...]


@dataclass(frozen=True, kw_only=True)
class StudyData:
    """All data of a study's page.

    `text` is the file as the record has it, else as it is now; `edited` says that it is another one now. `rows` has a
    row for each run of an arm, None of a study that trains none; `record` is None before the first decision. `compared`
    are the arms that ended, less the arm `against`; `trunks` the stages that arms leave.
    """

    name: str
    size: str
    about: str
    text: str
    edited: bool
    rows: tuple[Row, ...] | None
    left_out: tuple[tuple[str, str], ...]
    point: str | None
    record: Record | None
    compared: tuple[ArmLosses, ...] = ()
    against: str | None = None
    trunks: tuple[Row, ...] = ()

    @cached_property
    def decision(self) -> Decision | None:
        return self.record.decision if self.record is not None else None

    @cached_property
    def question(self) -> Question | None:
        return self.record.question if self.record is not None else None

    @cached_property
    def evidence(self) -> Evidence | None:
        return self.record.evidence if self.record is not None else None

    @property
    def ended(self) -> int:
        """How many runs of arms have ended."""
        return sum(row["state"] == "done" for row in self.rows or ())

    @cached_property
    def panels(self) -> tuple[LawPanel, ...]:
        """The laws that a picture can show, each with the arms that it was fitted to and the proposal's."""
        if self.decision is None or self.question is None or self.evidence is None:
            return ()
        if self.decision.kind not in ("mixture", "share"):
            return ()
        return tuple(_panel(self.question, self.evidence, report) for report in self.decision.laws)

    @cached_property
    def cooldown(self) -> Cooldown | None:
        """The arms of a cooldown study that were measured; None of another study, and of fewer than two."""
        if self.decision is None or self.question is None or self.evidence is None or self.decision.kind != "cooldown":
            return None
        return _cooldown(self.question, self.evidence, self.decision)


def gather_study(project: Project, name: str, size: str) -> StudyData:
    """The data of study `name` at `size`; CurriculumError for an unreadable file."""
    file, document = project.study(name)
    now = "\n".join(document.lines)
    newest = record.newest(project.runs / size / name)
    text = now if newest is None or newest.content["text"] is None else str(newest.content["text"])
    compiled = None if file.subject in ("arms", "table") else compile_study(project, name, size)
    tables = None if compiled is None else StudyTables(compiled)
    evidence = (
        tables.measured.evidence if tables is not None else newest.evidence if newest is not None else Evidence(())
    )
    against = evidence.reference
    lower = {source: float(weight) for source, weight in file.goal.lower.items() if weight}
    return StudyData(
        name=name,
        size=size,
        about=file.about or "",
        text=text,
        edited=text != now,
        rows=None if tables is None else tuple(tables.arms),
        left_out=() if compiled is None else tuple((entry.name, entry.reason) for entry in compiled.left_out),
        point=None if compiled is None else compiled.study.point,
        record=newest,
        compared=side_by_side(evidence, lower, against) if against is not None else (),
        against=against,
        trunks=() if tables is None else tuple(tables.trunks),
    )


def _cooldown(question: Question, evidence: Evidence, decision: Decision) -> Cooldown | None:
    ends = []
    for arm in evidence.arms("swarm", "proposal", "control"):
        loss, settings = evidence.mean(arm, question.lower), evidence.settings(arm)
        rate, batch = settings.get("learning_rate", 1.0), settings.get("batch")
        if loss is not None and isinstance(rate, float) and isinstance(batch, float):
            ends.append((arm, batch, rate, loss))
    if len(ends) < 2:
        return None
    law = decision.laws[0].terms if decision.laws else None
    exponent = float(law["exponent"]) if law is not None else 0.0
    # what the law is relative to: the first candidate of the decision, which a record keeps in order
    candidates = [one.name for one in decision.contenders if evidence.role(one.name) in ("swarm", "proposal")]
    first_batch, first_rate = next((one[1:3] for one in ends if one[0] in candidates[:1]), ends[0][1:3])
    points = tuple(
        (arm, batch, rate / first_rate / (batch / first_batch) ** exponent, loss) for arm, batch, rate, loss in ends
    )
    curve: tuple[tuple[float, float], ...] = ()
    if law is not None:
        each = [effective for _, _, effective, _ in points]
        line = np.geomspace(min(each), max(each), 60)
        curve = tuple(zip(line.tolist(), (law["floor"] + law["scale"] * line ** law["power"]).tolist(), strict=True))
    return Cooldown(exponent=exponent, points=points, curve=curve)


def _panel(question: Question, evidence: Evidence, report: LawReport) -> LawPanel:
    sources = question.sources if question.kind == "mixture" else (question.of or "",)
    arms, shares, losses = evidence.table(report.source, sources)
    points = [(arm, evidence.role(arm), row, float(loss)) for arm, row, loss in zip(arms, shares, losses, strict=True)]
    for arm in evidence.arms("proposal"):
        loss = evidence.mean(arm, {report.source: 1.0})
        if loss is not None:
            settings = evidence.settings(arm)
            points.append((arm, "proposal", np.array([float(settings.get(name, 0.0)) for name in sources]), loss))
    predict = _predictor(question, report)
    half, interval = report.half_width, "90% of new arms, by split conformal prediction"
    if half is None and report.left_out_error is not None:
        half, interval = NORMAL * report.left_out_error, "1.96 left-out errors"
    return LawPanel(
        report,
        tuple(
            LawPoint(arm, role, dict(zip(sources, row.tolist(), strict=True)), loss, float(predict(row[None])[0]))
            for arm, role, row, loss in points
        ),
        half,
        interval,
        _curve(predict, np.array([row[0] for _, _, row, _ in points])) if question.kind == "share" else (),
    )


def _predictor(question: Question, report: LawReport) -> Callable[[Array], Array]:
    """Shares `[n, sources]` to losses `[n]`, nats; of a line of shares there is one source."""
    terms: Mapping[str, Any] = report.terms
    if question.kind == "mixture":
        own = question.sources.index(report.source) if report.source in question.sources else None
        return MixtureLaw.of_terms(terms, own).predict
    law = RetentionLaw.of_terms(terms)
    return lambda shares: law.predict(np.maximum(shares[:, 0], 1e-6))


def _curve(predict: Callable[[Array], Array], shares: Array) -> tuple[tuple[float, float], ...]:
    """The law along the shares that were measured; a share of 0 is left out, where a power has no value."""
    inside = shares[shares > 0]
    if not len(inside):
        return ()
    line = np.linspace(inside.min(), inside.max(), 60)
    return tuple(zip(line.tolist(), predict(line[:, None]).tolist(), strict=True))

"""A question asked of arms, and the decision that evidence gives: a proposal, what was shown of it, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from curriculum import fs
from curriculum.plan.learning_rate import LearningRate
from curriculum.studies.intervals import RESAMPLES
from curriculum.studies.programme import PULL
from curriculum.studies.verdicts import Verdict, Word

Kind = Literal["mixture", "share", "candidates", "cooldown", "schedules"]
"""A swarm of mixtures; a line of shares of one source; arms each of its own; a grid of learning rates and batches;
schedules that are not trained."""
LawOfSchedules = Literal["annealing", "multi-power"]


@dataclass(frozen=True)
class Keep:
    """A held-out loss that may not get worse: at most that of the arm `reference` plus `slack` nats.

    With `reference` None the limit is `slack` itself.
    """

    reference: str | None
    slack: float


@dataclass(frozen=True)
class RunCost:
    """What one more run of an arm takes; None where it is not known."""

    tokens: int | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Schedule:
    """A schedule that was not trained: its curve, and where it ends (tokens at the study's size)."""

    name: str
    learning_rate: LearningRate
    end: int


@dataclass(frozen=True)
class Forecast:
    """Schedules to put in order by these laws; a unit of the training curves is `unit_tokens`, `unit_steps` steps."""

    schedules: tuple[Schedule, ...]
    unit_tokens: int
    unit_steps: int
    laws: tuple[LawOfSchedules, ...]


@dataclass(frozen=True)
class StageAsked:
    """The stage that a question of mixtures is about: where it begins, and how often it would read each source.

    `start` is in full-size tokens, after the stage `after`; both are None in a root. Of each source, `passes` has those
    of the lineage at the end of the stage with a share of 0, and those that a share of 1 adds to it.
    """

    after: str | None
    start: int | None
    passes: Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Question:
    """What is asked. `lower` weighs the losses whose mean is minimised; `keep` limits others.

    Records keep it: a field that is added has a default and the metadata `ADDED_LATER`, here and in all below.
    `sources` are those that a mixture is made of, `around` is the mixture that the proposal stays near (shares sum to
    1), `low` and `high` bound its shares, 0 and 1 where nothing is said. `of` is the source of a line of shares.
    """

    name: str
    kind: Kind
    lower: Mapping[str, float]
    keep: Mapping[str, Keep]
    sources: tuple[str, ...] = ()
    around: Mapping[str, float] | None = None
    low: Mapping[str, float] | None = None
    high: Mapping[str, float] | None = None
    of: str | None = None
    pull: float = PULL
    resamples: int = RESAMPLES
    cost: RunCost = RunCost()
    all_trunks: bool = True
    """Whether the answer should hold for other trunks too, so that one trunk alone is said with the verdict."""
    asked: StageAsked | None = field(default=None, metadata=fs.ADDED_LATER)
    forecast: Forecast | None = field(default=None, metadata=fs.ADDED_LATER)
    dropped: int = field(default=0, metadata=fs.ADDED_LATER)
    """Candidates that were dropped at their first end: a correction for many counts them, too."""


@dataclass(frozen=True)
class LawReport:
    """The law of one held-out source. `rank` is Spearman's between left-out predictions and losses of the arms.

    `own_share_rank` is that of the rule "more of its own text is better", None for a source that no mixture has;
    `other_error` is the left-out error of the form that was not chosen. `half_width` covers 90% of new arms by split
    conformal prediction, None with too few arms.
    """

    source: str
    name: str
    terms: Mapping[str, Any]
    arms: int
    objective: float | None
    left_out_error: float | None
    other_error: float | None
    rank: float | None
    own_share_rank: float | None
    half_width: float | None

    @property
    def better_than_own_share(self) -> bool | None:
        """Whether the law ranks arms better than their own share does; None where one of the two is not known."""
        if self.rank is None or self.own_share_rank is None:
            return None
        return self.rank > self.own_share_rank + 0.005


@dataclass(frozen=True)
class Noise:
    """The noise of one held-out source, nats: of a difference between two runs of arms.

    `windows` is one standard error from the choice of documents, `runs` the spread between replicates and trunks;
    `tells` is the smallest difference that `runs_each` runs show (half a 95% interval). None where it was not measured.
    """

    source: str
    windows: float | None
    runs: float | None
    tells: float | None
    runs_each: int


@dataclass(frozen=True)
class Contender:
    """An arm, or a mixture that was not run, beside the others: losses by source, nats, and the mean of `lower`."""

    name: str
    measured: bool
    losses: Mapping[str, float]
    lower: float | None
    breaks: Mapping[str, float]
    """Sources whose limit it exceeds, and by how many nats."""
    word: Word | None = None
    """What was shown of it against the control, corrected for the number of candidates."""


@dataclass(frozen=True)
class Proposal:
    """What the decision proposes: a mixture, or settings.

    `shares` sum to 1 where it is a mixture, `settings` are those of an arm that is none. `intervals` are those of 95%
    of resampled fits, `arm` names the arm that was run with it, None where none was. `residual` is that of the
    programme's optimality conditions.
    """

    arm: str | None
    shares: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    at_bound: tuple[str, ...]
    residual: float | None
    resamples_solved: int
    settings: Mapping[str, float | str] | None = None


@dataclass(frozen=True)
class KeptShareReport:
    """The smallest share of `source` that keeps its limit, its spread over left-out arms, and where it settled.

    `settled` is the position (tokens) of the first earlier evaluation from which on the share stayed within the spread.
    """

    source: str
    share: float | None
    spread: tuple[float, float] | None
    of_trunks: tuple[float, float] | None
    earlier: tuple[tuple[int, float | None], ...] = ()
    settled: int | None = None


@dataclass(frozen=True)
class OrderedPair:
    """Two schedules, of which `first` is predicted to end lower with the probability `confidence`.

    It is the smallest that one of the laws gives; below a half they disagree.
    """

    first: str
    second: str
    confidence: float
    word: Word


@dataclass(frozen=True)
class ScheduleOrder:
    """Schedules from the lowest predicted end up, and how sure the order of each pair is.

    No loss is predicted: the laws order schedules well, and misjudge by how much one is better by a factor of 2 to 3.5.
    """

    names: tuple[str, ...]
    pairs: tuple[OrderedPair, ...]


@dataclass(frozen=True)
class Decision:
    """The answer to a question, a pure function of it and of the evidence."""

    name: str
    kind: Kind
    runs: int
    arms: int
    trunks: int
    proposal: Proposal | None
    laws: tuple[LawReport, ...]
    noise: tuple[Noise, ...]
    contenders: tuple[Contender, ...]
    verdicts: tuple[Verdict, ...]
    kept_shares: tuple[KeptShareReport, ...]
    notes: tuple[str, ...]
    order: ScheduleOrder | None = field(default=None, metadata=fs.ADDED_LATER)

    @property
    def word(self) -> Word:
        """The weakest word of all verdicts; `not measured` without any."""
        order: tuple[Word, ...] = ("contrary", "not measured", "not distinguishable", "suggested", "shown")
        return min((verdict.word for verdict in self.verdicts), key=order.index, default="not measured")

    @property
    def shown(self) -> bool:
        """Whether every part of the goal was shown, so that the proposal may be written."""
        return self.word == "shown"


class Undecidable(Exception):
    """The evidence does not suffice to answer at all; `hint` says what would."""

    def __init__(self, what: str, hint: str) -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint

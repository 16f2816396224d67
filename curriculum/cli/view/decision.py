"""What `curriculum decide` prints: noise, laws, the proposal beside others, verdicts and what would settle them."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Group, RenderableType
from rich.text import Text

from curriculum.cli.view.schedules import order_view
from curriculum.cli.view.tables import notes, share, table
from curriculum.errors import shortened
from curriculum.studies.decision import Contender, Decision, Kind, LawReport, Noise, Proposal, RunCost
from curriculum.studies.verdict_words import figures, goal_words, setting_words, settled_by
from curriculum.units import counted

_STYLES = {"shown": "green", "contrary": "red"}
_MOST_LOSSES = 6
"""Columns of losses that fit a screen; the mean is shown in any case."""


def decision_view(decision: Decision, about: str | None, cost: RunCost, to_train: str | None = None) -> RenderableType:
    """The whole answer for a console. `to_train` is the command that trains runs of the study, None of a table."""
    parts: list[RenderableType] = [_headline(decision, about)]
    if decision.order is not None:
        parts += [Text(), *order_view(decision.order, decision.laws)]
        return Group(*parts, *notes(decision.notes))
    if any(noise.windows is not None or noise.runs is not None for noise in decision.noise):
        parts += [Text(), _noise(decision.noise)]
    if decision.laws:
        parts += [Text(), _laws(decision.laws)]
    if decision.contenders:
        parts += [Text(), _contenders(decision)]
    if decision.proposal is not None:
        parts += [Text(), *_proposal(decision.proposal, decision.kind)]
    parts += [Text(), *_verdicts(decision, cost, to_train)]
    return Group(*parts, *notes(decision.notes))


def _headline(decision: Decision, about: str | None) -> Text:
    text = Text(decision.name, style="bold")
    trunks = f" over {decision.trunks} trunks" if decision.trunks > 1 else ""
    runs = f"{counted(decision.runs, 'run')} of {counted(decision.arms, 'arm')}{trunks}"
    if decision.order is not None:
        runs = counted(decision.runs, "training curve")
    text.append(f"  {about or ''}\n{runs}", style="not bold")
    return text


def _number(value: float | None, digits: int = 4) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _noise(noise: tuple[Noise, ...]) -> RenderableType:
    rows = (
        (
            shortened(one.source),
            _number(one.windows),
            _number(one.runs),
            _number(one.tells, 3),
            str(one.runs_each or "-"),
        )
        for one in noise
    )
    return table("noise, nats", "#windows", "#between runs", "#detectable", "#by runs", rows=rows)


def _laws(laws: tuple[LawReport, ...]) -> RenderableType:
    better = {None: "-", True: "yes", False: "no"}
    rows = (
        (
            shortened(law.source),
            law.name,
            _number(law.left_out_error),
            _number(law.rank, 2),
            better[law.better_than_own_share],
            "-" if law.half_width is None else f"±{law.half_width:.3f}",
        )
        for law in laws
    )
    return table("law of", "form", "#left-out error", "#rank", "better than own share", "#90% of new arms", rows=rows)


def _contenders(decision: Decision) -> RenderableType:
    sources = list(dict.fromkeys(name for one in decision.contenders for name in one.losses))[:_MOST_LOSSES]
    words = any(one.word for one in decision.contenders)
    columns = ["", *(f"#{shortened(name)}" for name in sources), "#mean of lower", ""]
    rows = [
        [
            shortened(one.name),
            *(_number(one.losses.get(name)) for name in sources),
            _number(one.lower),
            _remark(one, words=words),
        ]
        for one in decision.contenders
    ]
    return table(*columns, rows=rows)


def _remark(one: Contender, *, words: bool) -> str:
    parts = [f"breaks `{shortened(name)}` by {excess:.3f}" for name, excess in one.breaks.items()]
    if words and one.word:
        parts.insert(0, one.word)
    return ", ".join(parts)


def _proposal(proposal: Proposal, kind: Kind) -> list[RenderableType]:
    if proposal.shares:
        rows = [
            (shortened(name), share(value), _interval(proposal.intervals.get(name)))
            for name, value in sorted(proposal.shares.items(), key=lambda pair: -pair[1])
            if value > 0
        ]
        heading = "proposal" if kind != "candidates" else f"proposal  {shortened(proposal.arm or '')}"
        parts: list[RenderableType] = [table(heading, "#share", "#by the law, 95%", rows=rows)]
    else:
        parts = [Text(f"proposal  {proposal.arm}: {setting_words(proposal.settings or {})}")]
    if proposal.at_bound:
        parts.append(Text(f"bounded: {', '.join(proposal.at_bound)}", style="dim"))
    return parts


def _interval(span: tuple[float, float] | None) -> str:
    return "-" if span is None else f"{100 * span[0]:.1f}..{100 * span[1]:.1f}%"


def _verdicts(decision: Decision, cost: RunCost, to_train: str | None) -> list[RenderableType]:
    parts: list[RenderableType] = []
    for verdict in decision.verdicts:
        text = Text("verdict  ", style="bold")
        text.append(f"{goal_words(verdict)}: ", style="not bold")
        word = verdict.word.upper() if verdict.word == "not distinguishable" else verdict.word
        text.append(word, style=_STYLES.get(verdict.word, "yellow"))
        text.append(f", {figures(verdict)}", style="not bold")
        parts.append(text)
        if settles := settled_by(verdict, cost, to_train):
            parts.append(Text(f"         what would decide it: {settles}"))
    for kept in decision.kept_shares:
        spread = (
            "" if kept.spread is None else f", leaving out any arm {share(kept.spread[0])}..{share(kept.spread[1])}"
        )
        trunks = (
            "" if kept.of_trunks is None else f", over trunks {share(kept.of_trunks[0])}..{share(kept.of_trunks[1])}"
        )
        percent = "none" if kept.share is None else share(kept.share)
        parts.append(Text(f"also     share that keeps `{shortened(kept.source)}`: {percent}{spread}{trunks}"))
    return parts


def decision_json(decision: Decision) -> Mapping[str, object]:
    """The decision as `--json` prints it, with the word of the whole."""
    from curriculum.studies.record import plain

    return {**plain(decision), "word": decision.word, "shown": decision.shown}

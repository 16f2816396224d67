"""The page of a study: what was asked, what was trained, and what its newest decision says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby

from curriculum.report.html import markup, study_charts
from curriculum.report.html.page import document
from curriculum.report.html.plan_charts import NARROW, WIDE
from curriculum.report.html.study_data import StudyData
from curriculum.report.svg import shapes, swatches
from curriculum.studies.compare import difference_words
from curriculum.studies.decision import Contender, Decision, Question
from curriculum.studies.verdict_words import figures, goal_words, setting_words, settled_by
from curriculum.units import counted, show_count, show_exact, show_seconds

MOST_ARMS = 120
MOST_LOSSES = 20
"""Rows of arms and columns of losses; a record has them all."""
ROLES = {"swarm": "varied arm", "control": "control", "proposal": "proposal"}


def study_page(data: StudyData) -> str:
    """The HTML file. Equal data gives equal bytes: it has no time and no name of a machine."""
    ordered = data.decision is not None and data.decision.order is not None
    judged = [_order(data)] if ordered else [_verdicts(data), _proposal(data)]
    parts = [
        *judged,
        _laws(data),
        _cooldown(data),
        _arms(data),
        _differences(data),
        _noise(data),
        _costs(data),
        _question(data),
        _record(data),
    ]
    return document(f"{data.name}: study report", _head(data), parts)


def _number(value: float | None, digits: int = 4) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _head(data: StudyData) -> str:
    parts = [markup.paragraph(f"Study report, size {data.size}", "kind"), f"<h1>{shapes.safe(data.name)}</h1>"]
    if data.about:
        parts.append(markup.paragraph(data.about, "about"))
    if data.point is not None:
        parts.append(markup.paragraph(f"arms leave {data.point}", "path"))
    if data.decision is None:
        parts.append(markup.paragraph(f"No decision yet: `curriculum decide {data.name}` writes the first.", "note"))
    if data.edited:
        parts.append(
            markup.paragraph(
                "The file of the study was edited since the decision: this page shows it as it was then.", "note"
            )
        )
    parts.append(markup.figures(_figures(data)))
    return "<header>" + "\n".join(parts) + "</header>"


def _figures(data: StudyData) -> list[tuple[str, str, str, str]]:
    shown: list[tuple[str, str, str, str]] = []
    if data.decision is not None and data.record is not None:
        decision = data.decision
        if decision.order is not None:
            number, unit = counted(decision.runs, "training curve").split(" ", 1)
            shown.append(("Evidence", number, unit, f"of {data.record.address}"))
            return shown
        shown.append(
            ("Verdict", decision.word, "", f"of {data.record.address}, the weakest of {len(decision.verdicts)}")
        )
        trunks = f" over {decision.trunks} trunks" if decision.trunks > 1 else ""
        number, unit = counted(decision.runs, "run").split()
        shown.append(("Evidence", number, unit, f"of {counted(decision.arms, 'arm')}{trunks}"))
    if data.rows is not None:
        shown.append(("Ended", f"{data.ended} of {len(data.rows)}", "runs", "now"))
    return shown


def _verdicts(data: StudyData) -> str:
    if data.decision is None or data.question is None or not data.decision.verdicts:
        return ""
    verdicts, cost = data.decision.verdicts, data.question.cost
    to_train = None if data.rows is None else f"curriculum run {data.name}"
    pictures = [study_charts.verdicts(verdicts, width, f"verdicts-{width}") for width in (WIDE, NARROW)]
    rows = [
        [goal_words(verdict), verdict.against, verdict.word, figures(verdict), settled_by(verdict, cost, to_train)]
        for verdict in verdicts
    ]
    marks = [(_dot("proposal"), "measured, with its 95% interval")]
    if any(verdict.predicted is not None for verdict in verdicts):
        marks.append((_dot("predicted"), "predicted by the law"))
    notes = [markup.paragraph(f"{note}.", "note") for note in data.decision.notes]
    kept = [
        [
            one.source,
            "none" if one.share is None else _percent(one.share),
            _span(one.spread),
            _span(one.of_trunks),
            "" if one.settled is None else show_exact(one.settled),
        ]
        for one in data.decision.kept_shares
    ]
    columns = ("keeps", "#smallest share", "#leaving out any arm", "#over trunks", "#settled from (tokens)")
    return markup.section(
        "verdicts",
        "Verdicts",
        "The proposal less each arm that it is held against. Left of the upright mark is what was wanted.",
        [
            markup.figure(pictures, "Differences of held-out losses, nats a token."),
            markup.legend(marks),
            markup.table(
                "Verdicts, and what would decide them", ("goal", "against", "verdict", "~measured", "~decided by"), rows
            ),
            markup.table("The smallest share that keeps a loss", columns, kept) if kept else "",
            *notes,
        ],
    )


def _order(data: StudyData) -> str:
    if data.decision is None or (order := data.decision.order) is None:
        return ""
    rows = [[pair.first, pair.second, f"{100 * pair.confidence:.1f} %", pair.word] for pair in order.pairs]
    parts = [
        markup.paragraph(", ".join(order.names), "path"),
        markup.table("The order of each pair", ("ends lower", "than", "#confidence", "verdict"), rows),
        *(markup.paragraph(f"{note}.", "note") for note in data.decision.notes),
    ]
    lead = (
        "Schedules that were not trained, from the lowest predicted end up. No loss is predicted: the laws only order."
    )
    return markup.section("order", "The order", lead, parts)


def _span(span: tuple[float, float] | None) -> str:
    return "" if span is None else f"{100 * span[0]:.1f} to {100 * span[1]:.1f} %"


def _dot(role: str) -> str:
    return swatches.marker(study_charts.STYLES.get(role, study_charts.PREDICTED))


def _roles(roles: Sequence[str]) -> str:
    return markup.legend([(_dot(role), words) for role, words in ROLES.items() if role in roles])


def _proposal(data: StudyData) -> str:
    if data.decision is None or data.question is None:
        return ""
    parts = []
    proposal, around = data.decision.proposal, data.question.around or {}
    if proposal is not None and proposal.shares:
        rows = [
            [source, _percent(around[source]) if source in around else "", _percent(share), _span(span)]
            for source, share in sorted(proposal.shares.items(), key=lambda pair: -pair[1])
            for span in (proposal.intervals.get(source),)
        ]
        columns = ("source", "#around", "#proposed", "#by the law, 95%")
        parts.append(markup.table("The mixture that is proposed, and the one it is around", columns, rows))
        if data.decision.kind == "candidates":
            parts.insert(0, markup.paragraph(f"Proposed is the arm {proposal.arm}."))
    elif proposal is not None:
        settings = setting_words(proposal.settings or {})
        parts.append(markup.paragraph(f"Proposed is the arm {proposal.arm}: {settings}."))
    if proposal is not None and proposal.at_bound:
        parts.append(markup.paragraph(f"Bounded: {', '.join(proposal.at_bound)}.", "note"))
    if data.decision.contenders:
        parts.append(_contenders(data.decision))
    if not parts:
        return ""
    lead = "The arm that is proposed, beside the others."
    if data.decision.kind in ("mixture", "share"):
        lead = "What the laws prefer within the limits. Its own runs, which no law was fitted to, judge it."
    return markup.section("proposal", "The proposal", lead, parts)


def _contenders(decision: Decision) -> str:
    sources = list(dict.fromkeys(name for one in decision.contenders for name in one.losses))[:MOST_LOSSES]
    rows = [
        [
            one.name,
            "measured" if one.measured else "predicted",
            *(_number(one.losses.get(source)) for source in sources),
            _number(one.lower),
            _remark(one),
        ]
        for one in decision.contenders
    ]
    columns = ("arm", "losses are", *(f"#{source}" for source in sources), "#mean of lower", "~remark")
    return markup.table("Held-out loss beside the others, nats a token", columns, rows)


def _remark(one: Contender) -> str:
    words = [one.word] if one.word else []
    return ", ".join([*words, *(f"exceeds the limit of {name} by {by:.3f}" for name, by in one.breaks.items())])


def _laws(data: StudyData) -> str:
    if data.decision is None or data.question is None or not data.decision.laws:
        return ""
    pictures = [
        markup.figure([study_charts.law(panel, data.question.of, f"law-{at}")], f"The band is {panel.interval}.")
        for at, panel in enumerate(data.panels)
    ]
    better = {None: "", True: "yes", False: "no"}
    rows = [
        [
            law.source,
            law.name,
            show_exact(law.arms),
            _number(law.left_out_error),
            _number(law.other_error),
            _number(law.rank, 2),
            better[law.better_than_own_share],
            "" if law.half_width is None else f"±{law.half_width:.3f}",
            ", ".join(f"{name} {_term(value)}" for name, value in law.terms.items()),
        ]
        for law in data.decision.laws
    ]
    scores = ("#left-out error", "#of the other form", "#rank", "better than own share", "#90% of new arms")
    columns = ("law of", "form", "#arms", *scores, "~terms")
    roles = [point.role for panel in data.panels for point in panel.points]
    parts = [f'<div class="panels">{"".join(pictures)}</div>', _roles(roles)] if pictures else []
    lead = "Held-out losses, nats a token: what the law says of an arm, and what was measured of it."
    table = markup.details("Laws as numbers", markup.table("Laws of the held-out losses", columns, rows))
    return markup.section("laws", "Laws and measurements", lead, [*parts, table])


def _cooldown(data: StudyData) -> str:
    """Rate and batch of the arms of a cooldown against what they ended at."""
    if (cooldown := data.cooldown) is None:
        return ""
    rows = [[arm, f"{batch:g}", f"{effective:.3g}", _number(loss)] for arm, batch, effective, loss in cooldown.points]
    marks = [
        (swatches.marker(study_charts.batch_style(cooldown, batch)), f"batch {batch:g} sequences")
        for batch in sorted({batch for _, batch, _, _ in cooldown.points})
    ]
    lead = (
        f"Arms of equal rate / batch^{cooldown.exponent:.2f} end alike: the exponent is measured here."
        if cooldown.curve
        else "The exponent of the batch is not measured, so losses are over the rate alone."
    )
    columns = ("arm", "#batch (sequences)", "#effective rate", "#mean of lower")
    parts = [
        markup.figure([study_charts.cooldown(cooldown, "cooldown")], "Losses at the arms' ends."),
        markup.legend(marks),
        markup.details("As numbers", markup.table("Arms by effective rate, relative to the first", columns, rows)),
    ]
    return markup.section("cooldown", "Rate and batch", lead, parts)


def _term(value: object) -> str:
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_term, value)) + "]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _arms(data: StudyData) -> str:
    points = _points(data)
    if not points:
        return ""
    used = {source for _, _, shares, _ in points for source, share in shares.items() if share}
    sources = sorted(used, key=lambda source: (-max(shares.get(source, 0.0) for _, _, shares, _ in points), source))
    evidence = data.evidence
    measured = list(evidence.sources)[:MOST_LOSSES] if evidence is not None else []
    rows: list[list[markup.Cell]] = []
    for name, role, shares, more in markup.thinned(points, MOST_ARMS):
        losses = [evidence.mean(name, {source: 1.0}) if evidence is not None else None for source in measured]
        cells = [_percent(shares[source]) if shares.get(source) else "" for source in sources[:MOST_LOSSES]]
        rows.append([name, ROLES[role], *more, *cells, *map(_number, losses)])
    settings = bool(data.rows and any(_settings(row) for row in data.rows))
    columns = ("arm", "role", *(("#runs ended",) if data.rows is not None else ()), *(("set",) if settings else ()))
    columns = (*columns, *(f"#{name}" for name in sources[:MOST_LOSSES]), *(f"#loss on {name}" for name in measured))
    parts = []
    if len(sources) > 1:
        drawn = [(name, role, shares) for name, role, shares, _ in points]
        picture = study_charts.shares(drawn, sources, "arms-shares")
        parts += [markup.figure([picture], "What the arms read."), _roles([role for _, role, _, _ in points])]
    parts.append(markup.table("Arms: shares, and mean held-out loss over their runs, nats a token", columns, rows))
    parts += [markup.paragraph(f"{name} is left out: {reason}.", "note") for name, reason in data.left_out]
    return markup.section("arms", "Arms", "", parts)


def _differences(data: StudyData) -> str:
    """Every arm less the control, with the noise of runs; nothing before the control has ended."""
    rows = markup.thinned([row for row in data.compared if row.arm != data.against], MOST_ARMS)
    sources = list(dict.fromkeys(source for row in rows for source in row.differences))[:MOST_LOSSES]
    if not sources:
        return ""
    cells = [
        [
            row.arm,
            str(row.runs),
            difference_words(row.lower_difference),
            *(difference_words(row.differences.get(source)) for source in sources),
        ]
        for row in rows
    ]
    columns = ("arm", "#runs", "#mean of lower", *(f"#{source}" for source in sources))
    lead = (
        f"Held-out loss of each arm less that of `{data.against}`, nats a token, paired by run, ± one standard error: "
        "the larger of that between runs and that of the choice of documents. * where the 95% interval excludes "
        "0, · where it does not."
    )
    name = f"Differences of arms to {data.against}"
    return markup.section("differences", "Differences", lead, [markup.table(name, columns, cells)])


def _points(data: StudyData) -> list[tuple[str, str, Mapping[str, float], list[str]]]:
    """Arms with role, shares and further cells: as they are compiled, else as the record has them."""
    if data.rows is None:
        if data.evidence is None:
            return []
        names = data.evidence.arms("swarm", "control", "proposal")
        return [
            (
                name,
                data.evidence.role(name),
                {key: value for key, value in data.evidence.settings(name).items() if isinstance(value, float)},
                [],
            )
            for name in names
        ]
    points: list[tuple[str, str, Mapping[str, float], list[str]]] = []
    settings = any(map(_settings, data.rows))
    for name, grouped in groupby(data.rows, lambda row: str(row["point"])):
        rows = list(grouped)
        first = rows[0]
        shares = {key.removeprefix("share/"): value for key, value in first.items() if key.startswith("share/")}
        done = sum(row["state"] == "done" for row in rows)
        more = [f"{done} of {len(rows)}", *([_settings(first)] if settings else [])]
        points.append((name, str(first["role"]), shares, more))
    return points


_OF_EVERY_ARM = frozenset(
    ("address", "point", "role", "replicate", "trunk", "tokens", "steps", "state", "position", "seconds")
)


def _settings(row: Mapping[str, object]) -> str:
    """What was varied but the mixture, of a row of the table of arms."""
    return ", ".join(
        f"{key} {value}"
        for key, value in row.items()
        if key not in _OF_EVERY_ARM and not key.startswith("share/") and value is not None
    )


def _noise(data: StudyData) -> str:
    if data.decision is None or not any(one.windows or one.runs for one in data.decision.noise):
        return ""
    rows = [
        [one.source, _number(one.windows), _number(one.runs), _number(one.tells, 3), one.runs_each or ""]
        for one in data.decision.noise
    ]
    columns = ("source", "#by held-out documents", "#between runs", "#detectable", "#by runs of each")
    lead = (
        "Of a difference between two runs: one standard error by the choice of held-out documents, the spread between "
        "replicates and trunks, and the smallest detectable difference."
    )
    return markup.section("noise", "Noise", lead, [markup.table("Noise, nats a token", columns, rows)])


def _costs(data: StudyData) -> str:
    if data.rows is None:
        return ""
    rows: list[list[markup.Cell]] = []
    for role in ROLES:
        of = [row for row in data.rows if row["role"] == role]
        if of:
            rows.append([ROLES[role], *_cost(of)])
    for trunk in data.trunks:
        whose = "trained for this study" if trunk["own"] else "trained anyway"
        rows.append([f"{trunk['stage']}, {whose}", *_cost([trunk])])
    rows.append(["all", *_cost([*data.rows, *(trunk for trunk in data.trunks if trunk["own"])])])
    cost = data.question.cost if data.question is not None else None
    more = f" One more run takes {show_count(cost.tokens)} tokens." if cost is not None and cost.tokens else ""
    lead = f"Of the arms, and of the stages that they leave; `all` counts what is trained for this study alone.{more}"
    columns = ("what", "#runs", "#ended", "#tokens planned", "#tokens trained", "#training time")
    return markup.section("costs", "Costs", lead, [markup.table("What the study takes", columns, rows)])


def _cost(rows: Sequence[Mapping[str, object]]) -> list[str]:
    done = [row for row in rows if row["state"] == "done"]
    seconds = sum(float(str(row["seconds"])) for row in rows)
    planned, trained = (sum(int(str(row["tokens"])) for row in some) for some in (rows, done))
    words = [str(len(rows)), str(len(done)), show_exact(planned), show_exact(trained)]
    return [*words, show_seconds(seconds) if seconds else ""]


def _question(data: StudyData) -> str:
    parts = []
    if data.question is not None:
        parts.append(markup.table("The goal", ("wanted", "~of"), _goal(data.question)))
    parts.append(markup.preformatted(data.text))
    lead = f"studies/{data.name}.yaml" + (", as it was when the decision was made." if data.record else ", as it is.")
    return markup.section("question", "The question", lead, parts)


def _goal(question: Question) -> list[list[markup.Cell]]:
    rows: list[list[markup.Cell]] = [
        ["lower", ", ".join(f"{source} (weight {weight:g})" for source, weight in question.lower.items())]
    ]
    for source, keep in question.keep.items():
        limit = f"{keep.slack:g}" if keep.reference is None else keep.reference
        slack = f" + {keep.slack:g}" if keep.reference is not None and keep.slack else ""
        rows.append(["keep", f"{source} at most {limit}{slack}"])
    for name, bounds in (("at least", question.low), ("at most", question.high)):
        limited = {source: share for source, share in (bounds or {}).items() if 0 < share < 1}
        if limited:
            rows.append([name, ", ".join(f"{source} {_percent(share)}" for source, share in limited.items())])
    return rows


def _record(data: StudyData) -> str:
    if data.record is None:
        return ""
    content = data.record.content
    files = [[markup.code(path), markup.code(digest)] for path, digest in content["files"].items()]
    versions = ", ".join(f"{name} {version}" for name, version in content["versions"].items())
    parts = [
        markup.preformatted(f"curriculum verify {data.name} --size {data.size}"),
        markup.details("What it was read from", markup.table("Digests (SHA-256) by file", ("file", "~digest"), files)),
    ]
    lead = f"{data.record.address}, with {versions}. The command computes it again from the losses on disk."
    return markup.section("record", "The record", lead, parts)

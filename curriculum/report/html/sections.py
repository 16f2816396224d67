"""The parts of a report in the order of its data, each from the gathered data to HTML."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby

from curriculum.analysis.compare import LEGEND
from curriculum.compiler.compile import Compiled
from curriculum.compiler.summary import rates
from curriculum.report.html import gather, loss_charts, markup, plan_charts
from curriculum.report.html.gather import ReportData, ReportStage
from curriculum.report.html.loss_charts import Line
from curriculum.report.html.series import Point
from curriculum.report.svg import shapes, swatches
from curriculum.runs import status
from curriculum.units import show_count, show_exact, show_seconds

MOST_PANELS = 12
WIDTHS = (plan_charts.WIDE, plan_charts.NARROW)
STATES = {gather.REACHED: "at the branch point"}
"""States with another name than in `status`."""


def line_styles(data: ReportData) -> dict[str, int]:
    """The line style of every stage: 0 for what all lineages share, else that of the lineage it belongs to."""
    owners = _owners(data)
    return {name: 0 if at is None else 1 + at % (shapes.LINE_STYLES - 1) for name, at in owners.items()}


def _owners(data: ReportData) -> dict[str, int | None]:
    """The lineage in whose style a stage is drawn: that of its own curriculum, else the first through it; None: all."""
    owners: dict[str, int | None] = {}
    for name, stage in data.stages.items():
        through = _through(data, name)
        own = [at for at in through if data.lineages[at].curriculum in (stage.compiled.setting.curriculum, name)]
        owners[name] = None if len(through) == len(data.lineages) else (own or through)[0]
    return owners


def _through(data: ReportData, name: str) -> list[int]:
    return [at for at, line in enumerate(data.lineages) if any(stage.name == name for stage in line.stages)]


def _lines(
    data: ReportData,
    points: Callable[[ReportStage], Sequence[Point]],
    raw: Callable[[ReportStage], Sequence[Point]] | None = None,
) -> list[Line]:
    """A line for each stage with `points`, from where its parent's stood when it began; `raw` are drawn faintly."""
    styles = line_styles(data)
    measured = {name: points(stage) for name, stage in data.stages.items()}
    in_order = ([stage.name for stage in lineage.stages if measured[stage.name]] for lineage in data.lineages)
    ends = {names[-1] for names in in_order if names}
    lines = []
    for name, stage in data.stages.items():
        own, parent = measured[name], stage.compiled.parent
        if own and parent is not None and parent.name in measured and own[0][0] > stage.start:
            own = (*[point for point in measured[parent.name] if point[0] <= stage.start][-1:], *own)
        if own:
            faint = tuple(raw(stage)) if raw else ()
            lines.append(Line(name=name, style=styles[name], points=tuple(own), raw=faint, ends=name in ends))
    return lines


def head(data: ReportData) -> str:
    """Title, size, state of every stage, key figures."""
    names = [lineage.curriculum for lineage in data.lineages]
    title = " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)
    parts = [markup.paragraph(f"Curriculum report, size {data.size}", "kind"), f"<h1>{shapes.safe(title)}</h1>"]
    for lineage in data.lineages:
        if lineage.about:
            prefix = f"{lineage.curriculum}: " if len(names) > 1 else ""
            parts.append(markup.paragraph(prefix + lineage.about, "about"))
        path = (f"{stage.name} ({_state(data.stages[stage.name])})" for stage in lineage.stages)
        parts.append(markup.paragraph(" → ".join(path), "path"))
    if (scale := data.lineages[0].scale) != 1:
        parts.append(
            markup.paragraph(
                f"This is not the full-size curriculum. Size {data.size} scales every length by {float(scale):g}: its "
                f"model has {show_count(data.parameters)} parameters and reads {show_count(data.stop)} tokens. It "
                "shows the recipe's shape, not its quality. All positions below are tokens of this size.",
                "note",
            )
        )
    differs = [stage.name for stage in data.stages.values() if stage.differs]
    if differs:
        parts.append(
            markup.paragraph(
                f"The files have changed since {', '.join(differs)} started. Plans below are of the files as they are "
                "now, measured values of what ran; mixtures of the two are not compared.",
                "note",
            )
        )
    parts.append(markup.figures(_figures(data)))
    return "<header>" + "\n".join(parts) + "</header>"


def _figures(data: ReportData) -> list[tuple[str, str, str, str]]:
    stages = list(data.stages.values())
    trained = sum(min(s.position, s.stop) - s.start for s in stages)
    planned = sum(s.stop - s.start for s in stages)
    steps = sum(s.compiled.steps_run for s in stages)
    shared = data.trunk.position if len(data.lineages) > 1 else 0
    seconds = sum(s.training.seconds for s in stages)
    plan = stages[-1].compiled.plan
    batches = (
        [(n, n * s.plan.sequence_length) for s in lineage.stages for _, n in s.batches] for lineage in data.lineages
    )
    chains = dict.fromkeys(tuple(batch for batch, _ in groupby(chain)) for chain in batches)
    done = sum(s.state in (status.DONE, gather.REACHED) for s in stages)
    figures = [
        (
            "Trained",
            show_count(trained),
            "tokens",
            f"of {show_count(planned)} planned" + (f"; {show_count(shared)} shared by all" if shared else ""),
        ),
        ("Stages", f"{done} of {len(stages)}", "done", f"{show_exact(steps)} steps in all"),
        ("Model", show_count(data.parameters), "parameters", f"{show_exact(plan.sequence_length)} tokens a sequence"),
        (
            "Batch",
            " or ".join(" → ".join(show_exact(sequences) for sequences, _ in chain) for chain in chains),
            "sequences",
            " or ".join(" → ".join(show_count(tokens) for _, tokens in chain) for chain in chains) + " tokens a step",
        ),
    ]
    if seconds:
        tokens = sum((s.training.last or s.start) - s.start for s in stages)
        evaluated = sum(s.training.evaluation_seconds for s in stages)
        held = f"{show_exact(round(tokens / seconds))} tokens/s on average; steps and saves"
        if evaluated:
            held += f"; evaluations within the stages took {show_seconds(evaluated)} more"
        figures.append(("Training time", show_seconds(seconds), "", held))
    return figures


def progress(data: ReportData) -> str:
    """How far each stage is."""
    rows = [
        [
            stage.name,
            _state(stage),
            show_exact(stage.start),
            show_exact(stage.stop),
            f"{show_exact(min(stage.position, stage.stop))} ({_percent(stage)})",
            show_exact(stage.compiled.steps_run),
            rates(stage.plan, "→"),
        ]
        for stage in data.stages.values()
    ]
    columns = ("stage", "state", "#starts at", "#ends at", "#trained to", "#steps", "#learning rate")
    return markup.table("How far each stage is; positions in tokens from the root", columns, rows)


def _state(stage: ReportStage) -> str:
    return STATES.get(stage.state, stage.state)


def _percent(stage: ReportStage) -> str:
    span = max(1, stage.stop - stage.start)
    return f"{100 * (min(stage.position, stage.stop) - stage.start) / span:.3g} %"


def curriculum(data: ReportData) -> str:
    """The curriculum as a picture, one for each lineage."""
    parts = [source_legend(data)]
    strips = min(64, 192 // len(data.lineages))
    for at, lineage in enumerate(data.lineages):
        if len(data.lineages) > 1:
            parts.append(f"<h3>{shapes.safe(lineage.curriculum)}</h3>")
        pictures = [
            plan_charts.curriculum(lineage, data.sources, width, f"plan-{at}-{width}", strips) for width in WIDTHS
        ]
        parts.append(markup.figure(pictures, _ramp_words(lineage)))
        for caption, picture in plan_charts.ramps(lineage, data.sources, f"ramp-{at}"):
            parts.append(markup.figure([picture], caption))
    parts.append(markup.details("Stages as numbers", progress(data)))
    lead = "Computed from the plan: which sources fill the steps, at what learning rate and in what batch."
    return markup.section("curriculum", "The curriculum", lead, parts)


def _ramp_words(lineage: Compiled) -> str:
    text = [
        f"{stage.setting.stage} moves to its mixture in a straight line over "
        f"{show_count(stage.ramp_sequences * stage.plan.sequence_length)} tokens, "
        f"{show_exact(stage.plan.clock.step_of_sequence(stage.ramp_sequences - 1) + 1)} steps."
        for stage in lineage.stages
        if stage.ramp_sequences
    ]
    shapes = {"cosine": "falls along a cosine", "linear": "falls in a straight line", "constant": "stays"}
    shapes["points"] = "moves from point to point of its schedule"
    shape = shapes.get(lineage.stages[-1].plan.learning_rate.shape, "warms up, stays and falls")
    shape = f"The learning rate {shape}, on the clock of tokens from the root: no change of batch moves it."
    return " ".join([*text, shape])


def source_legend(data: ReportData) -> str:
    own = data.sources[: shapes.SOURCE_STYLES - 1]
    entries = [(swatches.area(at, at > 0), name) for at, name in enumerate(own)]
    if others := len(data.sources) - len(own):
        text = data.sources[-1] if others == 1 else f"{others} other sources together"
        entries.append((swatches.area(shapes.SOURCE_STYLES - 1, False), text))
    return markup.legend(entries)


def line_legend(data: ReportData) -> str:
    """The lineage of each line style; stages that several lineages share have the style of one, which is noted."""
    styles, owners = line_styles(data), _owners(data)
    entries = []
    for owner in (None, *range(len(data.lineages))):
        stages = [name for name in data.stages if owners[name] == owner]
        if not stages:
            continue
        text = "shared by all" if owner is None else data.lineages[owner].curriculum
        if len(data.lineages) == 1:
            text = data.lineages[0].curriculum
        for name in stages if owner is not None else ():
            others = [data.lineages[at].curriculum for at in _through(data, name) if at != owner]
            if others:
                text += f" ({data.stages[name].compiled.setting.stage}: also {', '.join(others)})"
        number = styles[stages[0]]
        entries.append((swatches.line(number), text))
    return markup.legend(entries)


def training(data: ReportData) -> str | None:
    """Training loss; None while nothing has been trained."""
    lines = _lines(data, lambda stage: stage.training.smooth, lambda stage: stage.training.raw)
    if not lines:
        return None
    bands = gather.bands(data.lineages)
    batches = sorted({change for lineage in data.lineages for change in gather.batch_changes(lineage)})
    pictures = [loss_charts.training_loss(lines, bands, batches, data.stop, width, f"loss-{width}") for width in WIDTHS]
    counted = sum(s.training.lines for s in data.stages.values())
    drawn = sum(len(line.raw) for line in lines)
    text = (
        f"Faint: as measured in each step. Strong: an exponentially weighted mean, in which the weight of a step "
        f"falls to 1/e after {show_count(data.smoothing)} tokens, and sooner where a stage starts, which restarts it."
    )
    if drawn < counted:
        text += (
            f" Of {show_exact(counted)} measured values {show_exact(drawn)} are drawn: the lowest and the highest of "
            "each range of tokens."
        )
    above = loss_charts.domain(lines, data.stop).above
    if above is not None:
        text += f" Above the picture, at {show_exact(above[0])} tokens, it reaches {above[1]:.2f}."
    rows: list[Sequence[markup.Cell]] = [
        [line.name, show_exact(position), f"{loss:.4f}"]
        for line in lines
        for position, loss in markup.thinned(line.points, max(4, 48 // len(lines)))
    ]
    parts = [
        line_legend(data),
        markup.figure(pictures, text),
        markup.details(
            "Training loss as numbers",
            markup.table("Smoothed training loss", ("stage", "#tokens", "#nats a token"), rows),
        ),
    ]
    return markup.section("training", "Training loss", "Nats a token, over all the sources of each step.", parts)


def held_out(data: ReportData) -> str | None:
    """Held-out curves, a panel a source, variants laid over one another; None before any evaluation."""
    bands = gather.bands(data.lineages)
    places = plan_charts.styles(data.sources)
    measured = {source for stage in data.stages.values() for losses in stage.held_out.values() for source in losses}
    every = [s for s in data.sources if s in measured] + sorted(measured - set(data.sources))
    sources = every[:MOST_PANELS]
    if not sources:
        return None
    lines = {source: held_out_lines(data, source) for source in sources}
    panels = [
        loss_charts.held_out(
            source, lines[source], bands, data.stop, f"held-{at}", places.get(source, shapes.SOURCE_STYLES - 1)
        )
        for at, source in enumerate(sources)
    ]
    text = "A marker is an evaluation on the same held-out windows. Each panel has its own scale."
    if any(loss_charts.domain(lines[source], data.stop).above for source in sources):
        text += " The steep fall at the start rises out of the panels; the table below has it."
    if len(every) > MOST_PANELS:
        text += f" {len(every) - MOST_PANELS} sources more, those with the fewest tokens, are left out here."
    parts = [
        line_legend(data),
        f'<div class="panels">{"".join(f"<figure>{panel}</figure>" for panel in panels)}</div>',
        markup.paragraph(text, "lead"),
        _edges(data, sources),
        *_differences(data, sources),
        *_quarters(data, sources),
        markup.details("Every evaluation as numbers", _evaluations(data, sources)),
    ]
    lead = "Loss in nats a token on text that is never trained on, one panel a source."
    return markup.section("held-out", "Held-out loss", lead, parts)


def held_out_lines(data: ReportData, source: str) -> list[Line]:
    """The held-out losses of a source, a line for each stage that measured it."""
    return _lines(data, lambda stage: stage.losses(source))


def _edges(data: ReportData, sources: list[str]) -> str:
    """Held-out loss where the stages end or are left; a stage may have measured its parent's weights at its start."""
    rows: list[list[markup.Cell]] = []
    for name, stage in data.stages.items():
        after = [s for s in data.stages.values() if s.compiled.parent is not None and s.compiled.parent.name == name]
        starts = [("start of", stage.start)] if stage.compiled.parent is None else []
        stop = "end of" if stage.stop == stage.compiled.plan.end else "leaves"
        for edge, position in (*starts, (stop, stage.stop)):
            measured = [s.held_out[position] for s in (stage, *after) if position in s.held_out]
            rows += [[f"{edge} {name}", *_losses(position, losses, sources, 3)] for losses in measured[:1]]
    columns = ("", "#tokens", *(f"#{source}" for source in sources))
    caption = "Held-out loss (nats a token) at the edges of the stages"
    return markup.table(caption, columns, rows) if rows else ""


def _quarters(data: ReportData, sources: list[str]) -> list[str]:
    """Held-out loss in the first and last quarter of the windows, at each stage's last evaluation, and what it gains.

    A model that uses its context knows more of a text in the last quarter than in the first.
    """
    rows: list[list[markup.Cell]] = []
    for name, stage in data.stages.items():
        position = max((at for at, measured in stage.quarters.items() if measured), default=None)
        if position is None:
            continue
        length = stage.compiled.plan.sequence_length
        measured = stage.quarters[position]
        cells = [
            f"{measured[s][0]:.3f} → {measured[s][-1]:.3f} ({measured[s][-1] - measured[s][0]:+.3f})"
            if s in measured
            else ""
            for s in sources
        ]
        rows.append([name, show_exact(position), show_exact(length), *cells])
    if not rows:
        return []
    columns = ("stage", "#tokens", "#window", *(f"#{source}" for source in sources))
    caption = "Held-out loss (nats a token) in the first and the last quarter of the window"
    return [markup.details("Loss by position in the window", markup.table(caption, columns, rows))]


def _differences(data: ReportData, sources: Sequence[str]) -> list[str]:
    """Held-out losses of several lineages at equal positions, with the differences and errors of `compare`."""
    if data.not_compared is not None:
        return [markup.paragraph(f"The variants are not compared: {data.not_compared}.", "note")]
    if (comparison := data.comparison) is None:
        return []
    others = [number for number in range(len(comparison.names)) if number != comparison.against]
    rows: list[list[markup.Cell]] = []
    for source in sources:
        of_source: list[list[markup.Cell]] = []
        for row in comparison.shown_rows(source):
            losses = (comparison.loss(point, source) for point in row.points)
            of_source.append(
                [
                    source,
                    row.label,
                    show_exact(row.position),
                    *("" if loss is None else f"{loss:.4f}" for loss in losses),
                    *(comparison.shown_difference(row, number, source) for number in others),
                ]
            )
        rows += markup.thinned(of_source, data.rows_of_a_stage(20))
    if not rows:
        return []
    columns = ("source", "end of", "#tokens", *(f"#{name}" for name in comparison.names))
    columns += tuple(f"#{comparison.names[n]} less {comparison.names[comparison.against]}" for n in others)
    measured_on = ((source, comparison.measured_on(source)) for source in sources)
    held_out = ", ".join(f"{source} {windows}" for source, windows in measured_on if windows)
    return [
        markup.table("Held-out loss of the variants and their differences, ± one standard error", columns, rows),
        markup.paragraph(f"{LEGEND} Measured on {held_out}.", "lead"),
        *(markup.paragraph(f"{note}.", "note") for note in comparison.few_documents(sources)),
    ]


def _evaluations(data: ReportData, sources: list[str]) -> str:
    rows: list[list[markup.Cell]] = []
    for stage in data.stages.values():
        every: list[list[markup.Cell]] = [
            [stage.name, *_losses(position, losses, sources, 4)] for position, losses in stage.held_out.items()
        ]
        rows += markup.thinned(every, data.rows_of_a_stage(40))
    columns = ("stage", "#tokens", *(f"#{source}" for source in sources))
    return markup.table("Held-out loss in nats a token", columns, rows)


def _losses(position: int, losses: Mapping[str, float], sources: list[str], digits: int) -> list[str]:
    """The cells of an evaluation: its position, and the loss on each source."""
    return [show_exact(position), *(f"{losses[s]:.{digits}f}" if s in losses else "" for s in sources)]

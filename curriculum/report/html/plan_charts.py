"""Charts of the plan: shares, learning rate and batch on one token axis, and the lineage as a tree."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby, pairwise

from curriculum.compiler.compile import Compiled, CompiledStage
from curriculum.report.html import gather
from curriculum.report.html.gather import ReportStage
from curriculum.report.svg import shapes
from curriculum.report.svg.scale import Scale, apart, text_width, ticks
from curriculum.units import show_count, show_exact

WIDE, NARROW = 880, 400
MOST_SOURCES = 6
"""Sources named where a picture is put into text."""
Knot = tuple[int, dict[str, float]]
Edge = tuple[int, float, float]


def styles(sources: Sequence[str]) -> dict[str, int]:
    """The style of each source; those without a colour of their own share the last."""
    return {source: min(at, shapes.SOURCE_STYLES - 1) for at, source in enumerate(sources)}


def share_layers(knots: Sequence[Knot], style: dict[str, int]) -> dict[int, list[Edge]]:
    """Stacked shares: style -> (position, lower, upper edge) along the knots, lower styles at the bottom."""
    layers: dict[int, list[Edge]] = {}
    used = sorted({style[source] for _, shares in knots for source, share in shares.items() if share})
    for position, shares in knots:
        below = 0.0
        for number in used:
            above = below + sum(share for source, share in shares.items() if style[source] == number)
            layers.setdefault(number, []).append((position, below, above))
            below = above
    return layers


def _knots(lineage: Compiled) -> list[Knot]:
    return [knot for stage in lineage.stages for knot in gather.share_knots(stage.plan, stage.stop)]


def _areas(knots: Sequence[Knot], style: dict[str, int], x: Scale, y: Scale) -> list[str]:
    parts = []
    for number, edges in share_layers(knots, style).items():
        for run in _runs(edges):
            upper = [(x(position), y(above)) for position, _, above in run]
            lower = [(x(position), y(below)) for position, below, _ in reversed(run)]
            parts.append(shapes.polygon([*upper, *lower], f"area s{number}"))
            if 0 < number < shapes.SOURCE_STYLES - 1:
                parts.append(shapes.polygon([*upper, *lower], "texture", f' fill="url(#texture{number})"'))
            parts.append(shapes.polyline(upper, f"rim s{number}"))
    return parts


def _runs(edges: Sequence[Edge]) -> list[list[Edge]]:
    """The ranges of a layer in which it has any height."""
    runs: list[list[Edge]] = []
    for has_height, pairs in groupby(pairwise(edges), lambda pair: any(above > below for _, below, above in pair)):
        before, after = zip(*pairs, strict=True)
        runs += [[before[0], *after]] if has_height else []
    return runs


def _end_shares(knots: Sequence[Knot], style: dict[str, int], x: Scale, y: Scale) -> list[str]:
    """The last shares as numbers at the right edge."""
    ends = [(n, edges[-1]) for n, edges in share_layers(knots, style).items() if edges[-1][2] > edges[-1][1]]
    middles = [y((below + above) / 2) for _, (_, below, above) in ends]
    places = apart(middles, 13, y(1) + 5, y(0) - 5)
    return [
        shapes.label(x.end + 8, place + 4, f"{(above - below) * 100:.3g} %", f"value s{number}")
        for place, (number, (_, below, above)) in zip(places, ends, strict=True)
    ]


def curriculum(lineage: Compiled, sources: Sequence[str], width: int, key: str, strips: int = 64) -> str:
    """One lineage on its token axis: stages as bands, shares as areas, the learning rate, the batch as steps.

    A wide one has tooltips in `strips` columns.
    """
    style = styles(sources)
    narrow = width < 600
    left, right = 46 if narrow else 64, 60
    x = Scale(0, lineage.stop, left, width - right)
    bands = gather.bands([lineage])
    top = shapes.band_height(bands, x) + 4
    share_bottom = top + (140 if narrow else 168)
    rate_top, rate_bottom = share_bottom + 34, share_bottom + 34 + (72 if narrow else 84)
    batch_top, batch_bottom = rate_bottom + 34, rate_bottom + 34 + 54
    parts = [*shapes.band_layer(bands, x, top, batch_bottom), *shapes.band_names(bands, x, top)]

    share = Scale(0, 1, share_bottom, top)
    knots = _knots(lineage)
    parts += _areas(knots, style, x, share)
    parts += [shapes.rule(x(start), top - 3, x(start), share_bottom, "edge") for _, start, _ in bands if start]
    for mark in (0, 0.5, 1):
        parts.append(shapes.label(left - 8, share(mark) + 4, f"{mark * 100:g} %", "tick", "end"))
    parts += _end_shares(knots, style, x, share)

    rates = [
        point
        for stage in lineage.stages
        for point in gather.rate_points(
            stage.plan, stage.stop, max(8, 200 * (stage.stop - stage.plan.start) // lineage.stop)
        )
    ]
    highest = max((value for _, value in rates), default=1.0) or 1.0
    rate = Scale(0, highest * 1.06, rate_bottom, rate_top)
    parts.append(shapes.label(left, rate_top - 8, "learning rate at the end of each step", "row"))
    parts += shapes.value_axis(rate, left, x.end, ticks(0, highest, 3))
    parts.append(shapes.polyline([(x(position), rate(value)) for position, value in rates], "line ink"))
    if rates:
        parts.append(shapes.label(x.end + 8, rate(rates[-1][1]) + 4, f"{rates[-1][1]:.3g}", "value"))

    parts += _batch(lineage, x, batch_top, batch_bottom, narrow)
    parts += shapes.token_axis(x, batch_bottom, 4 if narrow else 8)
    if not narrow:
        parts += _strips(lineage, knots, x, top, batch_bottom, strips)
    about = "; ".join(_sentence(stage) for stage in lineage.stages)
    title = f"{lineage.curriculum}: shares of the sources, learning rate and batch along the tokens"
    return shapes.drawing(key, title, about, width, batch_bottom + 26, parts, "narrow" if narrow else "wide")


def _sentence(stage: CompiledStage) -> str:
    plan = stage.plan
    largest = sorted(stage.shares.items(), key=lambda entry: (-entry[1], entry[0]))
    shares = ", ".join(f"{name} {float(part) * 100:.3g} %" for name, part in largest[:MOST_SOURCES])
    if len(largest) > MOST_SOURCES:
        shares += f" and {len(largest) - MOST_SOURCES} sources more"
    ramp = (
        f", reached over {show_count(stage.ramp_sequences * plan.sequence_length)} tokens"
        if stage.ramp_sequences
        else ""
    )
    return (
        f"{stage.setting.stage} from {show_count(plan.start)} to {show_count(stage.stop)} tokens: {shares}{ramp}, "
        f"{' to '.join(show_exact(n) for _, n in (stage.batches[:1] + stage.batches[1:][-1:]))} sequences a step"
    )


def _batch(lineage: Compiled, x: Scale, top: float, bottom: float, narrow: bool) -> list[str]:
    levels = [
        (stage, begin, stop, sequences)
        for stage in lineage.stages
        for (begin, sequences), stop in zip(
            stage.batches, [*(begin for begin, _ in stage.batches[1:]), stage.stop], strict=True
        )
    ]
    tokens = [sequences * stage.plan.sequence_length for stage, _, _, sequences in levels]
    y = Scale(0, max(tokens) * 1.12, bottom, top)
    title = "batch: tokens of each step"
    parts = [shapes.label(x.start, top - 8, title, "row")]
    parts.append(shapes.label(x.start - 8, y(0) + 4, "0", "tick", "end"))
    path: list[tuple[float, float]] = []
    for (_, begin, stop, _), size in zip(levels, tokens, strict=True):
        path += [(x(begin), y(size)), (x(stop), y(size))]
    parts.append(shapes.polygon([(x.start, y(0)), *path, (x(lineage.stop), y(0))], "batch"))
    parts.append(shapes.polyline(path, "line ink"))
    space = shapes.LabelSpace(x.start, x.end + 40)
    space.take(x.start, top - 19, x.start + text_width(title, 11), top - 5)
    for (left, one), (right, other) in pairwise(path):
        space.take(left - 1, min(one, other) - 1, right + 1, max(one, other) + 1)
    before: int | None = None
    for (stage, begin, _, sequences), size in zip(levels, tokens, strict=True):
        if size == before:
            continue
        before = size
        text = f"{show_count(size)} tokens"
        if not narrow:
            text += f" = {show_exact(sequences)} × {show_exact(stage.plan.sequence_length)}"
        at = x(begin)
        first = [(at - 7, y(size) + 5, "end")] if begin else []
        places = [*first, (at + 6, y(size) - 6, "start"), (at + 6, y(size) + 15, "start")]
        parts += space.put(places, text, "value")
    return parts


def _strips(lineage: Compiled, knots: Sequence[Knot], x: Scale, top: float, bottom: float, count: int) -> list[str]:
    """Invisible columns whose tooltips are shares, rate and batch of the step that ends in their middle."""
    parts = []
    for n in range(count):
        left, right = lineage.stop * n // count, lineage.stop * (n + 1) // count
        middle = (left + right) // 2
        stage = next(s for s in lineage.stages if middle < s.stop or s is lineage.stages[-1])
        plan = stage.plan
        step = min(plan.first_step + stage.steps_run - 1, max(plan.first_step, plan.step_of(middle)))
        shares = share_at(knots, plan.position_after(step))
        share = "\n".join(
            f"{name} {part * 100:.3g} %"
            for name, part in sorted(shares.items(), key=lambda e: (-e[1], e[0]))[:MOST_SOURCES]
            if part
        )
        title = (
            f"{stage.setting.stage}, step {show_exact(step)}, {show_exact(plan.position_after(step))} tokens\n{share}\n"
            f"learning rate {plan.lr(step):.4g}\nbatch {show_exact(plan.batch_of(step))} sequences"
        )
        parts.append(shapes.rect(x(left), top, x(right) - x(left), bottom - top, "hit", title))
    return parts


def share_at(knots: Sequence[Knot], position: int) -> dict[str, float]:
    """The shares in force for what ends at `position`, on the straight lines between knots."""
    for (start, before), (end, after) in pairwise(knots):
        if start < position <= end:
            part = (position - start) / (end - start)
            return {
                name: before.get(name, 0.0) * (1 - part) + after.get(name, 0.0) * part for name in {*before, *after}
            }
    return dict(knots[0][1]) if knots else {}


SMALLEST_RAMP = 0.05
"""A ramp shorter than this part of the picture is drawn once more, enlarged."""


def ramps(lineage: Compiled, sources: Sequence[str], key: str) -> list[tuple[str, str]]:
    """(caption, picture) of each ramp that is too short to be seen well on the whole axis."""
    style = styles(sources)
    pictures = []
    for at, stage in enumerate(lineage.stages):
        plan = stage.plan
        length = stage.ramp_sequences * plan.sequence_length
        if not length or length > SMALLEST_RAMP * lineage.stop:
            continue
        low, high = max(0, plan.start - length // 3), min(lineage.stop, plan.start + length * 4 // 3)
        x, y = Scale(low, high, 46, NARROW - 50), Scale(0, 1, 116, 8)
        knots = _knots(lineage)
        inside = [
            (low, share_at(knots, low + 1)),
            *(knot for knot in knots if low < knot[0] < high),
            (high, share_at(knots, high)),
        ]
        parts = _areas(inside, style, x, y)
        parts += [shapes.label(38, y(mark) + 4, f"{mark * 100:g} %", "tick", "end") for mark in (0, 0.5, 1)]
        parts += _end_shares(inside, style, x, y)
        for edge in (plan.start, plan.start + length):
            if low <= edge <= high:
                parts.append(shapes.rule(x(edge), 8, x(edge), 120, "edge"))
                parts.append(shapes.label(x(edge), 133, f"{show_exact(edge)} tokens", "tick", "middle"))
        parts.append(shapes.rule(x.start, 116, x.end, 116, "axis"))
        steps = plan.clock.step_of_sequence(stage.ramp_sequences - 1) + 1
        caption = (
            f"The ramp at the start of {stage.name}, enlarged: {show_count(length)} tokens, "
            f"{show_exact(steps)} steps, {length / lineage.stop * 100:.2g} % of the axis above."
        )
        drawn = shapes.drawing(f"{key}-{at}", caption, _sentence(stage), NARROW, 140, parts, "lens")
        pictures.append((caption, drawn))
    return pictures


def tree(
    lineages: Sequence[Compiled], stages: dict[str, ReportStage], line_style: dict[str, int], width: int, key: str
) -> str:
    """The lineages on the token axis, every stage once: what is trained, what is planned, what was kept."""
    narrow = width < 600
    x = Scale(0, max(lineage.stop for lineage in lineages), *((14, width - 14) if narrow else (64, width - 60)))
    lane: dict[str, int] = {}
    for at, lineage in enumerate(lineages):
        for stage in lineage.stages:
            lane.setdefault(stage.name, at)
    tall = 58
    bottom = 22 + tall * len(lineages)
    y = {name: 30 + tall * at for name, at in lane.items()}
    parts: list[str] = []
    dots: list[str] = []
    space = shapes.LabelSpace(x.start, x.end)
    branched = {}
    for name, record in stages.items():
        parent = record.compiled.parent
        if parent is not None and y[parent.name] != y[name]:
            branched[name] = y[parent.name]
            space.take(x(record.start) - 3, y[parent.name], x(record.start) + 3, y[name])
    for name, record in stages.items():
        kind = f"v{line_style[name]}"
        if name in branched:
            parts.append(shapes.bend(x(record.start), branched[name], y[name], f"branch {kind}"))
        begin = x(record.start) + (10 if name in branched else 0)
        reached = x(max(record.start, min(record.position, record.stop)))
        parts.append(shapes.rule(begin, y[name], x(record.stop), y[name], f"planned {kind}"))
        if reached > begin:
            parts.append(shapes.rule(begin, y[name], reached, y[name], f"trained {kind}"))
        text = record.compiled.setting.stage
        if text_width(text, 11) < x(record.stop) - begin - 4:
            parts += space.put([((begin + x(record.stop)) / 2, y[name] - 9, "middle")], text, "tick")
        for checkpoint in record.checkpoints:
            by = ", ".join(record.pinned.get(checkpoint.position, ()))
            tooltip = f"{name}: checkpoint at {show_exact(checkpoint.position)} tokens" + (
                f", kept for {by}" if by else ""
            )
            dots.append(shapes.marker(x(checkpoint.position), y[name], line_style[name], 4.2, tooltip))
    bends = sorted({stages[name].start for name in branched}, reverse=True)
    for lineage in lineages:
        last = stages[lineage.stages[-1].name]
        here = y[last.name]
        begins = min(x(stage.plan.start) for stage in lineage.stages if y[stage.name] == here)
        places = [
            (begins - 8, here + 4, "end"),
            (x(lineage.stop), here + 20, "end"),
            (begins, here + 20, "start"),
            *((x(at) - 8, here + 4, "end") for at in bends if x(at) < begins),  # beyond what passes by
        ]
        text = f"{lineage.curriculum}: {last.state}"
        parts += space.put(places, text, f"value ink v{line_style[last.name]}", 12)
    about = "; ".join(f"{line.curriculum}: {' → '.join(stage.name for stage in line.stages)}" for line in lineages)
    parts += dots
    parts += shapes.token_axis(x, bottom, 4 if narrow else 8)
    return shapes.drawing(key, "Lineage", about, width, bottom + 26, parts, "narrow" if narrow else "wide")

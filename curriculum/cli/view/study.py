"""`curriculum plan STUDY`: what all arms are, what they share, and what they cost together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from curriculum.cli.view.tables import notes, share, table
from curriculum.studies.mixture_evidence import PASSES_DIFFER
from curriculum.studies.status import changed_line
from curriculum.units import counted, show_bytes, show_count, show_exact, show_seconds


def study_view(summary: Mapping[str, Any], options: str = "") -> RenderableType:
    """The plan of a study; fits 100 columns with up to five sources. `options` follow its name in a command."""
    lines = [note for row in summary["arms"] for note in row["notes"] if row["replicate"] == 1]
    lines = [
        f"{line} (in {lines.count(line)} arms)" if lines.count(line) > 1 else line for line in dict.fromkeys(lines)
    ]
    lines += [f"`{entry['name']}` is no control here: {entry['reason']}" for entry in summary["left_out"]]
    lines += [f"`{row['point']}` is also {', '.join(row['same_as'])}" for row in _points(summary) if row["same_as"]]
    if changed := summary["changed"]:
        lines.insert(0, changed_line(summary["study"], changed, len(summary["arms"]), options))
    return Group(_headline(summary), Text(), _arms(summary), Text(), *_facts(summary), *notes(lines))


def _headline(summary: Mapping[str, Any]) -> Text:
    text = Text()
    text.append(summary["study"], style="bold")
    if summary["about"]:
        text.append(f"  {summary['about']}")
    trunk = summary["trunk"]
    if summary["asks"]:
        text.append(f"\nasks     about {summary['asks']}")
    if trunk is not None:
        state = "trained already" if trunk["trained"] else "not trained yet"
        text.append(
            f"\nleaves   {summary['branch_point']} at {show_exact(trunk['position'])} tokens, "
            f"shared by all arms, {state}"
        )
        if summary["trunks"] > 1:
            text.append(f"\ntrunks   {summary['trunks']}, under seeds {_seeds(summary)}")
    if summary["scale"] != 1:
        text.append(f"\nsize `{summary['size']}`: every length is scaled by {summary['scale']:g}")
    return text


def _seeds(summary: Mapping[str, Any]) -> str:
    return " and ".join(str(summary["seed"] + number) for number in range(summary["trunks"]))


def _points(summary: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The first replicate of every point."""
    return [row for row in summary["arms"] if row["replicate"] == 1]


def _arms(summary: Mapping[str, Any]) -> RenderableType:
    sources = sorted({source for row in summary["arms"] for source in row["shares"]})
    grid = list(dict.fromkeys(key for row in summary["arms"] for key in row["settings"]))
    drawn = table("arms", "#runs", "#tokens each", *(f"#{key}" for key in grid), *(f"#{name}" for name in sources))
    rows = summary["arms"]
    swarm = [row for row in rows if row["role"] == "swarm" and not row["settings"]]
    if swarm:
        spans = (_span([row["shares"].get(source, 0.0) for row in swarm]) for source in sources)
        drawn.add_row("swarm", str(len(swarm)), show_count(swarm[0]["tokens"]), *("" for _ in grid), *spans)
    others = [row for row in rows if row["role"] != "swarm" or row["settings"]]
    for name, group in groupby(others, key=lambda row: row["point"]):
        runs = list(group)
        first = runs[0]
        settings = (_setting(key, first["settings"].get(key)) for key in grid)
        shares = (share(first["shares"][source]) if source in first["shares"] else "-" for source in sources)
        drawn.add_row(name, str(len(runs)), show_count(first["tokens"]), *settings, *shares)
    if summary["proposal"]:
        text = f"decided by the first {summary['proposal']['after']}"
        longest = max(row["tokens"] for row in rows)
        drawn.add_row("proposal", str(summary["proposal"]["runs"]), show_count(longest), text)
    return drawn


def _setting(key: str, value: Any) -> str:
    if value is None:
        return ""
    if key == "learning_rate":
        return "kept" if value == 1 else f"x{value:g}"
    if isinstance(value, bool):
        return str(value).lower()
    return share(value) if key == "share" else str(value)


def _span(values: Sequence[float]) -> str:
    least, most = min(values), max(values)
    return share(least) if least == most else f"{least * 100:.3g}..{most * 100:.3g}%"


def _facts(summary: Mapping[str, Any]) -> list[RenderableType]:
    """Passes, noise, cost, what is saved by sharing, and what stays on disk."""
    lines = [("passes", _passes(summary)), ("detectable", _noise(summary))]
    lines += [("drop", _drop(summary["drop"]))] if summary["drop"] is not None else []
    lines += _costs(summary["cost"])
    width = max(len(name) for name, _ in lines) + 2
    return [Text(f"{name:<{width}}", style="bold").append(text, style="not bold") for name, text in lines]


def _passes(summary: Mapping[str, Any]) -> str:
    rows = summary["arms"]
    values = [passes for row in rows for passes in row["passes"].values()]
    if not values:
        return "the size of the text is not known yet"
    text = f"in an arm {min(values):.2f}..{max(values):.2f} over the lineage"
    apart = [
        (abs(passes / there - 1), source)
        for row in rows
        for source, passes in row["passes"].items()
        if (there := row["passes_stood_for"].get(source))
    ]
    worst, where = max(apart, default=(0.0, ""))
    if summary["asks"]:
        same = "as in the stage it stands for"
        text += f", {same}" if worst < PASSES_DIFFER else f"; `{where}` differs by {share(worst)} from its stage's"
    if any(row["take"] for row in rows):
        text += "; shorter arms read a part of the text that was not read whole"
    if not summary["caps"]:
        return text + "; no cap binds"
    caps = ", ".join(
        f"{source} at {share(cap['share'])} ({cap['passes']:g} passes)" for source, cap in summary["caps"].items()
    )
    return f"{text}; caps: {caps}"


def _noise(summary: Mapping[str, Any]) -> str:
    if summary["noise"]:
        apart = ", ".join(f"{one['tells']:.3f} of {one['source']}" for one in summary["noise"])
        runs = min(one["runs_each"] for one in summary["noise"])
        return f"differences from {apart} up, by {counted(runs, 'run')} of each arm (nats a token, half a 95% interval)"
    controls = sum(row["role"] == "control" for row in summary["arms"])
    if summary["replicates"] == 1:
        return "one run of each control: no noise is measured, and every verdict is `suggested`"
    return f"nothing is known of the noise yet; it is measured by the {controls} control runs"


def _drop(drop: Mapping[str, Any]) -> str:
    text = f"at {share(drop['at'])} by {drop['forks']} forks, annealed over {show_count(drop['tokens'])} tokens each"
    if drop["dropped"] is None:
        return f"{text}; arms worse than the best by more than the noise end there, but two that are drawn by name"
    return (
        f"{text}; dropped: {', '.join(drop['dropped']) or 'none'}; as an audit: {', '.join(drop['audited']) or 'none'}"
    )


def _costs(cost: Mapping[str, Any]) -> list[tuple[str, str]]:
    trunks = "" if not cost["trunks"] else f" and {counted(cost['trunks'], 'more trunk')}"
    text = (
        f"{counted(cost['runs'], 'run')}{trunks}, {show_count(cost['updates'])} updates, "
        f"{show_count(cost['tokens'])} tokens, {show_count(cost['tokens_evaluated'])} evaluated"
    )
    if cost["gpu_hours"] is not None:
        text += f", {cost['gpu_hours']:,.1f} GPU-hours"
    elif cost["seconds"] is not None:
        text += f", about {show_seconds(cost['seconds'])}"
    if cost["usd"] is not None:
        text += f", {cost['usd']:,.0f} USD"
    return [
        ("cost", text),
        ("", cost["assumptions"][0]),
        ("saved", f"{show_count(cost['saved_tokens'])} tokens by sharing trunks"),
        (
            "keeps",
            "plans, ledgers and losses of all arms; weights of trunks, controls and proposals "
            f"({show_bytes(cost['kept_bytes'])}); {show_bytes(cost['storage_bytes'])} until `curriculum prune`",
        ),
    ]

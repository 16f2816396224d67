"""Answers about steps and differences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from curriculum.diff import Parting
from curriculum.units import show_exact
from curriculum.view.tables import table


def batch_view(listing: Mapping[str, Any]) -> RenderableType:
    """The slots of one step."""
    head = Text(
        f"step {show_exact(listing['step'])} of {listing['curriculum']}/{listing['stage']}: "
        f"{len(listing['slots'])} sequences of {listing['sequence_length']} tokens "
        f"from {show_exact(listing['position'])} on, LR {listing['lr']:.4g}"
    )
    parts: list[RenderableType] = [head]
    if any("text" in slot for slot in listing["slots"]):
        for slot in listing["slots"]:
            documents = ", ".join(document["id"] for document in slot["documents"])
            parts.append(
                Text(
                    f"{slot['slot']:>4}  {slot['source']} pass {slot['pass']}, window {slot['window']}: {documents}"
                )
            )
            parts.append(
                Text(f"      {repr(slot['text'])[1:-1]}", style="dim", no_wrap=True, overflow="ellipsis")
            )
    else:
        drawn = table(
            ("slot", "right"),
            ("source", "left"),
            ("pass", "right"),
            ("window", "right"),
            ("documents", "left"),
        )
        for slot in listing["slots"]:
            documents = ", ".join(document["id"] for document in slot.get("documents", []))
            drawn.add_row(
                str(slot["slot"]), slot["source"], str(slot["pass"]), show_exact(slot["window"]), documents
            )
        parts.append(drawn)
    if not listing["prepared"]:
        parts.append(
            Text("documents are shown once the text is prepared (`curriculum prepare`)", style="dim")
        )
    return Group(*parts)


def parting_view(parting: Parting, old: str, new: str) -> RenderableType:
    """Where two curricula part."""
    shared = ", ".join(parting.shared) or "nothing"
    if parting.difference is None:
        return Text(f"`{old}` and `{new}` are the same: {shared}")
    difference = parting.difference
    return Text(
        f"the same in both: {shared}, and all before step {show_exact(difference.step)}\n"
        f"they part at step {show_exact(difference.step)} ({show_exact(difference.position)} tokens): "
        f"{', '.join(difference.what)}"
    )

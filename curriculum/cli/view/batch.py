"""The listing of one step, for `curriculum batch`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from curriculum.cli.view.tables import aligned
from curriculum.units import show_exact

TEXT_WIDTH = 160


def batch_lines(listing: Mapping[str, Any], width: int | None = TEXT_WIDTH) -> Iterator[str]:
    """The slots of one step as plain lines: rich takes seconds to lay out a table of thousands.

    Only sample text is cut, to `width` columns if given.
    """
    yield (
        f"step {show_exact(listing['step'])} of {listing['curriculum']}/{listing['stage']}: "
        f"{len(listing['slots'])} sequences of {listing['sequence_length']} tokens "
        f"from {show_exact(listing['position'])} on, LR {listing['lr']:.4g}"
    )
    slots = listing["slots"]
    documents = [", ".join(document["id"] for document in slot.get("documents", [])) for slot in slots]
    if any("text" in slot for slot in slots):
        for slot, names in zip(slots, documents, strict=True):
            yield f"{slot['slot']:>4}  {slot['source']} pass {slot['pass']}, window {slot['window']}: {names}"
            text = f"      {repr(slot['text'])[1:-1]}"
            yield text if width is None or len(text) <= width else f"{text[: width - 1]}…"
    else:
        yield from aligned(
            ("#slot", "source", "#pass", "#window", "documents"),
            [
                (str(slot["slot"]), slot["source"], str(slot["pass"]), show_exact(slot["window"]), names)
                for slot, names in zip(slots, documents, strict=True)
            ],
        )
    if not listing["prepared"]:
        yield "documents are shown once the text is prepared (`curriculum prepare`)"

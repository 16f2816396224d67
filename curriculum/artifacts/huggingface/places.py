"""Where a key of a JSON file stands, for the place of a refusal."""

from __future__ import annotations

import json
import re
from pathlib import Path

from curriculum.errors import Place

_BLANKS = re.compile(r"[ \t\n\r]*")


def key_place(path: Path, keys: tuple[str, ...] = ()) -> Place | None:
    """The value under `keys`, one inside another, or under as many of them as the file has; None when it is no JSON.

    A key that is written twice stands where it was written last, as JSON is read.
    """
    try:
        text = path.read_text(errors="replace")
        at = _after_blanks(text, 0)
        for key in keys:
            value = _value(text, at, key)
            if value is None:
                break
            at = value
        return offset_place(path, text, at)
    except (OSError, ValueError, IndexError, RecursionError):
        return None


def offset_place(path: Path, text: str, offset: int) -> Place:
    """The place of the character at `offset` of the file's text; of its end where nothing but blanks follows."""
    offset = min(offset, len(text.rstrip()))
    start = text.rfind("\n", 0, offset) + 1
    line = text[start:].split("\n", 1)[0].rstrip("\r")
    return Place(str(path), text.count("\n", 0, offset) + 1, offset - start + 1, line)


def _value(text: str, start: int, key: str) -> int | None:
    """Where the value of `key` begins in the object at `start`; None where there is no object or no such key."""
    if text[start] != "{":
        return None
    value_at, decoder = None, json.JSONDecoder()
    at = _after_blanks(text, start + 1)
    while text[at] == '"':
        name, at = decoder.raw_decode(text, at)
        at = _after_blanks(text, _after_blanks(text, at) + 1)  # the colon
        value_at = at if name == key else value_at
        _, at = decoder.raw_decode(text, at)
        at = _after_blanks(text, at)
        at = _after_blanks(text, at + 1) if text[at] == "," else at
    return value_at


def _after_blanks(text: str, at: int) -> int:
    blanks = _BLANKS.match(text, at)
    return blanks.end() if blanks else at

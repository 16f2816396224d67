"""Filters and cleaners of datatrove's, by the names that sources.yaml gives them; what they leave out is counted."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.filters.base_filter import BaseFilter, get_filter_result
from datatrove.pipeline.formatters.base import BaseFormatter

from curriculum.data.manifest import TRAIN
from curriculum.errors import DataError, did_you_mean
from runner.prepare.readers import Tally

_MODULES = ("datatrove.pipeline.filters", "datatrove.pipeline.formatters")
_NOT_DATA = {"LambdaFilter"}  # takes code, which a file of data cannot give


class Counted(BaseFilter):  # type: ignore[misc]
    """Another filter whose reasons are counted as the split's."""

    name = "🔢 Counted"

    def __init__(self, inner: Any, tally: Tally) -> None:
        super().__init__()
        self.inner = inner
        self.tally = tally

    def filter(self, document: Document) -> bool | tuple[bool, str]:
        kept, reason = get_filter_result(self.inner.filter(document))
        if kept:
            return True
        word = type(self.inner).__name__ + (f": {reason}" if reason else "")
        self.tally.dropped[document.metadata.get("split", TRAIN), word] += 1
        return False, word


def built(blocks: Sequence[Mapping[str, Mapping[str, Any]]], tally: Tally) -> list[Any]:
    """The blocks in order, ready for a pipeline; DataError for an unknown one, or one that cannot be made."""
    made = []
    for block in blocks:
        for name, options in block.items():
            one = _made(name, options)
            made.append(Counted(one, tally) if isinstance(one, BaseFilter) else one)
    return made


def _made(name: str, options: Mapping[str, Any]) -> Any:
    known = _known()
    if name not in known:
        raise DataError(f"datatrove has no filter or formatter `{name}`", hint=did_you_mean(name, known))
    try:
        return known[name](**options)
    except TypeError as reason:
        takes = [key for key in inspect.signature(known[name]).parameters if key != "exclusion_writer"]
        raise DataError(
            f"`{name}` cannot be made of {dict(options)}: {reason}", hint=f"it takes: {', '.join(takes)}"
        ) from None
    except (ImportError, RuntimeError) as reason:
        raise DataError(
            f"`{name}` needs what is not installed: {reason}",
            hint='python -m pip install "datatrove[processing]"',
        ) from None


def _known() -> dict[str, type[Any]]:
    return {
        name: value
        for room in _MODULES
        for name, value in vars(importlib.import_module(room)).items()
        if inspect.isclass(value) and issubclass(value, BaseFilter | BaseFormatter) and name not in _NOT_DATA
    }

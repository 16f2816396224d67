"""datatrove's filters and formatters by their names in sources.yaml; the documents that they drop are counted."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.filters.base_filter import BaseFilter, get_filter_result
from datatrove.pipeline.formatters.base import BaseFormatter

from curriculum.errors import DataError, did_you_mean
from runner.prepare.readers import Tally

MODULES = ("datatrove.pipeline.filters", "datatrove.pipeline.formatters")
EXCLUDED = {"LambdaFilter"}  # takes code, which a file of data cannot give


class CountingFilter(BaseFilter):  # type: ignore[misc]
    """Another filter, whose reasons are counted by split."""

    name = "🔢 Counting"

    def __init__(self, inner: Any, tally: Tally) -> None:
        super().__init__()
        self.inner = inner
        self.tally = tally

    def filter(self, document: Document) -> bool | tuple[bool, str]:
        passes, reason = get_filter_result(self.inner.filter(document))
        if passes:
            return True
        return self.tally.filter_out(document, type(self.inner).__name__ + (f": {reason}" if reason else ""))


def build_blocks(blocks: Sequence[Mapping[str, Mapping[str, Any]]], tally: Tally) -> list[Any]:
    """The steps of a pipeline, in order; DataError for an unknown block, or options it does not accept."""
    steps = [_build(name, options) for block in blocks for name, options in block.items()]
    return [CountingFilter(step, tally) if isinstance(step, BaseFilter) else step for step in steps]


def _build(name: str, options: Mapping[str, Any]) -> Any:
    classes = _classes()
    if name not in classes:
        raise DataError(f"datatrove has no filter or formatter `{name}`", hint=did_you_mean(name, classes))
    try:
        return classes[name](**options)
    except TypeError as reason:
        takes = [key for key in inspect.signature(classes[name]).parameters if key != "exclusion_writer"]
        raise DataError(
            f"`{name}` cannot be made of {dict(options)}: {reason}", hint=f"it takes: {', '.join(takes)}"
        ) from None
    except (ImportError, RuntimeError) as reason:
        raise DataError(
            f"`{name}` needs a package that is not installed: {reason}",
            hint='python -m pip install "datatrove[processing]"',
        ) from None


def _classes() -> dict[str, type[Any]]:
    return {
        name: value
        for module in MODULES
        for name, value in vars(importlib.import_module(module)).items()
        if inspect.isclass(value) and issubclass(value, BaseFilter | BaseFormatter) and name not in EXCLUDED
    }

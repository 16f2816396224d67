"""datatrove's filters and formatters by their names in sources.yaml; the documents that they drop are counted."""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.filters.base_filter import BaseFilter, get_filter_result
from datatrove.pipeline.formatters.base import BaseFormatter

from curriculum.data.manifest import TRAIN
from curriculum.data.shard import id_line
from curriculum.errors import DataError, did_you_mean
from runner.prepare.corpus import BATCH_BYTES
from runner.prepare.tally import Tally
from runner.prepare.texts import Documents, Texts

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
        name = type(self.inner).__name__ + (f": {reason}" if reason else "")
        self.tally.filter_out(name, document.metadata.get("split", TRAIN))
        return False, name


def build_blocks(blocks: Sequence[Mapping[str, Mapping[str, Any]]], tally: Tally) -> list[Any]:
    """The steps of a pipeline, in order; DataError for an unknown block, or options it does not accept."""
    steps = [_build(name, options) for block in blocks for name, options in block.items()]
    return [CountingFilter(step, tally) if isinstance(step, BaseFilter) else step for step in steps]


def through_blocks(
    blocks: Sequence[Mapping[str, Mapping[str, Any]]], batches: Iterable[Documents], rank: int, tasks: int, tally: Tally
) -> Iterator[Documents]:
    """The documents that datatrove's filters leave, as its formatters write them."""
    documents: Iterable[Document] = _documents(batches)
    for step in build_blocks(blocks, tally):
        documents = step(documents, rank, tasks)
    texts: list[bytes] = []
    lines: list[bytes] = []
    size, split = 0, TRAIN
    for document in documents:
        own = document.metadata["split"]
        if texts and (own != split or size >= BATCH_BYTES):
            yield Documents(Texts.join(texts), lines, split)
            texts, lines, size = [], [], 0
        split = own
        texts.append(document.text.encode())
        lines.append(id_line(document.id))
        size += len(texts[-1])
    if texts:
        yield Documents(Texts.join(texts), lines, split)


def _documents(batches: Iterable[Documents]) -> Iterator[Document]:
    for batch in batches:
        for text, line, metadata in zip(batch.texts.strings(), batch.lines, batch.metadata, strict=True):
            yield Document(text=text, id=json.loads(line), metadata={**metadata, "split": batch.split})


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

"""What the training text is compared with: held-out text, another source, a file of items, the items of a task."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from curriculum import fs
from curriculum.compiler.prepared_text import PreparedText
from curriculum.data.dataset import Dataset
from curriculum.data.manifest import HELD_OUT, TRAIN, Manifest, SplitName
from curriculum.data.ngrams import Reference
from curriculum.errors import DataError, NotFound, did_you_mean

MOST_REFERENCE_TOKENS: Final = 200_000_000
"""Of a reference, whose runs are kept in memory at some 20 bytes each."""

JSON_LINES = (".jsonl", ".ndjson", ".jsonlines")


@dataclass(frozen=True, slots=True)
class Against:
    """A reference before it is read by `load`. A text belongs to the item whose name it has in the reference.

    `name` is shown, `option` is the command's, None for held-out text; `identity` decides whether a record is of what
    the reference holds now. `source` is the dataset that it is the training text of, which is not compared with itself.
    """

    name: str
    option: str | None
    identity: str
    load: Callable[[], Reference]
    source: str | None = None


def references(texts: PreparedText, against: str | None, items: Path | None = None) -> Iterator[Against]:
    """What `against` names: a source, a file, or the task whose `items` are in that file; else all held-out texts.

    NotFound where there is no such source and no such file, DataError for a source that is not prepared.
    """
    manifests = texts.manifests()
    if against is None:
        for dataset, manifest in sorted(manifests.items()):
            if HELD_OUT in manifest.splits and manifest.splits[HELD_OUT].tokens:
                load = functools.partial(_prepared, texts, dataset, HELD_OUT)
                yield Against(f"held out of {dataset}", None, identity(manifest, HELD_OUT), load)
        return
    if items is not None:
        load = functools.partial(_of_items, texts, against, items)
        yield Against(against, against, f"items {fs.sha256_file(items)}", load)
        return
    dataset_of = _dataset_of(texts)
    if against in dataset_of:
        dataset = dataset_of[against]
        if dataset not in manifests:
            raise DataError(f"`{against}` is not prepared yet", hint=f"`{texts.prepare_command}` makes it")
        load = functools.partial(_prepared, texts, dataset, TRAIN)
        yield Against(against, against, identity(manifests[dataset], TRAIN), load, dataset)
        return
    path = Path(against).expanduser()
    if not path.is_file():
        raise NotFound(
            f"there is no source and no file `{against}`",
            hint=did_you_mean(against, dataset_of) + "; or a file of text, or of JSON lines with the benchmark's "
            "items, or a task of lm-evaluation-harness",
        )
    yield Against(path.name, against, f"file {fs.sha256_file(path)}", functools.partial(_of_file, texts, path))


def identity(manifest: Manifest, split: SplitName) -> str:
    return f"{split} {manifest.splits[split].digest}"


def names_task(texts: PreparedText, against: str | None) -> bool:
    """Whether `against` is neither a source nor a file, nor written like a file's path."""
    if against is None or against in _dataset_of(texts):
        return False
    path = Path(against).expanduser()
    return not (path.is_file() or len(path.parts) > 1 or path.suffix in (*JSON_LINES, ".txt", ".md", ".json"))


def _dataset_of(texts: PreparedText) -> dict[str, str]:
    return {**{name: name for name in texts.manifests()}, **texts.curriculum.datasets}


def _prepared(texts: PreparedText, dataset: str, split: SplitName) -> Reference:
    manifest = texts.manifests()[dataset]
    _check_size(dataset, manifest.splits[split].tokens)
    opened = Dataset.open(texts.folder(dataset), split=split, sequence_length=texts.sequence_length)
    tokens, ends, before = [], [], 0
    for shard in opened.mapped:
        tokens.append(shard.tokens_between(0, shard.record.tokens))
        ends.append(shard.ends.astype(np.int64) + before)
        before += shard.record.tokens
    names = [f"{dataset}:{number}" for number in range(manifest.splits[split].documents)]
    return Reference(names, np.concatenate(tokens), np.concatenate(ends))


def _of_file(texts: PreparedText, path: Path) -> Reference:
    """The strings of every row of JSON lines, an item a row, or the whole file as one text."""
    try:
        content = path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"`{path}` is not UTF-8: {error}", hint="a text, or JSON lines, in UTF-8") from None
    named: list[tuple[str, str]] = []
    if path.suffix in JSON_LINES:
        for number, line in enumerate(content.splitlines(), start=1):
            if line.strip():
                try:
                    value = fs.parse_json(line)
                except ValueError as error:
                    raise DataError(f"`{path}`, line {number}, is not JSON: {error}", hint="one value a line") from None
                named += [(f"{path.name}:{number}", text) for text in _strings(value)]
    else:
        named.append((path.name, content))
    return _encoded(texts, str(path), named)


def _of_items(texts: PreparedText, task: str, path: Path) -> Reference:
    """The texts of the items of a task, in the lines `{"id", "texts"}` that a job wrote."""
    rows = fs.read_json_lines(path)
    return _encoded(texts, task, [(row["id"], text) for row in rows for text in row["texts"]])


def _encoded(texts: PreparedText, what: str, named: list[tuple[str, str]]) -> Reference:
    tokenizer = texts.loaded_tokenizer
    assert tokenizer is not None  # text is prepared
    encoded = tokenizer.encode_batch([text for _, text in named])
    _check_size(what, sum(map(len, encoded)))
    tokens = np.array([token for ids in encoded for token in ids], np.uint32)
    return Reference([name for name, _ in named], tokens, np.cumsum([len(ids) for ids in encoded], dtype=np.int64))


def _strings(value: Any) -> Iterator[str]:
    """The strings within a JSON value, numbers and keys left out."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)


def _check_size(name: str, tokens: int) -> None:
    if tokens > MOST_REFERENCE_TOKENS:
        raise DataError(
            f"`{name}` has {tokens:,} tokens; a reference has at most {MOST_REFERENCE_TOKENS:,}, kept in memory",
            hint="compare with a part of it, in a file",
        )

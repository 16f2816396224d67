"""Which training documents share runs of tokens with held-out text, with another source or with a file of items, how
many tokens, and in which past and future steps they are read: the contamination of a curriculum over its steps.

Results are kept in `data/ngrams/` by the digests of the texts that were compared, and not computed twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from curriculum import fs
from curriculum.analysis.trace import Shared, shared_stages
from curriculum.artifacts.job_process import processors
from curriculum.compiler.compile import Compiled
from curriculum.compiler.prepared_text import PreparedText
from curriculum.config.project import Project
from curriculum.data.dataset import Dataset
from curriculum.data.manifest import HELD_OUT, TRAIN, SplitName, windows_in
from curriculum.data.ngrams import Integers, NgramIndex, Reference
from curriculum.errors import DataError, NotFound, did_you_mean
from curriculum.plan import lookup

FORMAT: Final = 1
RUN: Final = 13
"""Tokens of a run: what GPT-3 (Brown et al. 2020, appendix C) looked for."""
PIECE: Final = 1 << 22
"""Tokens that one thread searches at a time, in whole documents."""
MOST_REFERENCE_TOKENS: Final = 200_000_000
"""Of a reference, whose runs are kept in memory at some 20 bytes each."""
LISTED: Final = 1000
"""Documents of a source that are listed, those with the most shared tokens."""


@dataclass(frozen=True, slots=True)
class _Against:
    """A reference by the name that is shown; `identity` decides whether a stored result is of it.

    `source` is the dataset that its documents are of, which is not compared with itself where they are trained on.
    """

    name: str
    identity: str
    reference: Reference
    source: str | None = None


def ngram_overlap(
    project: Project, compiled: Sequence[Compiled], texts: PreparedText, *, against: str | None = None, n: int = RUN
) -> dict[str, Any]:
    """The overlap of every source's training text with its references, as JSON values (docs/overlap-json.md).

    `against` is a source, whose training text the others are compared with, or a file: JSON lines, each string of a
    row a text, or one text. Without it the references are the held-out texts of all sources. NotFound for neither,
    DataError where nothing is prepared or a reference is too large to be kept in memory.
    """
    manifests = texts.manifests()
    if not manifests:
        raise DataError(
            f"no text of `{compiled[0].curriculum}` is prepared", hint=f"`{texts.prepare_command}` makes it"
        )
    references = list(_references(texts, against))
    stages = shared_stages(project, compiled)
    rows: list[dict[str, Any]] = []
    for each in references:
        index: NgramIndex | None = None
        for dataset in sorted(manifests):
            if dataset == each.source:
                continue
            path = project.data / "ngrams" / f"{fs.digest([each.identity, manifests[dataset].digest, n])[:24]}.json"
            stored = _recorded(path)
            if stored is None:
                index = index or NgramIndex(each.reference, n)
                stored = _compared(texts, dataset, index)
                fs.make_directory(path.parent)
                fs.write_json(path, fs.seal(stored), replace=True)
            rows.append(_row(texts, stages, dataset, each, stored))
    return {
        "format": FORMAT,
        "curriculum": compiled[0].curriculum,
        "size": compiled[0].size_name,
        "against": against,
        "ngram": n,
        "rows": rows,
        "missing": sorted(set(texts.datasets()) - set(manifests)),
    }


def _recorded(path: Path) -> dict[str, Any] | None:
    try:
        return fs.unseal(fs.parse_json(fs.read_bytes(path)), ())
    except (OSError, ValueError):
        return None


# --- references ---------------------------------------------------------------------------------------------


def _references(texts: PreparedText, against: str | None) -> Iterator[_Against]:
    manifests = texts.manifests()
    if against is None:
        for dataset, manifest in sorted(manifests.items()):
            if HELD_OUT in manifest.splits and manifest.splits[HELD_OUT].tokens:
                identity = f"held-out {manifest.splits[HELD_OUT].digest}"
                yield _Against(f"held out of {dataset}", identity, _prepared(texts, dataset, HELD_OUT))
        return
    dataset_of = {**{name: name for name in manifests}, **texts.curriculum.datasets}
    if against in dataset_of:
        dataset = dataset_of[against]
        if dataset not in manifests:
            raise DataError(f"`{against}` is not prepared yet", hint=f"`{texts.prepare_command}` makes it")
        identity = f"train {manifests[dataset].splits[TRAIN].digest}"
        yield _Against(against, identity, _prepared(texts, dataset, TRAIN), dataset)
        return
    path = Path(against).expanduser()
    if not path.is_file():
        raise NotFound(
            f"there is no source and no file `{against}`",
            hint=did_you_mean(against, dataset_of) + "; or a file of text, or of JSON lines with the benchmark's items",
        )
    yield _Against(path.name, f"file {fs.sha256_file(path)}", _of_file(texts, path))


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
    """The strings of every row of JSON lines, or the whole file as one text, in the curriculum's tokens."""
    try:
        content = path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"`{path}` is not UTF-8: {error}", hint="a text, or JSON lines, in UTF-8") from None
    items: list[tuple[str, str]] = []
    if path.suffix in (".jsonl", ".ndjson", ".jsonlines"):
        for number, line in enumerate(content.splitlines(), start=1):
            if line.strip():
                try:
                    value = fs.parse_json(line)
                except ValueError as error:
                    raise DataError(f"`{path}`, line {number}, is not JSON: {error}", hint="one value a line") from None
                items += [(f"{path.name}:{number}", text) for text in _strings(value)]
    else:
        items.append((path.name, content))
    tokenizer = texts.loaded_tokenizer
    assert tokenizer is not None  # text is prepared
    encoded = tokenizer.encode_batch([text for _, text in items])
    _check_size(str(path), sum(map(len, encoded)))
    tokens = np.array([token for ids in encoded for token in ids], np.uint32)
    return Reference([name for name, _ in items], tokens, np.cumsum([len(ids) for ids in encoded], dtype=np.int64))


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


# --- comparing ----------------------------------------------------------------------------------------------


def _compared(texts: PreparedText, dataset: str, index: NgramIndex) -> dict[str, Any]:
    """What the training text of a dataset shares with a reference, as it is stored."""
    opened = Dataset.open(texts.folder(dataset), split=TRAIN, sequence_length=texts.sequence_length)

    def piece(number: int, first: int, stop: int) -> tuple[int, int, Any]:
        shard = opened.mapped[number]
        begin, end = (int(shard.ends[first - 1]) if first else 0), int(shard.ends[stop - 1])
        return number, first, index.shared(shard.tokens_between(begin, end), shard.ends[first:stop].astype(np.int64) - begin)

    pieces = [(number, *bounds) for number, shard in enumerate(opened.mapped) for bounds in _pieces(shard.ends)]
    with ThreadPoolExecutor(processors()) as pool:
        results = list(pool.map(lambda bounds: piece(*bounds), pieces))
    references = np.unique(np.concatenate([np.empty(0, np.int64), *(shared.references for _, _, shared in results)]))
    documents = [
        [number, first + document, tokens]
        for number, first, shared in results
        for document, tokens in zip(shared.documents.tolist(), shared.tokens.tolist(), strict=True)
    ]
    return {"documents": documents, "references": len(references), "too_short": index.too_short}


def _pieces(ends: Any) -> Iterator[tuple[int, int]]:
    """Ranges of whole documents of about PIECE tokens."""
    first = 0
    while first < len(ends):
        begin = int(ends[first - 1]) if first else 0
        stop = max(first + 1, int(np.searchsorted(ends, begin + PIECE, side="right")))
        yield first, stop
        first = stop


def _row(
    texts: PreparedText, stages: Sequence[Shared], dataset: str, against: _Against, stored: dict[str, Any]
) -> dict[str, Any]:
    manifest = texts.manifests()[dataset]
    found = np.array(stored["documents"], np.int64).reshape(-1, 3)
    opened = Dataset.open(texts.folder(dataset), split=TRAIN, sequence_length=texts.sequence_length)
    most = found[np.argsort(-found[:, 2], kind="stable")][:LISTED]
    shards, counts = np.unique(found[:, 0], return_counts=True)
    return {
        "source": dataset,
        "reference": against.name,
        "documents": len(found),
        "of_documents": manifest.splits[TRAIN].documents,
        "tokens": int(found[:, 2].sum()),
        "of_tokens": manifest.splits[TRAIN].tokens,
        "references": stored["references"],
        "of_references": len(against.reference.ends),
        "too_short": stored["too_short"],
        "listed": [
            {"id": opened.document(shard, document).id, "shard": shard, "document": document, "tokens": tokens}
            for shard, document, tokens in most.tolist()
        ],
        "shards": {str(shard): count for shard, count in zip(shards.tolist(), counts.tolist(), strict=True)},
        "leave_out": [
            {"source": dataset, "shard": int(shard), "why": f"shares text with {against.name}"} for shard in shards
        ]
        if len(shards) < len(opened.mapped)
        else [],
        "stages": [
            reads
            for shared in stages
            for source, name in texts.curriculum.datasets.items()
            if name == dataset and source in shared.stage.plan.sources
            for reads in [_reads(shared, source, opened, found)]
        ],
    }


def _reads(shared: Shared, source: str, opened: Dataset, found: Integers) -> dict[str, Any]:
    """How often one stage reads the windows of the documents, when first and last, and how much of it is done."""
    plan = shared.stage.plan
    length = plan.sequence_length
    before = np.cumsum([0, *(windows_in(shard.record.tokens, length) for shard in opened.mapped)])
    windows: set[int] = set()
    for number, document, _ in found.tolist():
        first, end = opened.mapped[number].extent(document)
        low, high = max(0, (first - 1) // length), min(-(-end // length), int(before[number + 1] - before[number]))
        windows.update(range(int(before[number]) + low, int(before[number]) + max(low, high)))
    at = lookup.occurrences(plan, source, np.array(sorted(windows), np.int64), stop=shared.sequences)
    positions = plan.start + at.sequence // plan.batch_sequences * plan.batch_tokens
    steps = at.steps(plan)
    return {
        "curriculum": shared.stage.setting.curriculum,
        "stage": shared.stage.setting.stage,
        "lineages": list(shared.stops),
        "source": source,
        "windows": len(windows),
        "readings": len(steps),
        "readings_done": int(np.count_nonzero(positions < shared.reached)),
        "first_step": int(steps.min()) if len(steps) else None,
        "last_step": int(steps.max()) if len(steps) else None,
        "first": int(positions.min()) if len(steps) else None,
        "last": int(positions.max()) if len(steps) else None,
    }

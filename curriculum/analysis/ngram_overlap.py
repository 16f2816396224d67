"""Which training documents share runs of tokens with held-out text, with another source, with a file of items or a
benchmark task, how many tokens, and in which past and future steps they are read: the contamination over the steps.

Results are kept in `data/ngrams/` by the digests of the texts that were compared, and not computed twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np

from curriculum import fs
from curriculum.analysis import ngram_record
from curriculum.analysis.ngram_record import OverlapRecord
from curriculum.analysis.ngram_references import Against, references
from curriculum.analysis.trace import SharedStage, shared_stages
from curriculum.compiler.compile import Compiled
from curriculum.compiler.prepared_text import PreparedText
from curriculum.config.project import Project
from curriculum.data.dataset import Dataset
from curriculum.data.manifest import TRAIN, windows_in
from curriculum.data.ngrams import RUN, Integers, NgramIndex
from curriculum.errors import DataError
from curriculum.plan import lookup
from curriculum.units import show_exact

FORMAT: Final = 1
PIECE: Final = 1 << 22
"""Tokens that one thread searches at a time, in whole documents."""
LISTED: Final = 1000
"""Documents of a source that are listed, those with the most shared tokens."""
LOOKED_UP: Final = 100_000
"""The most documents of a record whose readings are counted for another command than `overlap`."""


def ngram_overlap(
    project: Project,
    compiled: Sequence[Compiled],
    texts: PreparedText,
    *,
    against: str | None = None,
    items: Path | None = None,
    n: int = RUN,
) -> dict[str, Any]:
    """The overlap of every source's training text with its references, as JSON values (docs/overlap-json.md).

    `against` is a source, whose training text the others are compared with, a file (JSON lines, each row an item and
    each of its strings a text, or one text), or the task whose `items` are in that file. Without it the references are
    the held-out texts of all sources. NotFound for none of them, DataError where nothing is prepared or a reference is
    too large to be kept in memory.
    """
    manifests = texts.manifests()
    if not manifests:
        raise DataError(
            f"no text of `{compiled[0].curriculum}` is prepared", hint=f"`{texts.prepare_command}` makes it"
        )
    stages = shared_stages(project, compiled)
    rows: list[dict[str, Any]] = []
    for each in list(references(texts, against, items)):
        index: NgramIndex | None = None
        for dataset in sorted(manifests):
            if dataset == each.source:
                continue
            path = ngram_record.path_of(texts, dataset, each, n)
            stored = ngram_record.read(path, each)
            if stored is None:
                index = index or NgramIndex(each.load(), n)
                stored = _compared(texts, dataset, each, index)
                ngram_record.write(path, *stored)
            rows.append(_row(texts, stages, *stored))
    return {
        "format": FORMAT,
        "curriculum": compiled[0].curriculum,
        "size": compiled[0].size_name,
        "against": against,
        "ngram": n,
        "rows": rows,
        "missing": sorted(set(texts.datasets()) - set(manifests)),
    }


def readings(project: Project, compiled: Compiled, texts: PreparedText) -> Iterator[tuple[OverlapRecord, Any]]:
    """Every record of the lineage's text, and how often its documents are read: `_reads` of each stage that does.

    None in place of that for a record whose list is damaged or longer than LOOKED_UP.
    """
    stages = shared_stages(project, [compiled])
    for record, path in ngram_record.records_of(texts):
        documents = ngram_record.documents_of(path, record) if record.documents <= LOOKED_UP else None
        if documents is None:
            yield record, None
            continue
        opened = Dataset.open(texts.folder(record.dataset), split=TRAIN, sequence_length=texts.sequence_length)
        yield record, list(_reads_of_stages(texts, stages, record.dataset, opened, documents))


def compare_lines(
    project: Project, names: Sequence[str], lineages: Sequence[Compiled], texts: Sequence[PreparedText]
) -> list[str]:
    """A line for each reference that the text of some variants was compared with, and what each has read of it."""
    shares: dict[tuple[str, str, int], dict[str, str]] = {}
    read: dict[tuple[str, str, int], dict[str, int | None]] = {}
    for name, compiled, text in zip(names, lineages, texts, strict=True):
        for record, stages in readings(project, compiled, text):
            key = ngram_record.reference_of(record)
            shares.setdefault(key, {})[record.dataset] = ngram_record.counts(record, text.manifests()[record.dataset])
            if record.documents:
                before = read.setdefault(key, {}).get(name, 0)
                done = None if stages is None else sum(stage["readings_done"] for stage in stages)
                read[key][name] = None if before is None or done is None else before + done
    lines = []
    for (reference, option, n), of_datasets in shares.items():
        counted = "; ".join(share for _, share in sorted(of_datasets.items()))
        line = f"shared with {reference}, runs of {n} tokens: {counted}"
        by_variant = read.get((reference, option, n), {})
        if by_variant:
            read_by = (
                f"{name} {'not counted' if done is None else show_exact(done)}" for name, done in by_variant.items()
            )
            line += f"; windows of these documents read so far: {', '.join(read_by)}"
        lines.append(line)
    return lines


# --- comparing ----------------------------------------------------------------------------------------------


def _compared(texts: PreparedText, dataset: str, against: Against, index: NgramIndex) -> tuple[OverlapRecord, Integers]:
    """What the training text of a dataset shares with a reference, and its documents."""
    opened = Dataset.open(texts.folder(dataset), split=TRAIN, sequence_length=texts.sequence_length)

    def piece(number: int, first: int, stop: int) -> tuple[int, int, Any]:
        shard = opened.mapped[number]
        begin, end = (int(shard.ends[first - 1]) if first else 0), int(shard.ends[stop - 1])
        tokens = shard.tokens_between(begin, end)
        return number, first, index.shared(tokens, shard.ends[first:stop].astype(np.int64) - begin)

    pieces = [(number, *bounds) for number, shard in enumerate(opened.mapped) for bounds in _pieces(shard.ends)]
    with ThreadPoolExecutor(fs.processors()) as pool:
        results = list(pool.map(lambda bounds: piece(*bounds), pieces))
    names, lengths = index.reference.names, np.diff(index.reference.ends, prepend=0)
    texts_found = np.unique(np.concatenate([np.empty(0, np.int64), *(shared.references for _, _, shared in results)]))
    documents = np.concatenate(
        [
            np.empty((0, 3), np.int64),
            *(
                np.column_stack([np.full(len(shared.documents), number), first + shared.documents, shared.tokens])
                for number, first, shared in results
            ),
        ]
    )
    items = set(names)
    record = OverlapRecord(
        dataset=dataset,
        text=opened.digest,
        reference=against.name,
        option=against.option,
        identity=against.identity,
        ngram=index.n,
        documents=len(documents),
        tokens=int(documents[:, 2].sum()),
        items=len({names[text] for text in texts_found.tolist()}),
        of_items=len(items),
        too_short=len(items - {names[text] for text in np.flatnonzero(lengths >= index.n).tolist()}),
        listed=ngram_record.digest_of(documents),
    )
    return record, documents


def _pieces(ends: Any) -> Iterator[tuple[int, int]]:
    """Ranges of whole documents of about PIECE tokens."""
    first = 0
    while first < len(ends):
        begin = int(ends[first - 1]) if first else 0
        stop = max(first + 1, int(np.searchsorted(ends, begin + PIECE, side="right")))
        yield first, stop
        first = stop


def _row(
    texts: PreparedText, stages: Sequence[SharedStage], record: OverlapRecord, documents: Integers
) -> dict[str, Any]:
    dataset = record.dataset
    train = texts.manifests()[dataset].splits[TRAIN]
    opened = Dataset.open(texts.folder(dataset), split=TRAIN, sequence_length=texts.sequence_length)
    most = documents[np.argsort(-documents[:, 2], kind="stable")][:LISTED]
    shards, counts = np.unique(documents[:, 0], return_counts=True)
    all_shards = len(shards) == len(opened.mapped)
    return {
        "source": dataset,
        "reference": record.reference,
        "documents": record.documents,
        "of_documents": train.documents,
        "tokens": record.tokens,
        "of_tokens": train.tokens,
        "references": record.items,
        "of_references": record.of_items,
        "too_short": record.too_short,
        "listed": [
            {"id": opened.document(shard, document).id, "shard": shard, "document": document, "tokens": tokens}
            for shard, document, tokens in most.tolist()
        ],
        "shards": {str(shard): count for shard, count in zip(shards.tolist(), counts.tolist(), strict=True)},
        "leave_out": []
        if all_shards
        else [
            {"source": source, "shard": int(shard), "why": f"shares text with {record.reference}"}
            for source in _sources_of(texts, dataset)
            for shard in shards
        ],
        "leave_out_tokens": 0 if all_shards else sum(opened.mapped[shard].record.tokens for shard in shards.tolist()),
        "stages": list(_reads_of_stages(texts, stages, dataset, opened, documents)),
    }


def _reads_of_stages(
    texts: PreparedText, stages: Sequence[SharedStage], dataset: str, opened: Dataset, documents: Integers
) -> Iterator[dict[str, Any]]:
    """`_reads` of every stage that reads the dataset, by each name that it has in the lineage."""
    for shared in stages:
        for source in _sources_of(texts, dataset):
            if source in shared.stage.plan.sources:
                yield _reads(shared, source, opened, documents)


def _sources_of(texts: PreparedText, dataset: str) -> list[str]:
    """The names that the dataset has in the lineage's mixtures."""
    return [source for source, name in texts.curriculum.datasets.items() if name == dataset]


def _reads(shared: SharedStage, source: str, opened: Dataset, documents: Integers) -> dict[str, Any]:
    """How often one stage reads the windows of the documents, when first and last, and how much of it is done."""
    plan = shared.stage.plan
    length = plan.sequence_length
    before = np.cumsum([0, *(windows_in(shard.record.tokens, length) for shard in opened.mapped)])
    windows: set[int] = set()
    for number, document, _ in documents.tolist():
        first, end = opened.mapped[number].extent(document)
        low, high = max(0, (first - 1) // length), min(-(-end // length), int(before[number + 1] - before[number]))
        windows.update(range(int(before[number]) + low, int(before[number]) + max(low, high)))
    at = lookup.occurrences(plan, source, np.array(sorted(windows), np.int64), stop=shared.sequences)
    steps = at.steps(plan)
    taken, of_taken = np.unique(steps, return_inverse=True)
    positions = np.array([plan.position_before(step) for step in taken.tolist()], np.int64)[of_taken]
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

"""What `curriculum overlap` found, as it is kept: by the text that was searched, the reference and the runs' length.

    data/ngrams/<dataset>/<text>-<key>.json         the counts, by which other commands show it
    data/ngrams/<dataset>/<text>-<key>.documents    int64 [documents, 3]: shard, document in it, shared tokens

`text` is of the digest of the prepared text, so that nothing is shown of text as it was before.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np

from curriculum import fs
from curriculum.analysis.ngram_references import Against, identity
from curriculum.compiler.prepared_text import PreparedText
from curriculum.data.manifest import HELD_OUT, TRAIN, Manifest
from curriculum.data.ngrams import RUN, Integers
from curriculum.units import show_exact

DOCUMENTS = ".documents"


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlapRecord:
    """The overlap of the training text of `dataset` with a reference.

    `text` is the digest of the prepared text, `identity` that of the reference, `option` what `--against` names it by
    (None for held-out text). `documents` share `tokens` in runs of `ngram`; of the reference's `of_items`, `items` are
    found and `too_short` have no text of `ngram` tokens. `listed` is the SHA-256 of the list of documents.
    """

    dataset: str
    text: str
    reference: str
    option: str | None
    identity: str
    ngram: int
    documents: int
    tokens: int
    items: int
    of_items: int
    too_short: int
    listed: str


def path_of(texts: PreparedText, dataset: str, against: Against, n: int) -> Path:
    """The record of the present text of a dataset with a reference; a changed reference of that name replaces it."""
    key = fs.digest([against.name, against.option, n])[:16]
    return _folder(texts, dataset) / f"{_text(texts.manifests()[dataset])}-{key}.json"


def read(path: Path, against: Against) -> tuple[OverlapRecord, Integers] | None:
    """A record with its documents; None where there is none of this reference, or it is damaged."""
    record = _record(path)
    if record is None or record.identity != against.identity:
        return None
    documents = documents_of(path, record)
    return None if documents is None else (record, documents)


def write(path: Path, record: OverlapRecord, documents: Integers) -> None:
    fs.make_directory(path.parent)
    fs.write_bytes(path.with_suffix(DOCUMENTS), documents.astype("<i8").tobytes(), replace=True)
    fs.write_sealed(path, fs.fields_of(record), replace=True)


def records_of(texts: PreparedText) -> Iterator[tuple[OverlapRecord, Path]]:
    """What is known of the text of a lineage as it is now, by reference and dataset.

    Held-out texts and sources that have changed since, or are not of the lineage, are left out.
    """
    manifests = texts.manifests()
    present = {
        identity(manifest, split)
        for manifest in manifests.values()
        for split in (HELD_OUT, TRAIN)
        if split in manifest.splits
    }
    records = []
    for dataset, manifest in manifests.items():
        for path in _folder(texts, dataset).glob(f"{_text(manifest)}-*.json"):
            record = _record(path)
            if record is None or record.text != manifest.digest:
                continue
            if record.identity.startswith((f"{HELD_OUT} ", f"{TRAIN} ")) and record.identity not in present:
                continue
            records.append((record, path))
    yield from sorted(records, key=lambda entry: (reference_of(entry[0]), entry[0].dataset))


def lines(texts: PreparedText) -> list[str]:
    """A line for each reference that the lineage's text was compared with, and the command that shows more."""
    curriculum, sentences = texts.curriculum, []
    for (_, option, n), group in groupby((record for record, _ in records_of(texts)), key=reference_of):
        against = f" --against {shlex.quote(option)}" if option else ""
        runs = f" --ngram {n}" if n != RUN else ""
        options = texts.project.options(curriculum.size_name)
        sentences.append(
            f"{shared_with(list(group), texts)}; `curriculum overlap {curriculum.name}{options}{against}{runs}` shows "
            "documents and steps"
        )
    return sentences


def shared_with(records: Sequence[OverlapRecord], texts: PreparedText) -> str:
    """What several datasets share with one reference, as in `shared with items.jsonl, runs of 13 tokens: prose …`."""
    shares = [counts(record, texts.manifests()[record.dataset]) for record in records]
    return f"shared with {records[0].reference}, runs of {records[0].ngram} tokens: {'; '.join(shares)}"


def counts(record: OverlapRecord, manifest: Manifest) -> str:
    """What a dataset shares, as in `prose 3 of 1,200 documents, 87 tokens`."""
    if not record.documents:
        return f"{record.dataset} nothing"
    return (
        f"{record.dataset} {show_exact(record.documents)} of {show_exact(manifest.splits[TRAIN].documents)} documents, "
        f"{show_exact(record.tokens)} tokens"
    )


def reference_of(record: OverlapRecord) -> tuple[str, str, int]:
    return record.reference, record.option or "", record.ngram


def _folder(texts: PreparedText, dataset: str) -> Path:
    return texts.project.data / "ngrams" / dataset


def _text(manifest: Manifest) -> str:
    return manifest.digest[:16]


def _record(path: Path) -> OverlapRecord | None:
    try:
        return fs.from_json(OverlapRecord, fs.read_sealed(path))
    except (OSError, ValueError):
        return None


def documents_of(path: Path, record: OverlapRecord) -> Integers | None:
    """The documents of the record at `path`: shard, document, shared tokens; None where their list is damaged."""
    file = path.with_suffix(DOCUMENTS)
    try:
        if fs.sha256_file(file) != record.listed:
            return None
        return np.frombuffer(fs.read_bytes(file), "<i8").astype(np.int64).reshape(-1, 3)
    except OSError:
        return None


def digest_of(documents: Integers) -> str:
    return hashlib.sha256(documents.astype("<i8").tobytes()).hexdigest()

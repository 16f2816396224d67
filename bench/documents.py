"""How long `curriculum trace --document` takes as a whole process, by the number of documents that its index holds.

The text is a pretence: an index of ids in full, 12 bytes a document, and sparse files as large as so much text has,
in which only the documents that are asked for have their ids and ends.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from bench.measure import Row, arguments, goal, in_turns, machine, process, save, table
from bench.projects import project
from curriculum import fs
from curriculum.compiler.prepared_text import PreparedText
from curriculum.config.project import Project
from curriculum.data import document_lookup
from curriculum.data.manifest import BLOCK_BYTES, TRAIN, Manifest, Shard, SpecialTokens, Split, TokenizerRecord
from curriculum.data.shard import id_line

SHARDS = 64
"""More than a shard whose ids are compared with a digest has documents: 9.4M each of 600M."""
TOKENS = 400
"""Of each document."""
LINE = len(id_line(f"document-{0:012d}"))
TOGETHER = 1 << 22
LIMIT = "limit: curriculum --help"


def name_of(document: int) -> str:
    return f"document-{document:012d}"


def write_tokenizer(path: Path) -> None:
    from tokenizers import Tokenizer, models

    Tokenizer(models.WordLevel({"</s>": 0, "word": 1, "?": 2}, unk_token="?")).save(str(path))


def write_lookup(path: Path, documents: int, included: list[int]) -> None:
    """An index whose records are spread evenly, with those of the documents that are `included` for among them."""
    hashes = document_lookup.line_hashes([id_line(name_of(document)) for document in included])
    step = (1 << 64) // documents
    numbers = zip(map(int, hashes), included, strict=True)
    places = {min(value // step, documents - 1): (value, document) for value, document in numbers}

    def blocks() -> Iterator[memoryview]:
        for first in range(0, documents, TOGETHER):
            at = np.arange(first, min(first + TOGETHER, documents), dtype=np.uint64)
            records = np.empty(len(at), document_lookup.RECORD)
            records["key"] = at * np.uint64(step) & ~np.uint64(0xFF)
            records["low"] = at * np.uint64(2_654_435_761) % np.uint64(documents)
            for place, (value, document) in places.items():
                if first <= place < first + len(at):
                    records[place - first] = (value & ~0xFF | document >> 32, document & 0xFFFFFFFF)
            yield memoryview(records.tobytes())

    fs.write_blocks(path, blocks())


def write_text(folder: Path, dataset: str, tokenizer: str, documents: int, included: list[int], count: int) -> None:
    """A prepared folder of so many documents in `count` shards; sparse but for the index and what is asked for."""
    (folder / TRAIN).mkdir(parents=True)
    each = documents // count
    shards = []
    for number in range(count):
        path = folder / TRAIN / f"{number:05d}.ds"
        ids, ends = path.with_suffix(".ids"), path.with_suffix(".ds.index")
        sizes = {path: 2 * TOKENS * each, ends: 8 * each, ids: LINE * each, ids.with_suffix(".ids.index"): 8 * each}
        for file, size in sizes.items():
            with file.open("wb") as out:
                out.truncate(size)
        for document in (document % each for document in included if document // each == number):
            for file, width in ((ends, TOKENS), (ids.with_suffix(".ids.index"), LINE)):
                with file.open("r+b") as out:
                    first = max(0, document - 1)
                    out.seek(8 * first)
                    out.write((np.arange(first, document + 1, dtype="<u8") * width + width).tobytes())
            with ids.open("r+b") as out:
                out.seek(LINE * document)
                out.write(id_line(name_of(document + each * number)))
        digests = dict.fromkeys(("sha256", "index_sha256", "blocks_sha256", "ids_sha256", "ids_index_sha256"), "0" * 64)
        shards.append(
            Shard(
                file=f"{TRAIN}/{path.name}",
                tokens=TOKENS * each,
                documents=each,
                text_bytes=4 * TOKENS * each,
                **digests,
            )
        )
    write_lookup(folder / document_lookup.name_of(TRAIN, 0), documents, included)
    split = Split(
        documents=documents,
        tokens=TOKENS * documents,
        text_bytes=4 * TOKENS * documents,
        max_token=1,
        filler=0,
        dropped={},
        shards=tuple(shards),
    )
    manifest = Manifest(
        dataset=dataset,
        tokenizer=TokenizerRecord(digest=tokenizer, name="words", vocab_size=3),
        policy=SpecialTokens(bos=None, eos=0),
        dtype="uint16",
        block_bytes=BLOCK_BYTES,
        recipe={},
        recipe_digest="0" * 64,
        provenance={},
        splits={TRAIN: split},
    )
    fs.write_json(folder / "manifest.json", manifest.to_json())


def measured(root: Path, documents: int, shards: int, turns: int) -> list[Row]:
    """Processes that ask for the first document, for one in the middle and for the last one."""
    project(root, sources=1, sequences=documents * TOKENS // 2048 // 4)
    write_tokenizer(root / "tokenizer.json")
    texts = PreparedText.open(Project.find(root), "variant", "full")
    assert texts.loaded_tokenizer is not None
    (dataset,) = texts.datasets()
    included = [0, documents // 2 + 1, documents - 1]
    write_text(texts.folder(dataset), dataset, texts.loaded_tokenizer.digest, documents, included, shards)

    def ask(name: str) -> Callable[[], float]:
        words = ("-m", "curriculum", "trace", "variant", "--size", "full", "--json", "--document", name)

        def once() -> float:
            done = process(*words, cwd=root)
            spans = json.loads(done.output)["found"]
            assert len(spans) == 1, done.output[-500:]
            return done.wall

        return once

    cases: dict[str, Callable[[], float]] = {LIMIT: lambda: process("-m", "curriculum", "--help", cwd=root).wall}
    for document in included:
        cases[f"document {document:,} of {documents:,}"] = ask(name_of(document))
    return list(in_turns(cases, turns).values())


def main() -> None:
    given = arguments(
        "Seconds of `trace --document` by the size of the index.",
        documents={"type": int, "default": 600, "help": "millions of documents, 12 MB of disk each"},
    )
    machine()
    shards = 2 if given.toy else SHARDS
    documents = 2_200_000 if given.toy else 1_000_000 * given.documents // SHARDS * SHARDS
    with tempfile.TemporaryDirectory() as folder:
        rows = measured(Path(folder), documents, shards, given.turns)
    title = f"trace --document among {documents:,}, whole process"
    table(title, rows, "s", against=LIMIT)
    slowest = max(row.median for row in rows[1:])
    goal("seconds of a process that finds a document, the slowest", slowest, 0.5, at_most=True, unit="s")
    save(given.json, {title: rows})


if __name__ == "__main__":
    main()

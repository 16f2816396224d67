"""The peak memory of a worker that prepares a long stream of generated text, a task after another in one process.

Half of the words are common and half are drawn letter by letter, so that the encoder meets new words for ever: the
worst for what it remembers of them. Each task's files are removed once they are written.
"""

from __future__ import annotations

import json
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bench.measure import Row, goal, peak, process, table
from curriculum.data.manifest import TRAIN
from curriculum.data.requests import PrepareRequest
from curriculum.data.tokenizer import Tokenizer
from runner.prepare.corpus import BATCH_BYTES
from runner.prepare.encoder_choice import SourceEncoder
from runner.prepare.shard_writer import Meter, ShardWriter
from runner.prepare.tally import Tally
from runner.prepare.texts import Documents, Texts

TASK_BYTES = 1_000_000_000
"""Text of a task, unless the stream has less or is one task."""
DOCUMENT = 2000
PARTS = 8
"""How often the peak is noted, over the stream."""
COMMON = b"the of and to in that state people year law country congress peace return import self for def class "


def generated(task: int, size: int, document: int) -> Iterator[Documents]:
    """At least `size` bytes in documents of that many, in batches as a corpus gives them."""
    draw = np.random.default_rng(task)
    common = np.frombuffer(COMMON * (BATCH_BYTES // len(COMMON) + 1), np.uint8)
    number = 0
    for _ in range(-(-size // BATCH_BYTES)):
        letters = draw.integers(97, 123, BATCH_BYTES, np.uint8)
        letters[draw.integers(0, BATCH_BYTES, BATCH_BYTES // 6)] = 32
        is_common = np.repeat(draw.integers(0, 2, BATCH_BYTES // 64 + 1).astype(bool), 64)[:BATCH_BYTES]
        data = np.where(is_common, np.roll(common[:BATCH_BYTES], int(draw.integers(0, 1000))), letters)
        bounds = np.append(np.arange(0, BATCH_BYTES, document, dtype=np.int64), BATCH_BYTES)
        lines = [b'"%d/%d"\n' % (task, at) for at in range(number, number + len(bounds) - 1)]
        number += len(lines)
        yield Documents(Texts(data, bounds), lines, TRAIN)


def stream(folder: Path, tokenizer_file: str, size: int, document: int, whole: bool) -> list[tuple[int, float, int]]:
    """Bytes so far, seconds of processors and the peak of this process, PARTS times over the stream and at its end.

    The stream is one task with `whole`, so that one shard has all its documents.
    """
    tokenizer = Tokenizer.load(tokenizer_file)
    request = PrepareRequest(
        dataset="stream",
        read={"folder": "nowhere"},
        tokenizer_file=tokenizer_file,
        output=str(folder / "out"),
        progress=str(folder / "progress.jsonl"),
        sequence_length=2048,
        held_out={"share": "1%"},
    )
    source = SourceEncoder(Path(tokenizer_file), tokenizer, folder, None)
    choice = source.choice()
    assert choice.fast, choice
    noted: list[tuple[int, float, int]] = []
    started, written, task = time.process_time(), 0, 0
    each = size if whole else min(TASK_BYTES, size // PARTS)

    def note(batches: Iterator[Documents]) -> Iterator[Documents]:
        nonlocal written
        for batch in batches:
            yield batch
            written += len(batch.texts.data)
            if written * PARTS >= size * (len(noted) + 1):
                noted.append((written, time.process_time() - started, peak()))

    while written < size:
        target = folder / f"{task:05d}"
        ShardWriter(
            request,
            tokenizer,
            source.for_task(choice, threads=False),
            target,
            "",
            tally=Tally(),
            meter=Meter(Path(request.progress), None),
            stop=threading.Event(),
        ).write(note(generated(task, each, document)), task)
        shutil.rmtree(target)
        task += 1
    return [*noted, (written, time.process_time() - started, peak())]


def measure(
    folder: Path, tokenizer: str, size: int, document: int = DOCUMENT, *, whole: bool = False
) -> dict[str, list[Row]]:
    """The table of a stream of so many bytes, by a process of its own."""
    words = ("-m", "bench.prepare_memory", str(folder), str(folder / f"{tokenizer}.json"))
    output = process(*words, str(size), str(document), *(["whole"] if whole else [])).output
    rows = []
    for written, seconds, most in json.loads(output.splitlines()[-1]):
        row = Row(f"after {written / 1e9:.3g} GB, {written // document:,} documents", [most / 2**20])
        row.more["MB a core-second"] = int(written / 1e6 / max(seconds, 1e-3))
        rows.append(row)
    title = f"peak memory of a worker, {tokenizer}, documents of {document:,} bytes" + (", one task" if whole else "")
    table(title, rows, " MiB")
    goal("memory of a worker at the end of the stream", rows[-1].median, 1024, at_most=True, unit=" MiB")
    return {title: rows}


if __name__ == "__main__":
    where, file, length, each_document, *one_task = sys.argv[1:]
    print(json.dumps(stream(Path(where), file, int(length), int(each_document), bool(one_task))))

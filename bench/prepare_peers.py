"""Tokenizers of other trainers over the same JSON lines, each in a process of its own; those that are not installed
are named and not measured."""

from __future__ import annotations

import json
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bench.measure import Started

UNPACKED = "JSON lines"
Measured = tuple[int, float, float]


def datatrove(folder: Path, tokenizer: str, tasks: int) -> Measured:
    """datatrove's plain pipeline: a reader of JSON lines and its tokenizer."""
    from datatrove.executor.local import LocalPipelineExecutor
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.tokens import DocumentTokenizer
    from datatrove.utils.logging import logger

    logger.remove()
    with tempfile.TemporaryDirectory(dir=folder) as out:
        executor = LocalPipelineExecutor(
            pipeline=[
                JsonlReader(str(folder / UNPACKED)),  # the same rows: it reads no .zst without a further package
                DocumentTokenizer(f"{out}/tokens", str(folder / f"{tokenizer}.json"), eos_token="</s>"),
            ],
            tasks=tasks,
            workers=len(os.sched_getaffinity(0)),
            logging_dir=f"{out}/logs",
        )
        started = Started()
        executor.run()
        seconds = started.seconds()
        tokens = sum(path.stat().st_size // 2 for path in Path(out, "tokens").glob("*.ds"))
    return tokens, *seconds


_ENCODER: Any = None


def _start(path: str) -> None:
    global _ENCODER
    from curriculum.data.tokenizer import Tokenizer

    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _ENCODER = Tokenizer.load(path)


def _encode(line: str) -> list[int]:
    ids: list[int] = _ENCODER.encode(json.loads(line)["text"])
    return [*ids, _ENCODER.eos_id]


def megatron(folder: Path, tokenizer: str, tasks: int) -> Measured:
    """What Megatron's preprocess_data.py does: a pool of processes encodes lines, one writes its indexed dataset.

    The script is no part of the package; the writer is. Its encoder is `tokenizers`, as with a Hugging Face tokenizer.
    """
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    def lines() -> Iterator[str]:
        for path in sorted((folder / UNPACKED).iterdir()):
            with path.open(encoding="utf-8") as file:
                yield from file

    with tempfile.TemporaryDirectory(dir=folder) as out:
        workers = len(os.sched_getaffinity(0))
        with multiprocessing.get_context("fork").Pool(workers, _start, (str(folder / f"{tokenizer}.json"),)) as pool:
            pool.map(_encode, ['{"text": "ready"}'] * workers)
            started = Started()
            builder = IndexedDatasetBuilder(f"{out}/tokens.bin", dtype=np.uint16)
            tokens = 0
            for ids in pool.imap(_encode, lines(), 32):
                builder.add_document(ids, [len(ids)])
                tokens += len(ids)
            builder.finalize(f"{out}/tokens.idx")
            pool.close()
            pool.join()  # their seconds are counted once they have ended
            seconds = started.seconds()
    return tokens, *seconds


def dolma(folder: Path, tokenizer: str, tasks: int) -> Measured:
    """OLMo's: `dolma tokens`, whose documents have an id besides their text."""
    from dolma.tokenizer import tokenize_in_parallel

    from curriculum.data.tokenizer import Tokenizer

    loaded = Tokenizer.load(folder / f"{tokenizer}.json")
    with tempfile.TemporaryDirectory(dir=folder) as out:
        started = Started()
        tokenize_in_parallel(
            sources=[f"{folder / UNPACKED}/*"],
            destination=f"{out}/tokens",
            num_writers=len(os.sched_getaffinity(0)),
            tokenizer_name_or_path=str(folder / f"{tokenizer}.json"),
            eos_token_id=loaded.eos_id,
            pad_token_id=loaded.eos_id,
            metadata_dir=f"{out}/done",
            dtype="uint16",
        )
        seconds = started.seconds()
        tokens = sum(path.stat().st_size // 2 for path in Path(out, "tokens").rglob("*.npy"))
    return tokens, *seconds


PEERS: dict[str, tuple[Callable[[Path, str, int], Measured], str]] = {
    "datatrove's plain pipeline": (datatrove, "datatrove"),
    "Megatron's preprocessing": (megatron, "megatron-core"),
    "dolma tokens (OLMo)": (dolma, "dolma"),
}
"""By name: how it is measured, and the package that has it."""

"""Runs the tasks of a preparation: each once, whatever other processes run, and `workers` at a time."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from datatrove.executor.base import PipelineExecutor

from curriculum import fs
from runner.prepare.shard_writer import Stopped

Result = TypeVar("Result")


class TaskExecutor(PipelineExecutor):  # type: ignore[misc]
    """datatrove's executor for one task in this thread: its completion marks, nothing on the terminal."""

    def __init__(self, pipeline: list[Any], *, rank: int, tasks: int, folder: Path) -> None:
        super().__init__(pipeline, str(folder))
        self.rank = rank
        self.tasks = tasks
        self.lock = folder / "locks" / f"{rank:05d}"
        fs.make_directory(self.lock.parent)

    @property
    def world_size(self) -> int:
        return self.tasks

    def get_distributed_env(self, node_rank: int = -1) -> dict[str, str]:
        return {}

    def run(self) -> None:
        with fs.Lock(self.lock, f"task {self.rank} of this preparation"):
            if self.is_rank_completed(self.rank):
                return
            documents: Any = None
            for step in self.pipeline:
                documents = step(documents, self.rank, self.tasks)
            self.mark_rank_as_completed(self.rank)


def run_all(functions: Sequence[Callable[[], Result]], workers: int, stop: threading.Event) -> list[Result]:
    """Results of the functions in order; the first failure sets `stop`, and is raised when all have ended."""
    with ThreadPoolExecutor(min(workers, len(functions))) as pool:
        futures = [pool.submit(function) for function in functions]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            stop.set()
            for future in futures:
                future.cancel()
    failures = [future.exception() for future in futures if not future.cancelled()]
    for failure in sorted(filter(None, failures), key=lambda failure: isinstance(failure, Stopped)):
        raise failure
    return [future.result() for future in futures]


@contextmanager
def tokenizer_threads(workers: int, *, inside: bool) -> Iterator[None]:
    """Let the tokenizers library use `workers` threads of its own (`inside`), or leave them to the tasks."""
    variables = {"TOKENIZERS_PARALLELISM": "true" if inside else "false", "RAYON_NUM_THREADS": str(workers)}
    saved = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in saved.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

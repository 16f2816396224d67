"""Runs the tasks of a preparation: each once, whatever other processes run, and `workers` at a time."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from curriculum import fs
from runner.prepare.shard_writer import Stopped

Result = TypeVar("Result")


class Task:
    """One task of a preparation, run by one process at a time; its mark in `folder` says that it is finished."""

    def __init__(self, run: Callable[[], None], *, rank: int, folder: Path) -> None:
        self.rank = rank
        self._run = run
        self._lock = folder / "locks" / f"{rank:05d}"
        self._mark = folder / "completions" / f"{rank:05d}"
        fs.make_directory(self._lock.parent)

    @property
    def finished(self) -> bool:
        return self._mark.exists()

    def run(self) -> None:
        with fs.Lock(self._lock, f"task {self.rank} of this preparation"):
            if not self.finished:
                self._run()
                fs.make_directory(self._mark.parent)
                self._mark.touch()

    def unmark(self) -> None:
        self._mark.unlink(missing_ok=True)


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

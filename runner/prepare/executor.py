"""datatrove's executor for one task of a preparation, done once, whoever else works on the others."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from datatrove.executor.base import PipelineExecutor

from curriculum import fs


class TaskExecutor(PipelineExecutor):  # type: ignore[misc]
    """datatrove's executor for one task in this thread: its marks of completion, nothing on the terminal."""

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


@contextmanager
def tokenizer_threads(workers: int, *, inside: bool) -> Iterator[None]:
    """Let the tokenizers library use `workers` threads of its own (`inside`), or leave them to the tasks."""
    wanted = {"TOKENIZERS_PARALLELISM": "true" if inside else "false", "RAYON_NUM_THREADS": str(workers)}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

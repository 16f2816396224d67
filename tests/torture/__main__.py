"""The figures of docs/reliability.md: `python -m tests.torture --size gate|long [--only R2,R3] [--seed N]`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
import traceback
from pathlib import Path

from tests.torture import collection
from tests.torture.figures import FIGURES, SIZES, Case, Figure, Tally, scratch


def measure(figure: Figure, size: str, seed: int) -> tuple[Tally, float]:
    """One figure in a folder of its own; what it does not survive itself counts as a failure."""
    tally = Tally()
    began = time.monotonic()
    with scratch() as folder:
        try:
            figure.run(Case(size, seed, folder), tally)
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
    parser.add_argument("--json", type=Path, help="also write the figures there")
    parser.add_argument("--show", type=int, default=5, help="failures to show of each figure")
    asked = parser.parse_args(words)
    collection.load()
    wanted = [name for name in asked.only.split(",") if name] or list(FIGURES)
    unknown = [name for name in wanted if name not in FIGURES]
    if unknown:
        parser.error(f"there is no figure {', '.join(unknown)}; there are {', '.join(FIGURES)}")
    print(f"size {asked.size}, seed {asked.seed}")
    print(f"{'figure':7} {'trials':>7} {'failures':>8} {'seconds':>8}  what")
    failed = False
    record = []
    for name in wanted:
        tally, seconds = measure(FIGURES[name], asked.size, asked.seed)
        failed |= bool(tally.failures)
        notes = "".join(f"; {key} {value}" for key, value in tally.notes.items())
        print(
            f"{name:7} {tally.trials:7,} {len(tally.failures):8,} {seconds:8.1f}  {FIGURES[name].title}{notes}",
            flush=True,
        )
        for failure in tally.failures[: asked.show]:
            print(f"        {failure}", flush=True)
        record.append(
            {
                "figure": name,
                "title": FIGURES[name].title,
                "seconds": round(seconds, 1),
                **dataclasses.asdict(tally),
            }
        )
    if asked.json:
        asked.json.write_text(
            json.dumps({"size": asked.size, "seed": asked.seed, "figures": record}, indent=1)
        )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

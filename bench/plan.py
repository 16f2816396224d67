"""How long `curriculum plan` takes as a whole process, and how much memory, by sources and by declared length."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

from bench.measure import Row, arguments, goal, in_turns, machine, process, save, show, table
from bench.projects import LENGTH, project

V11 = 1_000_000_000
"""Sequences of 2,048 tokens in 2T tokens, near enough."""


def main() -> None:
    given = arguments(__doc__)
    machine("pydantic", "PyYAML")
    cases = {f"{n} sources, 2T tokens": (n, V11) for n in ((3,) if given.toy else (3, 300))}
    cases |= {
        f"3 sources, 1e{power} sequences": (3, 10**power) for power in ((6, 12) if given.toy else range(6, 13, 2))
    }
    with tempfile.TemporaryDirectory() as root:
        peaks: dict[str, list[int]] = {}
        spent: dict[str, list[float]] = {}

        def planned(name: str) -> float:
            sources, sequences = cases[name]
            folder = Path(root) / f"{sources}-{sequences}"
            if not folder.exists():
                project(folder, sources=sources, sequences=sequences)
            done = process("-m", "curriculum", "plan", "variant", "--size", "full", cwd=folder)
            peaks.setdefault(name, []).append(done.peak)
            spent.setdefault(name, []).append(done.cpu)
            return done.wall

        imports = "import numpy, pydantic, yaml, typer, rich.table"
        rows = in_turns(
            {
                "limit: an interpreter with its libraries": lambda: process("-c", imports).wall,
                **{name: (lambda name=name: planned(name)) for name in cases},
            },
            given.turns,
        )
        for name, values in peaks.items():
            rows[name].more |= {"peak": f"{show(max(values))}B", "CPU": f"{show(statistics.median(spent[name]))}s"}
    title = f"curriculum plan, a trunk with a variant, sequences of {LENGTH} tokens, whole process"
    listed: list[Row] = list(rows.values())
    table(title, listed, "s", "limit: an interpreter with its libraries")
    for name in cases:
        if "2T" in name:
            goal(f"seconds, {name}", rows[name].median, 1.0, at_most=True, unit="s")
            goal(f"memory, {name}", max(peaks[name]), 150e6, at_most=True, unit="B")
    lengths = [row.median for name, row in rows.items() if "sequences" in name]
    goal("the slowest declared length by the fastest", max(lengths) / min(lengths), 1.25, at_most=True)
    save(given.json, {title: listed})


if __name__ == "__main__":
    main()

"""How long a decision takes: laws of 13 losses on shares of 17 sources in 85 runs, the programme and 200 resamples."""

from __future__ import annotations

import csv
import tempfile
from pathlib import Path

from bench.measure import ROOT, Row, arguments, goal, in_turns, machine, process, save, show, table

RUNS = ROOT / "tests/fixtures/studies/regmix"
PATTERNS = ("--share-columns", "train_the_pile_*", "--loss-columns", "metric/the_pile_*_val_loss")


def first_rows(folder: Path, number: int) -> list[str]:
    """The first runs of the public tables, as files for the command line."""
    words = []
    for option, name in (("--shares", "train_mixture_1m"), ("--losses", "train_pile_loss_1m")):
        lines = (RUNS / f"{name}.csv").read_text().splitlines()[: number + 1]
        path = folder / f"{name}-{number}.csv"
        path.write_text("\n".join(lines) + "\n")
        words += [option, str(path)]
    return [*words, *PATTERNS]


def domains() -> list[str]:
    with (RUNS / "train_pile_loss_1m.csv").open() as file:
        names = next(csv.reader(file))[1:]
    return [name.removeprefix("metric/the_pile_").removesuffix("_val_loss") for name in names]


def main() -> None:
    given = arguments(__doc__)
    machine("scipy")
    cases = (
        {"20 runs, 1 loss": (20, 1)} if given.toy else {"34 runs, 13 losses": (34, 13), "85 runs, 13 losses": (85, 13)}
    )
    with tempfile.TemporaryDirectory() as root:
        spent: dict[str, float] = {}

        def decided(name: str) -> float:
            runs, losses = cases[name]
            goals = [word for domain in domains()[:losses] for word in ("--lower", domain)]
            done = process("-m", "curriculum", "decide", *first_rows(Path(root), runs), *goals)
            spent[name] = done.cpu
            return done.wall

        imports = "import numpy, scipy.optimize, scipy.stats, typer, rich.table"
        rows = in_turns(
            {
                "limit: an interpreter with its libraries": lambda: process("-c", imports).wall,
                **{name: (lambda name=name: decided(name)) for name in cases},
            },
            given.turns,
        )
        for name, cpu in spent.items():
            rows[name].more |= {"CPU": f"{show(cpu)}s"}
    title = "curriculum decide, 17 sources, 200 resamples, whole process, one thread"
    listed: list[Row] = list(rows.values())
    table(title, listed, "s", "limit: an interpreter with its libraries")
    goal(f"seconds, {listed[-1].name}", listed[-1].median, 60.0, at_most=True, unit="s")
    save(given.json, {title: listed})


if __name__ == "__main__":
    main()

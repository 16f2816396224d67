"""How long the order takes: from nothing to the first batch at any step, draws a second, and the asking verbs."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.measure import Row, arguments, goal, in_turns, machine, process, save, show, table
from bench.projects import V11_STEPS, project
from curriculum.compiler.compile import compile_curriculum
from curriculum.config.project import Project
from curriculum.plan.stage import StagePlan

# What a training process does once its imports are up: read the plan, draw the step's windows.
COLD = """
import resource, sys, time
from pathlib import Path
from curriculum.plan.stage import StagePlan
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before, started = peak(), time.perf_counter()
draws = StagePlan.load(Path(sys.argv[1])).draws(int(sys.argv[2]))
print(time.perf_counter() - started, peak() - before, int(draws.window.sum()))
"""
# What a loader with a drawn order does: draw all of it, then look at its beginning.
SHUFFLED = """
import resource, sys, time
import torch
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before, started = peak(), time.perf_counter()
order = torch.utils.data.RandomSampler(range(int(sys.argv[1])), generator=torch.Generator().manual_seed(1))
batch = [next(iter(order))]
print(time.perf_counter() - started, peak() - before, batch[0])
"""


def shipped(root: Path) -> dict[str, Path]:
    """Plans of the shipped curriculum at full size, by the stage's name."""
    paths = {}
    for stage in compile_curriculum(Project.find(Path(__file__)), "v1.1", "full").stages:
        paths[stage.setting.stage] = root / f"{stage.setting.stage}.json"
        stage.plan.save(paths[stage.setting.stage])
    return paths


def cold_starts(root: Path, toy: bool, turns: int) -> list[Row]:
    paths = shipped(root)
    plans = [(path, StagePlan.load(path)) for path in paths.values()]
    steps = (0, V11_STEPS - 1) if toy else (0, 1, 100_000, 900_000, V11_STEPS - 1)
    growth: dict[str, list[int]] = {}

    def start(name: str, code: str, *words: str) -> float:
        seconds, grown, _ = process("-c", code, *words).output.split()[-3:]
        growth.setdefault(name, []).append(int(float(grown)))
        return float(seconds)

    cases: dict[str, Any] = {}
    for step in steps:
        path = next(path for path, plan in plans if plan.first_step <= step < plan.stop_step)
        name = f"step {step:,} of 2T tokens"
        cases[name] = lambda name=name, path=path, step=step: start(name, COLD, str(path), str(step))
    for power in (5,) if toy else (6, 7, 8):
        name = f"torch RandomSampler, 1e{power} sequences"
        cases[name] = lambda name=name, power=power: start(name, SHUFFLED, str(10**power))
    rows = in_turns(cases, turns)
    for name, values in growth.items():
        rows[name].more["memory"] = f"+{show(max(values))}B"
    return list(rows.values())


def rates(root: Path, toy: bool, turns: int) -> list[Row]:
    """Sequences drawn a second, source, item, pass and window, for 4,096 at once and for one batch of 16."""
    plans = {}
    for sources in (3,) if toy else (3, 300):
        folder = project(root / f"rates-{sources}", sources=sources, sequences=1_000_000_000)
        compiled = compile_curriculum(Project.find(folder), "variant", "full")
        plans[sources] = compiled.stages[-2].plan

    def drawn(plan: StagePlan, steps: int, slots: int) -> float:
        mine = np.arange(slots)
        first = plan.first_step + plan.steps // 2
        turns = max(1, (1 << (12 if toy else 16)) // (steps * slots))
        started = time.thread_time()
        for turn in range(turns):
            plan.draws_of(first + turn * steps, first + (turn + 1) * steps, lambda batch: mine)
        return turns * steps * slots / (time.thread_time() - started)

    def shuffled() -> float:
        count = 1 << (16 if toy else 22)
        started = time.thread_time()
        np.random.default_rng(1).permutation(count)
        return count / (time.thread_time() - started)

    limit = "limit: numpy draws a whole order at once"
    cases: dict[str, Any] = {limit: shuffled}
    for sources, plan in plans.items():
        cases[f"{sources} sources, 4,096 at once"] = lambda plan=plan: drawn(plan, 256, 16)
        cases[f"{sources} sources, 16 at once"] = lambda plan=plan: drawn(plan, 1, 16)
    return list(in_turns(cases, turns).values())


def verbs(toy: bool, turns: int) -> list[Row]:
    steps = (V11_STEPS - 1,) if toy else (0, 500_000, V11_STEPS - 1)
    options = ("--size", "full", "--json")
    cases: dict[str, Any] = {"limit: curriculum --help": lambda: process("-m", "curriculum", "--help").wall}
    for step in steps:
        words = ("-m", "curriculum", "batch", "v1.1", "--step", str(step), *options)
        cases[f"batch --step {step:,}"] = lambda words=words: process(*words).wall
    for at in (0, 200_000_000):
        words = ("-m", "curriculum", "trace", "v1.1", "--source", "slimpajama", "--range", f"{at}:{at + 4}", *options)
        cases[f"trace --range {at:,}:+4"] = lambda words=words: process(*words).wall
    return list(in_turns(cases, turns).values())


def main() -> None:
    given = arguments(__doc__)
    machine("torch")
    with tempfile.TemporaryDirectory() as root:
        cold = cold_starts(Path(root), given.toy, given.turns)
        draws = rates(Path(root), given.toy, given.turns)
    commands = verbs(given.toy, given.turns)
    titles = {
        "from imports to the first batch": (cold, "s", cold[0].name),
        "sequences drawn a CPU second": (draws, "/s", draws[0].name),
        "the asking verbs, whole process": (commands, "s", commands[0].name),
    }
    for title, (rows, unit, against) in titles.items():
        table(title, rows, unit, against)
    ours = [row for row in cold if "2T" in row.name]
    goal("seconds to a first batch, the slowest step", max(r.median for r in ours), 0.05, at_most=True, unit="s")
    goal("resuming by starting", max(r.median for r in ours) / ours[0].median, 1.5, at_most=True)
    goal("seconds of a verb, the slowest", max(r.median for r in commands[1:]), 0.5, at_most=True, unit="s")
    save(given.json, {title: rows for title, (rows, _, _) in titles.items()})


if __name__ == "__main__":
    main()

"""R1: SIGKILL at any instant. R14: SIGTERM with five seconds of grace. The run ends in the same bits, unasked."""

from __future__ import annotations

import contextlib
import importlib
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from curriculum.artifacts.stage_folder import StageFolder
from tests.fault_injection import world
from tests.fault_injection.figures import Case, Tally, figure, mutated

# (name, module, function, whether SIGKILL comes before or after the call); each is met several times in a run
SEAMS = (
    ("a plan is about to be written", "curriculum.plan.stage.StagePlan", "save", "before"),
    ("the first step", "runner.train.loop", "forward_backward", "before"),
    ("after a step's update", "runner.train.loop", "count", "after"),
    ("a save begins", "curriculum.artifacts.checkpoints", "seal", "before"),
    ("a save is sealed", "curriculum.artifacts.checkpoints", "seal", "after"),
    ("a checkpoint is about to appear", "curriculum.fs", "publish", "before"),
    ("a checkpoint has appeared", "curriculum.fs", "publish", "after"),
    ("a line of the ledger is about to come", "curriculum.artifacts.ledger", "append", "before"),
    ("a line of the ledger has come", "curriculum.artifacts.ledger", "append", "after"),
    ("an old checkpoint was set aside", "curriculum.fs", "set_aside", "after"),
    ("an evaluation is about to be written", "curriculum.artifacts.evaluations", "write_sets", "before"),
    ("an evaluation was written", "curriculum.artifacts.evaluations", "write_sets", "after"),
    ("metrics are cut back", "curriculum.artifacts.ledger", "cut_back", "after"),
    ("leftovers are swept", "curriculum.artifacts.checkpoints", "sweep", "before"),
    ("a job file was written", "curriculum.artifacts.jobs", "save", "after"),
)
# A run of many kills that meets fewer seams does not do what it says.
SEAMS_WANTED, SEAMS_TRIALS = 12, 200


@contextlib.contextmanager
def seam(
    where: tuple[str, str, str, str], number: int, strike: Callable[[], None] = lambda: os.killpg(0, signal.SIGKILL)
) -> Iterator[None]:
    """SIGKILL the process group, or `strike`, when the seam is met for the `number`-th time."""
    _, owner_name, function, when = where
    try:
        owner: Any = importlib.import_module(owner_name)
    except ModuleNotFoundError:
        module, _, cls = owner_name.rpartition(".")
        owner = getattr(importlib.import_module(module), cls)
    real = getattr(owner, function)
    met = 0

    def standing_in(*args: Any, **kwargs: Any) -> Any:
        nonlocal met
        met += 1
        if met == number and when == "before":
            strike()
        result = real(*args, **kwargs)
        if met == number and when == "after":
            strike()
        return result

    setattr(owner, function, standing_in)
    try:
        yield
    finally:
        setattr(owner, function, real)


def until_done(
    root: Path, log: Path, draw: random.Random, most: int, seconds: float
) -> tuple[int, str, dict[str, int]]:
    """Start again and again, each time killed somewhere, at most `most` times; kills, what went wrong, seams hit."""
    kills, at_seam = 0, dict[str, int]()
    while True:
        aimed = draw.choice(SEAMS) if draw.random() < 0.6 else None
        number = draw.randint(1, 3)

        def work(aimed: Any = aimed, number: int = number, kills: int = kills) -> int:
            with seam(aimed, number) if aimed and kills < most else contextlib.nullcontext():
                return int(world.run(root).stopped)

        child = world.fork(work, log)
        wait = draw.uniform(0.0, seconds) if aimed is None and kills < most else 120.0
        try:
            code = child.wait(wait)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            code = child.wait(30)
            if wait == 120.0:
                return kills, "it hung", at_seam
        if code == 0:
            return kills, "", at_seam
        if code != -signal.SIGKILL:
            return kills, f"exit code {code}: {log.read_text()[-600:]}", at_seam
        kills += 1
        if aimed:
            at_seam[aimed[0]] = at_seam.get(aimed[0], 0) + 1


@figure("R1", "SIGKILL at random instants and named seams until the run is through: bits of an undisturbed run")
def kill_loop(case: Case, tally: Tally) -> None:
    wanted = case.count(4, 500, 10_000)
    undisturbed = world.outcome(world.finished())
    runs = 0
    at_seams: dict[str, int] = {}
    with world.forking():
        began = time.monotonic()
        seconds = _length(case.folder / "timed")
        while tally.trials < wanted:
            runs += 1
            root = world.copy(case.folder / "run", runs=False)
            log = case.folder / f"log-{runs}"
            kills, wrong, met = until_done(root, log, case.draw("R1", runs), 12, seconds)
            for name, times in met.items():
                at_seams[name] = at_seams.get(name, 0) + times
            if not wrong:
                wrong = world.difference(undisturbed, world.outcome(root))
            tally.trials += kills
            if wrong:
                tally.wrong(f"run {runs} after {kills} kills: {wrong}")
    tally.notes["runs"] = runs
    tally.notes["kills a minute"] = round(60 * tally.trials / (time.monotonic() - began))
    tally.notes["seams met"] = f"{len(at_seams)} of {len(SEAMS)}"
    if tally.trials >= SEAMS_TRIALS and len(at_seams) < SEAMS_WANTED:
        tally.wrong(f"only {len(at_seams)} seams were met in {tally.trials} kills: {sorted(at_seams)}")


def _length(root: Path) -> float:
    """Seconds that an undisturbed run takes now."""
    world.copy(root, runs=False)
    began = time.monotonic()
    world.fork(lambda: int(world.run(root).stopped)).wait(120)
    return time.monotonic() - began


@figure("R14", "SIGTERM at random instants with 5 s of grace: saved, gone in time, and the same bits in the end")
def preempted(case: Case, tally: Tally) -> None:
    from curriculum.artifacts import checkpoints, ledger

    wanted = case.count(2, 100, 2000)
    undisturbed = world.outcome(world.finished())
    runs, latest = 0, 0.0
    with world.forking():
        seconds = _length(case.folder / "timed")
        while tally.trials < wanted:
            runs += 1
            draw = case.draw("R14", runs)
            root = world.copy(case.folder / "run", runs=False)
            log = case.folder / "log"
            for _ in range(8):
                child = world.fork(lambda root=root: 7 if world.run(root).stopped else 0, log)
                try:
                    code = child.wait(draw.uniform(0.02, seconds))
                except TimeoutError:
                    asked = time.monotonic()
                    os.kill(child.pid, signal.SIGTERM)
                    try:
                        # in CI among other tests the clock is not judged
                        code = child.wait(5.0 if case.size != "smoke" else 60.0)
                    except TimeoutError:
                        os.killpg(child.pid, signal.SIGKILL)
                        code = child.wait(30)
                        tally.wrong(f"run {runs}: not gone 5 s after SIGTERM")
                        break
                    latest = max(latest, time.monotonic() - asked)
                    if code not in (0, 7, -signal.SIGTERM):
                        tally.wrong(f"run {runs}: exit code {code}: {log.read_text()[-300:]}")
                        break
                    wrong = "" if code != 7 else _saved(root)
                    tally.trial(f"run {runs}: {wrong}", not wrong)
                if code == 0:
                    break
            if code != 0:
                world.fork(lambda root=root: int(world.run(root).stopped), log).wait(120)
            for name, stage_name in world.STAGES:
                folder = StageFolder(world.stage(root, name, stage_name))
                for found in checkpoints.list_checkpoints(folder):
                    checkpoints.verify(found.path)
            if wrong := world.difference(_apart_from_stops(undisturbed), _apart_from_stops(world.outcome(root))):
                tally.wrong(f"run {runs}: {wrong}")
            # a stop adds lines of its own to the ledger, and takes none away
            for name, stage_name in world.STAGES:
                lines = ledger.read(StageFolder(world.stage(root, name, stage_name)))
                expected = ledger.read(StageFolder(world.stage(world.finished(), name, stage_name)))
                if any(entry not in lines for entry in expected):
                    tally.wrong(f"run {runs}: the ledger of {name}/{stage_name} lacks a line")
    tally.notes["slowest, seconds"] = round(latest, 2)


def _apart_from_stops(outcome: dict[str, Any]) -> dict[str, Any]:
    """What a run ends in without what a stop on request adds: a line of the ledger, another checkpoint kept."""
    stops = ("ledger", "kept")
    return {name: {k: v for k, v in stage.items() if k not in stops} for name, stage in outcome.items()}


def _saved(root: Path) -> str:
    """What is wrong with what a stopped run left: no step may be lost."""
    import json

    from curriculum.artifacts import checkpoints

    for name, stage_name in world.STAGES:
        folder = world.stage(root, name, stage_name)
        if (folder / "metrics.jsonl").exists() and not (folder / "DONE").exists():
            lines = (folder / "metrics.jsonl").read_text().splitlines()
            last = checkpoints.latest(StageFolder(folder))
            if lines and (last is None or json.loads(lines[-1])["position"] > last.position):
                return f"{name}/{stage_name} stopped without saving its last step"
    return ""


def unequal_with(change: tuple[str, str, str], case: Case, kills: int = 12) -> Callable[[], str]:
    """What a kill loop says of a mutant of the code, for the figure of seeded defects."""

    def look() -> str:
        module, old, new = change
        undisturbed = world.outcome(world.finished())
        with world.forking(), mutated(module, (old, new)):
            for number in range(4):
                root = world.copy(case.folder / "run", runs=False)
                _, wrong, _ = until_done(root, case.folder / "log", case.draw("mutant", number), kills, 1.0)
                if wrong or (wrong := world.difference(undisturbed, world.outcome(root))):
                    return wrong
        return ""

    return look

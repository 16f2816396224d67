"""R16: prune killed anywhere over random lineages: nothing that a run continues from is lost. R17: export killed."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from pathlib import Path

from curriculum import fs
from curriculum.artifacts import checkpoints
from curriculum.artifacts.stage_folder import StageFolder, checkpoint_name, stage_folders
from curriculum.compiler.compile import compile_curriculum
from curriculum.config.project import Project
from curriculum.runs import retention
from tests.fault_injection import protocols, small, world
from tests.fault_injection.disk import Disk, Killed, NthKills
from tests.fault_injection.figures import Case, Tally, figure
from tests.support.projects import write_small_project

EVERY = 1024
END = 12288
TRUNK = (("basic", 0, 6144), ("continual", 6144, 9216), ("cooldown", 9216, END))
Spot = tuple[str, str, int]


def drawn_project(root: Path, draw: random.Random) -> tuple[dict[str, tuple[str, int, int]], set[Spot]]:
    """Variants as (parent, from, until) by name, some of them branching from each other, and what must be kept."""
    variants: dict[str, tuple[str, int, int]] = {}
    for number in range(draw.randint(1, 4)):
        parent = draw.choice(["trunk", *variants])
        first = variants[parent][1] if parent in variants else 0
        last = variants[parent][2] if parent in variants else END
        branch = draw.randrange(first + EVERY, last + 1, EVERY)
        if branch >= END:
            branch = END - EVERY
        if branch <= first:
            continue
        until = draw.randrange(branch + EVERY, END + 1, EVERY)
        name = f"variant-{number}"
        variants[name] = (parent, branch, until)
        (root / f"stages/{name}.yaml").write_text(
            f"from: {parent}@{branch}\nstages:\n  - {{name: on, until: {until}, mixture: mixed, batch: 8 sequences}}\n"
        )
    return variants, {spot(variants, parent, branch) for parent, branch, _ in variants.values()}


def spot(variants: dict[str, tuple[str, int, int]], name: str, position: int) -> Spot:
    """Which stage's checkpoint `name@position` is."""
    while name in variants and position <= variants[name][1]:
        name = variants[name][0]
    if name in variants:
        return name, "on", position
    return name, next(stage for stage, first, last in TRUNK if first < position <= last), position


def put_runs(project: Project, name: str) -> None:
    for stage in compile_curriculum(project, name, "full").stages:
        folder = project.stage_folder("full", stage.setting.curriculum, stage.setting.stage)
        if (folder / "plan.json").exists():
            continue
        folder.mkdir(parents=True)
        stage.plan.save(folder / "plan.json")
        for position in range(EVERY, END + 1, EVERY):
            if stage.plan.start < position <= stage.plan.end:
                path = folder / "checkpoints" / checkpoint_name(0, position)
                path.mkdir(parents=True)
                fs.write_json(path / "state.json", {"history": stage.plan.history(position)})
                checkpoints.seal(path)


def missing(root: Path, wanted: set[Spot]) -> list[Spot]:
    lost = []
    for name, stage, position in sorted(wanted):
        path = root / "runs/full" / name / stage / "checkpoints" / checkpoint_name(0, position)
        try:
            checkpoints.verify(path)
        except Exception:
            lost.append((name, stage, position))
    return lost


def everything(root: Path) -> list[Spot]:
    return [
        (folder.curriculum, folder.stage, found.position)
        for folder in stage_folders(root / "runs/full")
        for found in checkpoints.list_checkpoints(folder)
    ]


def _pruned(root: Path, kill_at: int | None, meanwhile: Spot | None) -> None:
    """Prune, SIGKILLed before the `kill_at`-th operation; somebody branches from `meanwhile` once it has looked."""
    verdicts = retention.survey(Project(root), "full")
    if meanwhile is not None:
        name, stage, position = meanwhile
        checkpoints.pin(StageFolder(root / "runs/full" / name / stage), position, "meanwhile")
    fault = NthKills(kill_at) if kill_at is not None else lambda n, call, path: None
    with contextlib.suppress(Killed), Disk(root, record=False, refuse=fault):
        retention.prune(verdicts)


@figure("R16", "random lineages, prune killed anywhere: every checkpoint that something continues from stays whole")
def graphs(case: Case, tally: Tally) -> None:
    deleted = 0
    for number in range(case.count(4, 2000, 100_000)):
        draw = case.draw("R16", number)
        root = write_small_project(case.folder / str(number), texts=False)
        variants, wanted = drawn_project(root, draw)
        started = {name for name in variants if draw.random() < 0.7}
        for name in ("trunk", *sorted(started)):
            put_runs(Project(root), name)
        for name in sorted(started):  # a started run's file may be gone: what it branched from is kept all the same
            if draw.random() < 0.2 and all(parent != name for parent, _, _ in variants.values()):
                (root / f"stages/{name}.yaml").unlink()
        before = everything(root)
        for _ in range(draw.randint(0, 2)):
            pinned = draw.choice(before)
            checkpoints.pin(StageFolder(root / "runs/full" / pinned[0] / pinned[1]), pinned[2], "another")
            wanted.add(pinned)
        wanted = {spot for spot in wanted if spot in before}
        wanted |= {max(s for s in before if s[:2] == stage) for stage in {s[:2] for s in before}}
        meanwhile = draw.choice(before) if draw.random() < 0.5 else None
        wanted |= {meanwhile} if meanwhile else set()
        _pruned(root, draw.randrange(1, 120), meanwhile)
        for folder in sorted(root.glob("runs/full/*/*")):
            checkpoints.sweep(StageFolder(folder))
        _pruned(root, None, None)
        lost = missing(root, wanted)
        deleted += len(before) - len(everything(root))
        tally.trial(f"lineage {number} lost {lost}", not lost)
        fs.remove(root)
    tally.notes["checkpoints deleted meanwhile"] = deleted


@figure("R17", "SIGKILL while exporting: the directory is absent or whole, and the same command makes it")
def exports(case: Case, tally: Tally) -> None:
    small.warmed()
    wanted = small.exported()
    small.save(case.folder / "checkpoint", 64)
    out, job = case.folder / "out", protocols.export_job(case.folder)

    def work() -> int:
        from runner.checkpoint import huggingface

        huggingface.export(job)
        return 0

    seconds = 60.0
    for _ in range(3):
        fs.remove(out)
        began = time.monotonic()
        assert world.fork(work, case.folder / "log").wait(60) == 0
        seconds = min(seconds, time.monotonic() - began)
    absent = 0
    for number in range(case.count(5, 50, 1000)):
        draw = case.draw("R17", number)
        fs.remove(out)
        child = world.fork(work, case.folder / "log")
        time.sleep(draw.uniform(0.0, seconds))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait(30)
        wrong = ""
        if out.exists():
            wrong = "" if protocols.files(out) == wanted else "killed, it left another directory"
        else:
            absent += 1
            code = world.fork(work, case.folder / "log").wait(60)
            if code or protocols.files(out) != wanted:
                wrong = f"the same command did not make it: {code}"
        tally.trial(f"export {number}: {wrong}", not wrong)
    tally.notes["absent after the kill"] = absent

"""R19: a long time of faults drawn at random, in one process that supervises, reads and verifies all the while."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from curriculum.artifacts import checkpoints
from curriculum.artifacts.stage_folder import StageFolder
from curriculum.config.project import Project
from curriculum.errors import CurriculumError
from curriculum.execution import run
from curriculum.execution.request import Listener
from curriculum.launchers import process as subprocess_launcher
from curriculum.runs.verify import verify
from tests.fault_injection import corruption, kills, world
from tests.fault_injection.disk import FAULTS, Disk, NthFails, NthIsShort
from tests.fault_injection.figures import Case, Tally, figure

GROWTH = 0.02
WARM = 12  # events until caches are filled and the allocator knows its sizes
SETTLED_BYTES = 4 << 20  # an allocator's own ups and downs


class Striker(Listener):
    """A listener that, at one of its ticks, sends the newest trainer a signal."""

    def __init__(self, trainers: list[Any], number: int, seconds: float) -> None:
        self._trainers, self._number = trainers, number
        self._due = time.monotonic() + seconds

    def tick(self) -> None:
        if self._trainers and time.monotonic() > self._due and self._trainers[-1].poll() is None:
            self._due = float("inf")
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._trainers[-1].pid, self._number)


class Soak:
    """One project that is trained, struck, spoilt, mended and trained again."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.root = case.folder / "run"
        self.trainers: list[Any] = []
        self.undisturbed = world.outcome(world.finished())
        self.rounds = 0

    def run(self, listener: Any = None) -> str:
        """`curriculum run` in this very process; what it said when it did not come to its end."""
        self.trainers.clear()
        request = world.request(self.root, listener or Listener())
        try:
            return "stopped" if run.run(request).stopped else ""
        except CurriculumError as error:
            return error.what

    def killed(self, draw: random.Random) -> str:
        self.run(Striker(self.trainers, signal.SIGKILL, draw.uniform(0.0, 1.5)))
        return ""

    def asked(self, draw: random.Random) -> str:
        self.run(Striker(self.trainers, signal.SIGTERM, draw.uniform(0.0, 1.5)))
        return ""

    def at_a_seam(self, draw: random.Random) -> str:
        mark, here = self.case.folder / "struck", os.getpid()
        mark.unlink(missing_ok=True)

        def strike() -> None:
            if os.getpid() != here and not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)

        with kills.seam(draw.choice(kills.SEAMS), draw.randint(1, 3), strike):
            self.run()
        return ""

    def refused_by_the_disk(self, draw: random.Random) -> str:
        mark, here = self.case.folder / "refused", os.getpid()
        mark.unlink(missing_ok=True)
        number = draw.randrange(1, 60)
        fault: Any = NthFails(number, draw.choice(sorted(FAULTS.values())))
        if draw.random() < 0.3:
            fault = NthIsShort(max(1, number // 3))

        def refuse(count: int, call: str, path: Path) -> str | None:
            if os.getpid() == here or mark.exists():
                return None
            try:
                said: str | None = fault(count, call, path)
            except OSError:
                mark.touch()
                raise
            return said

        with Disk(self.root / "runs", record=False, refuse=refuse):
            self.run()
        return ""

    def spoilt(self, draw: random.Random) -> str:
        """A file is spoilt: `verify` finds it, or it means the same; then it is put back."""
        if wrong := self.run():
            return f"it did not end: {wrong}"
        compiled, texts = world.compiled(self.root)
        # faults in what compiling reads are reported before anything is verified, as are those of a plan and a ledger
        found = [each for each in corruption.artefacts(self.root) if each.kind.startswith(("data", "checkpoint"))]
        artefact = draw.choice([each for each in found if each.path.stat().st_size])
        how = draw.choice((corruption.flip, *corruption.PAGE_FAULTS.values()))
        data = artefact.path.read_bytes()
        changed = how(data, draw)
        right = artefact.read()
        artefact.path.write_bytes(changed)
        try:
            noticed = bool(verify(Project(self.root), compiled, texts).wrong)
            noticed = noticed or changed == data or artefact.read() == right
        except CurriculumError:
            noticed = True
        finally:
            artefact.path.write_bytes(data)
        return "" if noticed else f"{how.__name__} in {artefact.kind} was not found"

    def sound(self) -> str:
        """Whether whatever bears a checkpoint's name is one, after every event."""
        for name, stage_name in world.STAGES:
            for found in checkpoints.list_checkpoints(StageFolder(world.stage(self.root, name, stage_name))):
                try:
                    checkpoints.verify(found.path)
                except CurriculumError as error:
                    return error.what
        return ""

    def finish(self) -> str:
        """Undisturbed to its end, and in an undisturbed run's bits; then the next round begins with an empty folder."""
        self.rounds += 1
        if wrong := self.run():
            return f"the same command did not end: {wrong}"
        mine = kills._apart_from_stops(world.outcome(self.root))
        wrong = world.difference(kills._apart_from_stops(self.undisturbed), mine)
        compiled, texts = world.compiled(self.root)
        return wrong or "; ".join(str(each) for each in verify(Project(self.root), compiled, texts).wrong)

    def renew(self) -> None:
        world.copy(self.root, runs=False)


EVENTS: dict[str, Callable[[Soak, random.Random], str]] = {
    "SIGKILL at an instant": Soak.killed,
    "SIGKILL at a seam": Soak.at_a_seam,
    "SIGTERM": Soak.asked,
    "the disk refuses": Soak.refused_by_the_disk,
    "a file is spoilt": Soak.spoilt,
}


@contextlib.contextmanager
def _watching(trainers: list[Any]) -> Iterator[None]:
    begin = subprocess_launcher.begin

    def watched(*args: Any, **kwargs: Any) -> Any:
        trainers.append(begin(*args, **kwargs))
        return trainers[-1]

    subprocess_launcher.begin = watched
    try:
        yield
    finally:
        subprocess_launcher.begin = begin


def memory() -> int:
    """Bytes that are this process's own and in memory."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Private_Dirty:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the system does not tell")


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@figure("R19", "faults drawn at random for a long time: every invariant after each, no memory or descriptor lost")
def soak(case: Case, tally: Tally) -> None:
    events = case.count(4, 60, 1000)
    seconds = {"smoke": 30.0, "gate": 120.0, "long": 3600.0}[case.size]
    soaked = Soak(case)
    counted: dict[str, int] = {}
    before: tuple[int, int] | None = None
    began = time.monotonic()
    with world.forking(), _watching(soaked.trainers):
        soaked.renew()
        number = 0
        while number < events and (number <= WARM or time.monotonic() - began < seconds):
            draw = case.draw("R19", number)
            what = sorted(EVENTS)[draw.randrange(len(EVENTS))]
            wrong = EVENTS[what](soaked, draw) or soaked.sound()
            counted[what] = counted.get(what, 0) + 1
            if not wrong and draw.random() < 0.25:
                wrong = soaked.finish()
                soaked.renew()
            tally.trial(f"event {number}, {what}: {wrong}", not wrong)
            if wrong:
                soaked.renew()
            number += 1
            if number == WARM:
                before = memory(), descriptors()
        wrong = soaked.finish()
        tally.trial(f"the last round: {wrong}", not wrong)
    if before is not None:
        grown, left = memory() - before[0], descriptors() - before[1]
        tally.notes["memory growth"] = f"{grown / before[0]:.2%} of {before[0] >> 20} MiB"
        tally.notes["descriptors more than before"] = left
        tally.trial(f"{grown:,} bytes more memory", grown < max(GROWTH * before[0], SETTLED_BYTES))
        tally.trial(f"{left} descriptors more", left <= 0)
    tally.notes["events"] = ", ".join(f"{what} x{count}" for what, count in sorted(counted.items()))
    tally.notes["rounds to the end"] = soaked.rounds

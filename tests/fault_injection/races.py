"""R13: two starts in one folder: one winner, and the other is refused at once; what was killed needs no unlocking."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from pathlib import Path

from tests.fault_injection import world
from tests.fault_injection.figures import Case, Tally, figure

LOSER_SECONDS = 2.0
HOLDER = re.compile(r"held by another\s+process: pid (\d+) on|`[^`]+`\s+is being written by another")


def _raced(root: Path, folder: Path, starters: int) -> tuple[str, float]:
    """Start together on a barrier; what went wrong, and how long the slowest loser took to say so."""
    logs = [folder / f"log-{number}" for number in range(starters)]
    for log in logs:
        log.unlink(missing_ok=True)
    reader, writer = os.pipe()

    def work() -> int:
        os.close(writer)
        os.read(reader, 1)  # returns for all when the last writing end is closed
        return 7 if world.run(root).stopped else 0

    children = [world.fork(work, log) for log in logs]
    time.sleep(0.02)
    os.close(writer)
    began = time.monotonic()
    codes: dict[int, int] = {}
    ended: dict[int, float] = {}
    while len(codes) < starters:
        for number, child in enumerate(children):
            if number not in codes and (code := child.poll()) is not None:
                codes[number], ended[number] = code, time.monotonic() - began
        time.sleep(0.002)
        if time.monotonic() - began > 120:
            for child in children:
                os.killpg(child.pid, signal.SIGKILL)
            return "it hung", 0.0
    os.close(reader)
    # who comes after the winner finds everything done, and so ends well too
    if 0 not in codes.values():
        return f"neither won: {codes}, {logs[0].read_text()[-400:]}", 0.0
    slowest = 0.0
    for number, code in codes.items():
        if code == 0:
            continue
        said = " ".join(logs[number].read_text().split())
        if code != 2 or not HOLDER.search(said):
            return f"the loser ended with {code}: {said[-400:]}", slowest
        slowest = max(slowest, ended[number])
    return "", slowest


@figure("R13", "two starts in one folder: one winner, the loser names the holder; after SIGKILL no unlocking")
def races(case: Case, tally: Tally) -> None:
    undisturbed = world.outcome(world.finished())
    latest = 0.0
    with world.forking():
        for number in range(case.count(2, 100, 2000)):
            draw = case.draw("R13", number)
            root = world.copy(case.folder / "run", runs=number % 5 != 0)
            shutil.rmtree(world.stage(root, "variant", "cooldown"), ignore_errors=True)
            if number % 2:  # killed first, somewhere, so that locks and pids of the dead lie about
                child = world.fork(lambda root=root: int(world.run(root).stopped), case.folder / "killed")
                time.sleep(draw.uniform(0.0, 0.6))
                os.killpg(child.pid, signal.SIGKILL)
                child.wait(30)
            wrong, slowest = _raced(root, case.folder, 2)
            latest = max(latest, slowest)
            if not wrong and slowest > LOSER_SECONDS and case.size != "smoke":
                wrong = f"the loser took {slowest:.1f} s to say so"
            if not wrong:
                wrong = world.difference(undisturbed, world.outcome(root))
            tally.trial(f"race {number}: {wrong}", not wrong)
    tally.notes["slowest loser, seconds"] = round(latest, 2)

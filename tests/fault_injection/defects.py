"""R20: known defects put into the code one at a time; a fault test that none of them makes fail proves nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from curriculum.errors import CurriculumError
from tests.fault_injection import kills, world
from tests.fault_injection.figures import FIGURES, Case, Tally, figure, mutated


@dataclass(frozen=True)
class Defect:
    """A row of the catalogue of faults that really hit runs, as a change of our code, and the figure it must fail."""

    what: str
    module: str
    old: str
    new: str
    figure: str


DEFECTS = (
    Defect(
        "retention keeps the oldest checkpoints",
        "curriculum.artifacts.checkpoints",
        "    dropped = {*passing[: -keep_last or None]}\n",
        "    dropped = {*passing[keep_last:]}\n",
        "R1",
    ),
    Defect(
        "the ledger is not cut back to the checkpoint that is gone on from",
        "curriculum.stream.resume",
        "    for path in (folder.ledger, folder.metrics, folder.events):\n",
        "    for path in (folder.metrics, folder.events):\n",
        "R1",
    ),
    Defect(
        "the optimizer's step is lost on resuming",
        "runner.checkpoint.tensors",
        'values["step"].fill_(float(state["adam_step"]))',
        'values["step"].fill_(0.0)',
        "R1",
    ),
    Defect(
        "the moments are lost on resuming",
        "runner.checkpoint.tensors",
        "        for key, tensor in tensors.items():\n            stored = _stored_as(key, weights, index)\n",
        '        for key, tensor in tensors.items():\n            if not key.startswith("model."):\n'
        "                continue\n            stored = _stored_as(key, weights, index)\n",
        "R1",
    ),
    Defect(
        "a resumed run goes on one step too far",
        "curriculum.stream.stage",
        "        self.step = job.resume.step\n",
        '        self.step = job.resume.step + (job.resume.origin == "own")\n',
        "R1",
    ),
    Defect(
        "the count of what was read restarts",
        "runner.train.state",
        '        windows={**dict.fromkeys(plan.names, 0), **value["windows"]},\n',
        "        windows=dict.fromkeys(plan.names, 0),\n",
        "R1",
    ),
    Defect(
        "metrics before the kill are kept twice",
        "curriculum.artifacts.ledger",
        '        kept = [line for line in lines if line["position"] <= position]\n',
        "        kept = lines\n",
        "R1",
    ),
    Defect(
        "a stop does not save", "runner.train.loop", "        if reason is None:\n            self.save()\n", "", "R14"
    ),
    Defect(
        "digests of a checkpoint's files are not compared",
        "curriculum.artifacts.checkpoints",
        "    if digest != recorded_digest:\n",
        "    if False:\n",
        "R3",
    ),
    Defect(
        "seals of lines and manifests are not compared",
        "curriculum.fs.digests",
        "    if digest(plain) != value[SEAL]:\n",
        "    if False:\n",
        "R3",
    ),
    Defect(
        "NaN and Inf are saved",
        "runner.checkpoint.rank_file",
        "            if not np.isfinite(numbers).all():\n",
        "            if False:\n",
        "R15",
    ),
    Defect(
        "pins are not looked at when a checkpoint is deleted",
        "curriculum.artifacts.checkpoints",
        "    return {position: names for position, names in pins.items() if names}\n",
        "    return {}\n",
        "R16",
    ),
    Defect(
        "the lock is written and not taken",
        "curriculum.fs.locks",
        "                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)\n                break\n",
        "                break\n",
        "R13",
    ),
    Defect(
        "an export is built under its own name",
        "runner.checkpoint.huggingface",
        "        with fs.build_directory(output) as folder:\n            if job.model:\n",
        "        output.mkdir(exist_ok=True)\n        folder = output\n        if True:\n            if job.model:\n",
        "R17",
    ),
    Defect(
        "the order meets every other window twice",
        "curriculum.plan.arrays",
        "    is_array = isinstance(index, np.ndarray) or result.ndim > 0\n",
        "    is_array = isinstance(index, np.ndarray) or result.ndim > 0\n    result = result - result % 2\n",
        "R6",
    ),
    Defect(
        "tags are passed over",
        "curriculum.config.yaml",
        "        if event.tag is not None:\n",
        "        if False:\n",
        "R10",
    ),
    Defect(
        "a key may stand twice, the last one counts",
        "curriculum.config.yaml",
        "        if key in mapping:\n",
        "        if False:\n",
        "R11",
    ),
)


TIMES = {"R14": 6.0, "R15": 3.0, "R17": 6.0}  # where a trial may be drawn that does no harm


def smoke(defect: Defect, case: Case) -> str:
    """What the figure says at its smallest size; an empty string when nothing."""
    tally = Tally()
    FIGURES[defect.figure].run(dataclasses.replace(case, size="smoke", times=TIMES.get(defect.figure, 1.0)), tally)
    return tally.failures[0] if tally.failures else ""


def killed_runs(defect: Defect, case: Case) -> str:
    """What a kill loop says: a run that is not in an undisturbed run's bits in the end, or does not end."""
    undisturbed = world.outcome(world.finished())
    with world.forking():
        for number in range(6):
            root = world.copy(case.folder / "run", runs=False)
            _, wrong, _ = kills.until_done(root, case.folder / "log", case.draw("mutant", number), 8, 1.0)
            if wrong or (wrong := world.difference(undisturbed, world.outcome(root))):
                return wrong
    return ""


LOOKS: dict[str, Callable[[Defect, Case], str]] = {"R1": killed_runs}


@figure("R20", "known defects seeded in the code, one at a time: each makes a figure of these fail")
def seeded(case: Case, tally: Tally) -> None:
    world.finished()  # made by the sound code, before any defect
    chosen = DEFECTS if case.size != "smoke" else [d for d in DEFECTS if d.figure in ("R3", "R11", "R6", "R10")]
    for defect in chosen:
        with mutated(defect.module, (defect.old, defect.new)):
            try:
                caught = LOOKS.get(defect.figure, smoke)(defect, case)
            except (CurriculumError, AssertionError) as error:
                caught = str(error)
        tally.trial(f"not noticed: {defect.what}", bool(caught))
        tally.notes[defect.what] = caught.split("\n")[0][:90]

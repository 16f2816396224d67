"""R15: NaN, infinity and jumps in gradients, weights and moments: no checkpoint that holds them is ever published."""

from __future__ import annotations

import contextlib
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from curriculum.artifacts.stage_folder import StageFolder
from tests.fault_injection import world
from tests.fault_injection.figures import Case, Tally, figure

BAD = (float("nan"), float("inf"), float("-inf"))


def _gradient(gradients: Any, draw: random.Random) -> None:
    gradient = draw.choice(gradients)
    gradient.view(-1)[draw.randrange(gradient.numel())] = draw.choice(BAD)


def _jump(gradients: Any, draw: random.Random) -> None:
    for gradient in gradients:
        gradient.mul_(1e4)


def _weight(optimizer: Any, draw: random.Random) -> None:
    import torch

    parameter = draw.choice(list(optimizer.state))
    with torch.no_grad():
        parameter.view(-1)[draw.randrange(parameter.numel())] = draw.choice(BAD)


def _moment(optimizer: Any, draw: random.Random) -> None:
    values = draw.choice(list(optimizer.state.values()))
    moment = values[draw.choice(("exp_avg", "exp_avg_sq"))]
    moment.view(-1)[draw.randrange(moment.numel())] = draw.choice(BAD)


# What is spoilt, at which call of the loop, and whether the run must end in an undisturbed run's bits once the
# cause is gone. (After a skipped step, or a clipped one, it goes on with other weights, as it should.)
KINDS: dict[str, tuple[str, Callable[..., None], bool]] = {
    "a gradient": ("gradient", _gradient, False),
    "a gradient ten thousand times as large": ("gradient", _jump, False),
    "a weight": ("state", _weight, True),
    "a moment": ("state", _moment, True),
    "every gradient": ("gradient", _gradient, False),
}


@contextlib.contextmanager
def spoiling(kind: str, at: int, mark: Path, seed: random.Random) -> Iterator[None]:
    """Spoil the `at`-th step that is taken, once over all attempts; with `every gradient`, each from there on."""
    from runner.train import step

    where, spoil, _ = KINDS[kind]
    norm_of, set_rate = step.total_norm, step.set_learning_rate
    met = 0

    def due() -> bool:
        nonlocal met
        met += 1
        if kind == "every gradient":
            return met >= at
        if met != at or mark.exists():
            return False
        mark.touch()
        return True

    def norm(gradients: Any) -> Any:
        if where == "gradient" and due():
            spoil(gradients, seed)
        return norm_of(gradients)

    def rate(optimizer: Any, *rest: Any) -> None:
        set_rate(optimizer, *rest)
        if where == "state" and due():
            spoil(optimizer, seed)

    step.total_norm, step.set_learning_rate = norm, rate
    try:
        yield
    finally:
        step.total_norm, step.set_learning_rate = norm_of, set_rate


def bad_checkpoints(root: Path) -> list[str]:
    """Published checkpoints that hold a number which is none, or cannot be verified."""
    from safetensors.numpy import load_file

    from curriculum.artifacts import checkpoints

    bad = []
    for name, stage_name in world.STAGES:
        for found in checkpoints.list_checkpoints(StageFolder(world.stage(root, name, stage_name))):
            checkpoints.verify(found.path)
            for file in found.path.glob("*.safetensors"):
                bad += [
                    f"{name}/{stage_name} {found.name} {key}"
                    for key, tensor in load_file(file).items()
                    if not np.isfinite(tensor).all()
                ]
    return bad


@figure("R15", "NaN, infinity or a jump in gradients, weights or moments: no such checkpoint, the run continues")
def injected(case: Case, tally: Tally) -> None:
    undisturbed = world.outcome(world.finished())
    outcomes: dict[str, int] = {}
    with world.forking():
        for number in range(case.count(5, 100, 1000)):
            draw = case.draw("R15", number)
            kind = sorted(KINDS)[number % len(KINDS)]
            root = world.copy(case.folder / "run")
            for name in ("continual", "cooldown"):
                shutil.rmtree(world.stage(root, "variant", name))
            mark, at = case.folder / "mark", draw.randint(1, 12)
            mark.unlink(missing_ok=True)

            def work(kind: str = kind, at: int = at, root: Path = root, draw: random.Random = draw) -> int:
                with spoiling(kind, at, case.folder / "mark", draw):
                    return 7 if world.run(root).stopped else 0

            log = case.folder / "log"
            log.unlink(missing_ok=True)
            code = world.fork(work, log).wait(120)
            outcomes[f"{kind}: exit {code}"] = outcomes.get(f"{kind}: exit {code}", 0) + 1
            wrong = ""
            if bad := bad_checkpoints(root):
                wrong = f"published: {bad[:2]}"
            elif code not in (0, 1):
                wrong = f"exit code {code}: {log.read_text()[-300:]}"
            elif code == 1 and "finite" not in log.read_text():
                wrong = f"no clear message: {log.read_text()[-300:]}"
            elif (again := world.fork(lambda root=root: int(world.run(root).stopped), log).wait(120)) != 0:
                wrong = f"the same command did not go on: {again}, {log.read_text()[-300:]}"
            elif KINDS[kind][2]:
                wrong = world.difference(undisturbed, world.outcome(root))
            if not wrong and not mark.exists() and kind != "every gradient":
                wrong = "nothing was spoilt"
            tally.trial(f"{number}: {kind} at step {at}: {wrong}", not wrong)
    tally.notes["ended"] = ", ".join(f"{key} x{count}" for key, count in sorted(outcomes.items()))

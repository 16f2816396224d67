"""R7: a rank killed under torchrun. R8: a rank that hangs. R9: a rank whose copy of the state has parted."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import time
from pathlib import Path
from typing import Any

from curriculum.artifacts.stage_folder import Attempt
from curriculum.launchers.process import _descendants
from tests.fault_injection import small, world
from tests.fault_injection.figures import Case, Tally, figure

GONE_SECONDS, AGAIN_SECONDS, HANG_LIMIT = 5.0, 20.0, 4
RANKS = 2


def _ready(root: Path, processes: int = RANKS) -> Path:
    """A project whose variant has its last two stages before it, on a machine where a step may take 4 s.

    Its sums are canonical, so that one undisturbed rank tells which bits two must end in.
    """
    world.copy(root)
    for name in ("continual", "cooldown"):
        shutil.rmtree(world.stage(root, "variant", name))
    (root / "machines.yaml").write_text(
        f"local: {{launcher: torchrun, processes: {processes}, sharding: none, device: cpu, threads: 1, "
        f"micro_batch: 2, exactness: canonical, hang_limit: {HANG_LIMIT}}}\n"
    )
    return root


def _start(root: Path, log: Path) -> world.Forked:
    log.unlink(missing_ok=True)
    return world.fork(lambda: int(world.run(root).stopped), log)


def _runners(pid: int) -> dict[int, int]:
    """The process ids of the trainers below `pid`, by rank."""
    found = {}
    for below in _descendants(pid):
        try:
            words = Path(f"/proc/{below}/cmdline").read_bytes().split(b"\0")
            variables = Path(f"/proc/{below}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"torch.distributed.run" not in words:
            found |= {int(entry[5:]): below for entry in variables if entry.startswith(b"RANK=")}
    return found


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _steps(root: Path) -> int:
    total = 0
    for name in ("continual", "cooldown"):
        path = world.stage(root, "variant", name) / "metrics.jsonl"
        total += path.read_bytes().count(b"\n") if path.exists() else 0
    return total


def _attempts(root: Path) -> list[Path]:
    return sorted((world.stage(root, "variant", "continual") / "attempts").glob("*"))


def _until(condition: Any, seconds: float) -> float | None:
    """Seconds until `condition()` held; None when it did not."""
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        if condition():
            return time.monotonic() - began
        time.sleep(0.01)
    return None


def _wanted(attempt: Path) -> list[Path]:
    """What a rank that hung leaves in the folder of its attempt: the stacks of all, the account of their processes."""
    return [Attempt(attempt).processes, *(Attempt(attempt).stacks(rank) for rank in range(RANKS))]


def _struck(root: Path, log: Path, number: int, draw: random.Random) -> tuple[str, dict[str, float]]:
    """Send a signal to one rank in the midst of training; what went wrong, and how long each part took."""
    took: dict[str, float] = {}
    child = _start(root, log)
    try:
        if _until(lambda: _steps(root) >= 1 or child.poll() is not None, 120) is None or child.returncode is not None:
            return f"it did not begin: {log.read_text()[-300:]}", took
        struck = draw.randrange(RANKS)
        pids = _runners(child.pid)
        if struck not in pids or _steps(root) >= 11:
            return "too late", took
        os.kill(pids[struck], number)
        others = [pid for rank, pid in pids.items() if rank != struck]
        first = _attempts(root)[-1]
        if number == signal.SIGSTOP:
            stacks = first / f"stacks-rank{1 - struck}.txt"
            noticed = _until(lambda: stacks.stat().st_size > 0, HANG_LIMIT + 30)
            if noticed is None:
                return "no rank noticed", took
            took["noticed"] = noticed
            others = list(pids.values())
        gone = _until(lambda: not any(map(_alive, others)), 60)
        if gone is None:
            return "the others live on", took
        took["gone"] = gone
        if number == signal.SIGSTOP:
            lacking = [each for each in _wanted(first) if not each.exists() or not each.stat().st_size]
            if lacking:
                return f"nothing was written to {', '.join(path.name for path in lacking)}", took

        def again() -> bool:
            last = _attempts(root)[-1] / "rank0.log"
            return _attempts(root)[-1] != first and (last.parent / "environment.json").exists()

        back = _until(lambda: again() or child.poll() is not None, 120)
        if back is None:
            return "no rank trains again", took
        took["again"] = gone + back
        code = child.wait(240)
        return (f"exit code {code}: {log.read_text()[-400:]}" if code else ""), took
    finally:
        for pid in (child.pid, *_descendants(child.pid)):
            if child.returncode is None and _alive(pid):
                os.kill(pid, signal.SIGKILL)


def _bits(outcome: dict[str, Any]) -> dict[str, Any]:
    """What is the same on any number of ranks: DONE holds the digest of all weights and moments."""
    keys = ("DONE", "ledger", "metrics", "kept", "plan")
    return {name: {key: result[key] for key in keys} for name, result in outcome.items()}


def _measured(case: Case, tally: Tally, number: int, trials: int, limits: dict[str, float]) -> None:
    log = case.folder / "log"
    sound = _ready(case.folder / "sound", 1)
    with world.forking():
        code = _start(sound, log).wait(300)
    assert code == 0, log.read_text()
    undisturbed = _bits(world.outcome(sound))
    slowest: dict[str, float] = {}
    late = 0
    while tally.trials < trials:
        root = _ready(case.folder / "run")
        wrong, took = _struck(root, log, number, case.draw("R7", number, tally.trials + late))
        if wrong == "too late":
            late += 1
            assert late < 3 + trials, "every signal came too late"
            continue
        wrong = wrong or world.difference(undisturbed, _bits(world.outcome(root)))
        for what, limit in limits.items():
            slowest[what] = max(slowest.get(what, 0.0), took.get(what, 0.0))
            # times are judged where the machine is ours alone, not among other tests
            if not wrong and took.get(what, 0.0) > limit and case.size != "smoke":
                wrong = f"{what} after {took[what]:.1f} s"
        tally.trial(f"{tally.trials}: {wrong}", not wrong)
    tally.notes |= {f"slowest, {what}, seconds": round(value, 1) for what, value in slowest.items()}
    tally.notes["processors, load"] = f"{os.cpu_count()}, {os.getloadavg()[0]:.1f}"


@figure("R7", "SIGKILL of one of two ranks under torchrun: the other gone in 5 s, training again in 20 s, same bits")
def killed_rank(case: Case, tally: Tally) -> None:
    _measured(case, tally, signal.SIGKILL, case.count(1, 20, 500), {"gone": GONE_SECONDS, "again": AGAIN_SECONDS})


@figure("R8", "one of two ranks stopped (SIGSTOP): noticed at the limit, stacks saved, started again, same bits")
def hung_rank(case: Case, tally: Tally) -> None:
    limits = {"noticed": HANG_LIMIT + 1.0, "again": HANG_LIMIT + 1.0 + AGAIN_SECONDS}
    _measured(case, tally, signal.SIGSTOP, case.count(1, 3, 50), limits)


def _perturbed(rank: int, port: int, seed: int, trials: int, report: Path) -> int:
    """One of two ranks; in every trial one bit of one of them is turned, and both must say so."""
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(RANKS),
        "LOCAL_WORLD_SIZE": str(RANKS),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    import torch

    from curriculum.errors import RunFailed
    from curriculum.plan.model import ModelConfig
    from runner.model import attention
    from runner.model.init import initialise
    from runner.model.transformer import Transformer
    from runner.parallel import fsdp, replica_check
    from runner.parallel.ranks import join_ranks, leave_ranks, local_part
    from runner.train.optimizer import adamw

    ranks = join_ranks("cpu", 1)
    model = Transformer(ModelConfig.from_json(small.MODEL), attention.sdpa)
    initialise(model, 1)
    fsdp.apply(model, ranks, sharding="none", bf16=False, activation_checkpointing="none", compile_blocks=False)
    optimizer = adamw(model, small.NUMBERS)
    missed = []
    for number in range(trials):
        draw = random.Random(f"{seed}/{number}")
        replica_check.check(model, optimizer, ranks, number)  # no alarm without a cause
        parameter = draw.choice(list(model.parameters()))
        tensor = draw.choice((parameter, *(optimizer.state[parameter][key] for key in ("exp_avg", "exp_avg_sq"))))
        words = local_part(tensor.detach()).view(torch.int32).view(-1)
        at, bit = draw.randrange(len(words)), draw.randrange(31)
        if rank == draw.randrange(RANKS):
            words[at] ^= 1 << bit
            mine = True
        else:
            mine = False
        try:
            replica_check.check(model, optimizer, ranks, number)
            missed.append(number)
        except RunFailed:
            pass
        if mine:
            words[at] ^= 1 << bit
    report.write_text(json.dumps(missed))
    leave_ranks(ranks)
    return 0


@figure("R9", "one bit turned in one rank's weights or moments: every rank notices at the next look, no false alarm")
def perturbed_rank(case: Case, tally: Tally) -> None:
    import torch  # noqa: F401

    import runner.parallel.fsdp  # noqa: F401

    trials = case.count(10, 100, 1000)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    reports = [case.folder / f"rank{rank}" for rank in range(RANKS)]
    log = case.folder / "log"
    children = [
        world.fork(lambda rank=rank: _perturbed(rank, port, case.seed, trials, reports[rank]), log)
        for rank in range(RANKS)
    ]
    codes = [child.wait(120) for child in children]
    assert codes == [0] * RANKS, log.read_text()
    missed = {number for path in reports for number in json.loads(path.read_text())}
    for number in range(trials):
        tally.trial(f"perturbation {number} was not noticed on every rank", number not in missed)

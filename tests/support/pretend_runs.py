"""A run that looks trained, written in a moment: plans, metrics, ledger, evaluations, checkpoints, attempts."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

from curriculum import fs
from curriculum.artifacts import checkpoints, ledger
from curriculum.artifacts.stage_folder import StageFolder, checkpoint_name
from curriculum.compiler.compile import Compiled, CompiledStage, compile_curriculum
from curriculum.config.project import Project

ENVIRONMENT = {"device": "cpu", "micro_batch": 8, "ranks": 1, "torch": "2.13.0"}


def loss_at(position: int, stop: int) -> float:
    """A curve as losses have it, with a little noise that is the same each time."""
    return 3.0 + 3.0 * math.exp(-6 * position / stop) + 0.05 * math.sin(position * 12.9898)


def metrics_line(step: int, position: int, loss: float | str, batch: int = 8) -> str:
    return json.dumps(
        {
            "generation": 0,
            "step": step,
            "position": position,
            "loss": loss,
            "lr": 1e-3,
            "grad_norm": 1.0,
            "batch_sequences": batch,
            "tokens_per_second": 1000.0 + step % 7,
            "seconds": 0.25,
            "data_seconds": 0.01,
            "sources": {},
        }
    )


def pretend(
    root: Path, name: str, size: str = "full", *, part: float = 1.0, loss: Callable[[int, int], float] = loss_at
) -> Compiled:
    """Write the records that training `name` would leave, up to `part` of the last stage; returns the plans."""
    project = Project(root)
    compiled = compile_curriculum(project, name, size)
    for stage in compiled.stages:
        last = stage is compiled.stages[-1]
        folder = project.stage_folder(size, stage.setting.curriculum, stage.setting.stage)
        if not folder.exists():
            _write(folder, compiled, stage, part if last else 1.0, loss)
    return compiled


def _write(
    folder: Path, compiled: Compiled, stage: CompiledStage, part: float, loss: Callable[[int, int], float]
) -> None:
    plan, stop = stage.plan, compiled.stages[-1].stop
    steps = max(1, round(part * plan.steps))
    end = plan.position_after(plan.first_step + steps - 1)
    folder.mkdir(parents=True)
    plan.save(folder / "plan.json")
    lines = [
        metrics_line(step, plan.position_after(step), loss(plan.position_after(step), stop), plan.batch_sequences)
        for step in range(plan.first_step, plan.first_step + steps)
    ]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    for position in sorted({plan.start, (plan.start + end) // 2, end}):
        sets = {
            source: {"loss": nats, "tokens": 640, "windows": 20, "digest": "pretended", "per_window": [nats] * 20}
            for source in plan.sources
            for nats in (loss(position, stop) + len(source) / 10,)
        }
        record = {"generation": 0, "position": position, "step": 0, "sets": sets}
        fs.make_directory(folder / "evaluations")
        (folder / "evaluations" / f"{checkpoint_name(0, position)}.json").write_text(json.dumps(record))
    checkpoint = folder / "checkpoints" / checkpoint_name(0, end)
    checkpoint.mkdir(parents=True)
    (checkpoint / "state.json").write_text(json.dumps({"position": end, "nonfinite_steps": 2}))
    checkpoints.seal(checkpoint)
    ledger.append(
        StageFolder(folder),
        ledger.Entry(
            generation=0,
            position=end,
            step=plan.first_step + steps,
            checkpoint=checkpoint.name,
            fingerprint=plan.fingerprint,
            windows=plan.windows_read(end),
        ),
    )
    for number, outcome in (("0001", "stopped"), ("0002", "done")):
        attempt = folder / "attempts" / number
        attempt.mkdir(parents=True)
        (attempt / "job.json").write_text(json.dumps({"kind": "train"}))
        (attempt / "environment.json").write_text(json.dumps(ENVIRONMENT))
        (attempt / "outcome.json").write_text(json.dumps({"outcome": outcome, "position": end}))
    if end == plan.end:
        (folder / "DONE").write_text("")

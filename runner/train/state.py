"""What a run counts, as its checkpoints record it, and how it and the tensors are restored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from curriculum.artifacts import checkpoints
from curriculum.artifacts.jobs import TrainJob
from curriculum.errors import PlanError
from curriculum.plan.stage import StagePlan
from runner.checkpoint import tensors
from runner.model.transformer import Transformer
from runner.parallel.build import draw_weights
from runner.parallel.ranks import Ranks, local_part
from runner.train import ema
from runner.train.outliers import OutlierRule


@dataclass(slots=True)
class State:
    """What a run counts besides its clock, which is the stage's. `windows` are counted since the root.

    `outliers` knows the last gradient norms, where the plan asks for outlier steps to be skipped.
    """

    windows: dict[str, int] = field(default_factory=dict)
    nonfinite_steps: int = 0
    nonfinite_in_a_row: int = 0
    outlier_steps: int = 0
    outliers: OutlierRule | None = None

    def value(self) -> dict[str, Any]:
        """What it adds to the `state.json` of a checkpoint."""
        return {
            "windows": dict(sorted(self.windows.items())),
            "nonfinite_steps": self.nonfinite_steps,
            "nonfinite_in_a_row": self.nonfinite_in_a_row,
            **self._of_outliers(),
        }

    def _of_outliers(self) -> dict[str, Any]:
        """Absent where no outlier is skipped, as in the checkpoints of earlier versions."""
        if self.outliers is None:
            return {}
        return {"outlier_steps": self.outlier_steps, "gradient_norms": self.outliers.norms()}


def restore(
    plan: StagePlan, job: TrainJob, model: Transformer, optimizer: torch.optim.Optimizer, ranks: Ranks
) -> State:
    """The state of the checkpoint that the job resumes from, which the stage verified, or of initial weights, drawn."""
    resume = job.resume
    assert resume is not None
    if resume.folder is not None:
        value = tensors.load(Path(resume.folder), model, optimizer if resume.optimizer else None)
        if plan.average and resume.origin != "own":
            average(plan, [Path(path) for path in job.averages], model, ranks)
        if not resume.optimizer:
            ema.begin(optimizer, model.parameters())
        return _state(value, plan, ranks)
    draw_weights(model, plan.seed)
    ema.begin(optimizer, model.parameters())
    return _state({"windows": {}}, plan, ranks)


def average(plan: StagePlan, folders: Sequence[Path], model: Transformer, ranks: Ranks) -> None:
    """Set the model's weights to the average of the checkpoints `folders`, or of the moving averages that they keep, in
    the order of the plan's.

    Every weight is summed in fp64, one checkpoint after the other, and rounded once: the bits do not depend on the
    number of ranks. PlanError for a checkpoint of another history than the plan's, CheckpointError for a damaged one.
    """
    total = sum(member.weight for member in plan.average)
    sums = [torch.zeros_like(local_part(p), dtype=torch.float64) for p in model.parameters()]
    for member, folder in zip(plan.average, folders, strict=True):
        ranks.first_does(partial(checkpoints.verify, folder))
        state = tensors.load(folder, model, None, weights=ema.EMA if member.ema else "model")
        if state["history"] != member.fingerprint:
            raise PlanError(
                f"checkpoint `{folder.name}` is not the history that this average was planned of",
                hint="`curriculum plan` compiles it again; average under a new name if a member was changed",
            )
        for parameter, sum_ in zip(model.parameters(), sums, strict=True):
            sum_.add_(local_part(parameter).double(), alpha=member.weight)
    with torch.no_grad():
        for parameter, sum_ in zip(model.parameters(), sums, strict=True):
            local_part(parameter).copy_(sum_ / total)


def _state(value: Mapping[str, Any], plan: StagePlan, ranks: Ranks) -> State:
    rule = plan.optimizer.get("skip_outliers")
    return State(
        windows={**dict.fromkeys(plan.names, 0), **value["windows"]},
        nonfinite_steps=value.get("nonfinite_steps", 0),  # not counted by another trainer
        nonfinite_in_a_row=value.get("nonfinite_in_a_row", 0),
        outlier_steps=value.get("outlier_steps", 0),
        outliers=OutlierRule(rule, ranks.device, value.get("gradient_norms", ())) if rule else None,
    )

"""The state of a run between two steps, as checkpoints and the ledger record it, and its restoration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from curriculum.artifacts import checkpoints, ledger
from curriculum.artifacts.jobs import TrainJob
from curriculum.artifacts.stage_folder import checkpoint_name
from curriculum.errors import PlanError
from curriculum.plan.stage import StagePlan
from curriculum.stage.resume import check_history
from runner.checkpoint import tensors
from runner.model.transformer import Transformer
from runner.parallel.build import draw_weights
from runner.parallel.ranks import Ranks, local_part
from runner.train import ema
from runner.train.outliers import OutlierRule


@dataclass(slots=True)
class State:
    """The state of a run besides its tensors. `windows` are counted since the root.

    `outliers` knows the last gradient norms, where the plan asks for outlier steps to be skipped.
    `saved_at` is the position of this stage's newest checkpoint, published or being written.
    """

    step: int
    position: int
    windows: dict[str, int] = field(default_factory=dict)
    nonfinite_steps: int = 0
    nonfinite_in_a_row: int = 0
    outlier_steps: int = 0
    outliers: OutlierRule | None = None
    saved_at: int | None = None

    def value(self, plan: StagePlan, job: TrainJob, ranks: Ranks) -> dict[str, Any]:
        """The `state.json` of a checkpoint."""
        return {
            "generation": job.generation,
            "step": self.step,
            "position": self.position,
            "fingerprint": plan.fingerprint,
            "history": plan.history(self.position),
            "tokenizer": plan.tokenizer.get("digest"),
            "windows": dict(sorted(self.windows.items())),
            "nonfinite_steps": self.nonfinite_steps,
            "nonfinite_in_a_row": self.nonfinite_in_a_row,
            "ranks": ranks.size,
            **self._of_outliers(),
        }

    def _of_outliers(self) -> dict[str, Any]:
        """Absent where no outlier is skipped, as in the checkpoints of earlier versions."""
        if self.outliers is None:
            return {}
        return {"outlier_steps": self.outlier_steps, "gradient_norms": self.outliers.norms()}

    def entry(self, plan: StagePlan, job: TrainJob) -> ledger.Entry:
        """The ledger line of a checkpoint of this state."""
        return ledger.Entry(
            generation=job.generation,
            position=self.position,
            step=self.step,
            checkpoint=checkpoint_name(job.generation, self.position),
            fingerprint=plan.fingerprint,
            windows={name: count for name, count in sorted(self.windows.items()) if count},
        )


def restore(
    plan: StagePlan, job: TrainJob, model: Transformer, optimizer: torch.optim.Optimizer, ranks: Ranks
) -> State:
    """The state of the checkpoint that the job resumes from, loaded, or of the initial weights, drawn.

    CheckpointError when a checkpoint is damaged, PlanError when it has another history than the plan's.
    """
    resume = job.resume
    assert resume is not None
    if resume.folder is not None:
        folder, own = Path(resume.folder), resume.origin == "own"
        ranks.first_does(lambda: checkpoints.verify(folder))
        value = tensors.load(folder, model, optimizer if resume.optimizer else None)
        check_history(resume, plan, value)
        if plan.average and not own:
            average(plan, [Path(path) for path in job.averages], model, ranks)
        if not resume.optimizer:
            ema.begin(optimizer, model.parameters())
        return _state(value, plan, ranks, saved_at=value["position"] if own else None)
    draw_weights(model, plan.seed)
    ema.begin(optimizer, model.parameters())
    first = {"step": plan.first_step, "position": plan.start, "windows": {}}
    return _state(first | {"nonfinite_steps": 0, "nonfinite_in_a_row": 0}, plan, ranks)


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


def _state(value: Mapping[str, Any], plan: StagePlan, ranks: Ranks, saved_at: int | None = None) -> State:
    rule = plan.optimizer.get("skip_outliers")
    return State(
        step=value["step"],
        position=value["position"],
        windows={**dict.fromkeys(plan.names, 0), **value["windows"]},
        nonfinite_steps=value["nonfinite_steps"],
        nonfinite_in_a_row=value["nonfinite_in_a_row"],
        outlier_steps=value.get("outlier_steps", 0),
        outliers=OutlierRule(rule, ranks.device, value.get("gradient_norms", ())) if rule else None,
        saved_at=saved_at,
    )

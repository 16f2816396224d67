"""The `evaluate` job: held-out losses of a kept checkpoint, the same bits as the trainer's at that step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from curriculum.artifacts import checkpoints, evaluations
from curriculum.artifacts.job_process import StopFlag
from curriculum.artifacts.jobs import DONE, STOPPED, EvaluateJob
from curriculum.artifacts.stage_folder import StageFolder
from curriculum.errors import PlanError
from curriculum.plan.stage import StagePlan
from curriculum.stream.held_out import HeldOutSets
from runner.checkpoint import tensors
from runner.evaluate.held_out import evaluate
from runner.parallel import determinism
from runner.parallel.build import build, micro_batch
from runner.parallel.ranks import Ranks


def evaluate_checkpoint(job: EvaluateJob, ranks: Ranks, stop: StopFlag) -> dict[str, Any]:
    """Measure every set of the job that is not yet in the stage's `evaluations/`; returns the outcome.

    Each set is written as soon as it is measured: a stopped job resumes with the remaining ones.
    CheckpointError when the checkpoint is damaged, PlanError when it is another plan's.
    """
    plan = StagePlan.load(Path(job.plan))
    determinism.apply(job.machine, ranks)
    folder = Path(job.checkpoint)
    ranks.first_does(lambda: checkpoints.verify(folder))
    model = build(plan, job.machine, ranks)
    state = tensors.load(folder, model, None)
    if state["history"] != plan.history(state["position"]):
        raise PlanError(
            f"checkpoint `{folder.name}` was trained by another plan than this stage's",
            hint="`curriculum run` shows what changed; put it back, or compare under another name",
        )
    held_out = HeldOutSets(plan, job.held_out)
    stage, generation, position = StageFolder(Path(job.stage_folder)), state["generation"], state["position"]
    measured = ranks.agree(list(evaluations.read_sets(stage, generation, position)))
    micro = micro_batch(plan, job.machine.micro_batch, ranks)
    for name in [name for name in held_out.datasets if name not in measured]:
        if ranks.any(bool(stop)):
            return {"outcome": STOPPED, "position": position}
        results = evaluate(model, plan, held_out, [name], ranks, micro)
        if ranks.first:
            evaluations.write_sets(stage, generation, position, state["step"], results)
    ranks.wait()
    return {"outcome": DONE, "position": position}

"""Measures a kept checkpoint on held-out sets, to the same bits as the trainer would have when it stood there.

Apart from `evaluate`, which the loop itself reads: here the loop's model is built, loaded and asked.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from curriculum.artifacts import checkpoints
from curriculum.artifacts.evaluations import read_sets, write_sets
from curriculum.artifacts.job_process import StopFlag
from curriculum.artifacts.jobs import DONE, STOPPED, EvaluateJob
from curriculum.artifacts.stage_folder import StageFolder
from curriculum.errors import PlanError
from curriculum.plan.stage import StagePlan
from runner import dataloader
from runner.checkpoint import tensors
from runner.evaluate.held_out import HeldOutSets
from runner.model.forward import losses
from runner.parallel import determinism, fsdp
from runner.parallel.build import build, micro_batch
from runner.parallel.ranks import Ranks


def score(job: EvaluateJob, ranks: Ranks, stop: StopFlag) -> dict[str, Any]:
    """Measure every set of the job that is not yet in the stage's `evaluations/`; returns the outcome.

    Each set is written as soon as it is measured: a job that was stopped half-way goes on with the rest.
    CheckpointError when the checkpoint is damaged, PlanError when it is another plan's.
    """
    plan = StagePlan.load(Path(job.plan))
    determinism.apply(job.machine, ranks)
    folder = Path(job.checkpoint)
    if ranks.first:
        checkpoints.verify(folder)
    model, config = build(plan, job.machine, ranks)
    state = tensors.load(folder, model, None)
    if state["history"] != plan.history(state["position"]):
        raise PlanError(
            f"checkpoint `{folder.name}` was trained by another plan than this stage's",
            hint="`curriculum run` shows what changed; put it back, or compare under another name",
        )
    held_out = HeldOutSets(
        job.held_out,
        sequence_length=plan.sequence_length,
        vocab_size=config.vocab_size,
        tokenizer_digest=plan.tokenizer.get("digest"),
    )
    generation, position, step = state["generation"], state["position"], state["step"]
    stage_folder = StageFolder(Path(job.stage_folder))
    mark = dataloader.document_mark(plan)
    known = ranks.agree(list(read_sets(stage_folder, generation, position)))
    model.eval()
    for name in [name for name in held_out.sets if name not in known]:
        if ranks.any(bool(stop)):
            return {"outcome": STOPPED, "position": position}
        with torch.no_grad():
            results = held_out.measure(
                lambda tokens: losses(model, tokens, mark).sum(dim=1),
                names=[name],
                rank=ranks.rank,
                ranks=ranks.size,
                add=ranks.add,
                chunk=micro_batch(plan, job.machine.micro_batch, ranks),
                device=ranks.device,
            )
        fsdp.reshard(model)
        if ranks.first:
            write_sets(stage_folder, generation, position, step, results)
    ranks.wait()
    return {"outcome": DONE, "position": position}

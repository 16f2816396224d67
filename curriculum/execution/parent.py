"""The checkpoint that a stage starts from, in the form that its trainer reads: weights go from one trainer to another.

Another trainer's weights are read from its Hugging Face model (`layout: hf`), ours are offered to it as one.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from curriculum import fs
from curriculum.artifacts import checkpoints, huggingface, jobs
from curriculum.artifacts.job_process import StopFlag
from curriculum.artifacts.stage_folder import Attempt, StageFolder, new_attempt
from curriculum.errors import DataError
from curriculum.launchers.process import ProcessLauncher, default_threads
from curriculum.launchers.supervisor import supervise
from curriculum.plan.model import ModelConfig
from curriculum.plan.stage import StagePlan


def check_model(checkpoint: Path, plan: StagePlan) -> None:
    """DataError where the Hugging Face model in another trainer's checkpoint is not the plan's."""
    model = huggingface.read(checkpoints.hf_folder(checkpoint), with_tokenizer=False).model
    ours, theirs = ModelConfig.from_json(plan.model), ModelConfig.from_json(model)
    if ours != theirs:
        raise DataError(
            f"the model in checkpoint `{checkpoint.name}` is another than the plan's: {theirs}, the plan's is {ours}",
            hint="its trainer has to train the plan's `model`",
        )


def with_readable_parent(job: jobs.TrainJob, stop: StopFlag, note: Callable[[str], None]) -> jobs.TrainJob | None:
    """The job with a parent that its trainer reads, in `parent/` of the stage's folder if it has to be converted.

    None when it was stopped. `note` gets a line where another trainer than the parent's goes on. DataError where
    the parent's model is not the plan's.
    """
    folder = StageFolder(Path(job.stage_folder))
    if job.parent_checkpoint is None or checkpoints.latest(folder) is not None:
        return job
    parent = Path(job.parent_checkpoint)
    saved = checkpoints.trainer_of(parent)
    if (saved and saved[0]) == (job.trainer and job.trainer.name):
        return job
    note(f"of checkpoint `{parent.name}` the weights alone are taken: another trainer goes on with new optimizer state")
    if saved and job.trainer:  # both of `layout: hf`
        return job
    digest = fs.digest([checkpoints.weights_digest(parent), checkpoints.state(parent)])
    output = folder.parent / digest[:16]
    if not output.exists():
        attempt = new_attempt(folder.parent / "attempts")
        jobs.save(_conversion(job, parent, attempt, output), attempt.job)
        launcher = ProcessLauncher(1, default_threads(None, 1))
        if supervise(launcher, lambda: attempt, stop=stop)["outcome"] == jobs.STOPPED:
            return None
    return replace(job, parent_checkpoint=str(output))


def drop_converted(folder: StageFolder) -> None:
    """Remove a converted parent once the stage has a checkpoint of its own."""
    if folder.parent.exists() and checkpoints.latest(folder) is not None:
        fs.remove_tree(folder.parent)


def _conversion(job: jobs.TrainJob, parent: Path, attempt: Attempt, output: Path) -> jobs.ConvertJob | jobs.ExportJob:
    """The job that writes the parent's weights in the other form."""
    plan = StagePlan.load(Path(job.plan))
    state: dict[str, Any] = dict(checkpoints.state(parent))
    if job.trainer is None:
        check_model(parent, plan)
        del state["trainer"]
        state |= {"nonfinite_steps": 0, "nonfinite_in_a_row": 0}
        return jobs.ConvertJob(attempt_folder=str(attempt), checkpoint=str(parent), output=str(output), state=state)
    state |= {"trainer": {"name": job.trainer.name, "layout": job.trainer.layout}}
    eos, bos = plan.tokenizer.get("eos"), plan.tokenizer.get("bos")
    config = huggingface.config_of(plan.model, dtype="float32", eos=eos, bos=bos)
    return jobs.ExportJob(
        attempt_folder=str(attempt),
        checkpoint=str(parent),
        output=str(output),
        model=plan.model,
        dtype="float32",
        texts={huggingface.CONFIG: json.dumps(config, indent=2), checkpoints.STATE: json.dumps(state)},
        sealed=True,
    )

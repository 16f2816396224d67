"""Weights go from one trainer to another: ours are offered to it as a Hugging Face model, and we read its own.

Our trainer reads another's Hugging Face model (`layout: hf`) where the checkpoint is, if it is the plan's.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from curriculum import fs
from curriculum.artifacts import checkpoints, huggingface, jobs
from curriculum.artifacts.job_process import StopFlag
from curriculum.artifacts.stage_folder import Attempt, StageFolder, new_attempt
from curriculum.errors import DataError
from curriculum.launchers.process import ProcessLauncher, default_threads
from curriculum.launchers.supervisor import supervise
from curriculum.plan.model import ModelConfig
from curriculum.plan.stage import StagePlan


def check_model(checkpoint: Path) -> None:
    """DataError where the Hugging Face model in another trainer's checkpoint is not that of its stage's plan."""
    plan = StagePlan.load(StageFolder(checkpoint.parent.parent).plan)
    model = huggingface.read(checkpoints.hf_folder(checkpoint), with_tokenizer=False).model
    ours, theirs = (asdict(ModelConfig.from_json(numbers)) for numbers in (plan.model, model))
    different = [key for key in ours if key != "init" and ours[key] != theirs[key]]
    if different:
        stated = ", ".join(f"`{key}` is {theirs[key]}, the plan's {ours[key]}" for key in different)
        raise DataError(
            f"the model in checkpoint `{checkpoint.name}` is another than the plan's: {stated}",
            hint="its trainer has to train the plan's `model`",
        )


def with_readable_parent(job: jobs.TrainJob, stop: StopFlag, note: Callable[[str], None]) -> jobs.TrainJob | None:
    """The job with a parent that its trainer reads, in `parent/` of the stage's folder if it has to be converted.

    None when it was stopped. `note` gets a line where another trainer than the parent's goes on. DataError where
    a model that our trainer is to read, of the parent or of what is averaged, is not the plan's.
    """
    folder = StageFolder(Path(job.stage_folder))
    if job.parent_checkpoint is None or checkpoints.latest(folder) is not None:
        return job
    parent = Path(job.parent_checkpoint)
    if job.trainer is None:
        for checkpoint in map(Path, job.averages or (job.parent_checkpoint,)):
            if checkpoints.trainer_of(checkpoint) is not None:
                check_model(checkpoint)
    saved = checkpoints.trainer_of(parent)
    if (saved and saved[0]) == (job.trainer and job.trainer.name):
        return job
    if not job.averages:
        note(
            f"of checkpoint `{parent.name}` the weights alone are taken: another trainer starts with new optimizer "
            "state"
        )
    if saved or job.trainer is None:  # of `layout: hf`, which the job's trainer reads
        return job
    digest = fs.digest([checkpoints.weights_digest(parent), checkpoints.state(parent)])
    output = folder.parent / digest[:16]
    if not output.exists():
        attempt = new_attempt(folder.parent / "attempts")
        jobs.save(_conversion(job, job.trainer, attempt, output), attempt.job)
        launcher = ProcessLauncher(1, default_threads(None, 1))
        if supervise(launcher, lambda: attempt, stop=stop)["outcome"] == jobs.STOPPED:
            return None
    return replace(job, parent_checkpoint=str(output))


def drop_converted(folder: StageFolder) -> None:
    """Remove a converted parent once the stage has a checkpoint of its own."""
    if folder.parent.exists() and checkpoints.latest(folder) is not None:
        fs.remove_tree(folder.parent)


def _conversion(job: jobs.TrainJob, trainer: jobs.Trainer, attempt: Attempt, output: Path) -> jobs.ExportJob:
    """The job that writes our parent's weights as a checkpoint of `trainer`."""
    assert job.parent_checkpoint is not None
    plan, parent = StagePlan.load(Path(job.plan)), Path(job.parent_checkpoint)
    state = {**checkpoints.state(parent), "trainer": {"name": trainer.name, "layout": trainer.layout}}
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

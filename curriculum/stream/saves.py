"""Checkpoints of a stage as files: built under a temporary name, sealed, entered in the ledger, renamed, retained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curriculum import fs
from curriculum.artifacts import checkpoints, ledger
from curriculum.artifacts.jobs import TrainJob
from curriculum.artifacts.stage_folder import StageFolder, checkpoint_name
from curriculum.errors import CheckpointError
from curriculum.plan.stage import StagePlan

RESERVED = (checkpoints.STATE, checkpoints.MANIFEST)
WITNESSED, PLANNED = "witnessed", "planned"
"""How a checkpoint's windows are known: every step's inputs were compared with the plan's, or by the plan alone."""


def ledger_entry(job: TrainJob, plan: StagePlan, step: int) -> ledger.Entry:
    """The ledger's line for a checkpoint before `step`."""
    position = plan.position_after(step - 1)
    return ledger.Entry(
        generation=job.generation,
        position=position,
        step=step,
        checkpoint=checkpoint_name(job.generation, position),
        fingerprint=plan.fingerprint,
        windows={name: count for name, count in plan.windows_read(position).items() if count},
    )


def state_of(job: TrainJob, plan: StagePlan, step: int, ranks: int, *, witnessed: bool) -> dict[str, Any]:
    """The state.json of a checkpoint before `step`, without what the trainer adds."""
    position = plan.position_after(step - 1)
    state = {
        "generation": job.generation,
        "step": step,
        "position": position,
        "fingerprint": plan.fingerprint,
        "history": plan.history(position),
        "tokenizer": plan.tokenizer.get("digest"),
        "windows": plan.windows_read(position),
        "ranks": ranks,
    }
    if job.trainer is not None:
        state["counted"] = WITNESSED if witnessed else PLANNED
        state["trainer"] = {"name": job.trainer.name, "layout": job.trainer.layout}
    return state


def temporary_folder(job: TrainJob, entry: ledger.Entry) -> Path:
    """Where a checkpoint is written before it appears under its name."""
    return StageFolder(Path(job.stage_folder)).checkpoints / f".tmp-{entry.checkpoint}"


def make_folder(job: TrainJob, temporary: Path, size: int | None) -> None:
    """Make an empty folder for a checkpoint of `size` bytes, the last one's if None; CheckpointError without room."""
    folder = StageFolder(Path(job.stage_folder))
    last = checkpoints.latest(folder) if size is None else None
    checkpoints.check_room(folder.path, size or (checkpoints.size(last.path) if last else 0))
    fs.remove(temporary)  # of a killed save, perhaps of more ranks
    fs.make_directory(temporary)


def retain(job: TrainJob, plan: StagePlan) -> None:
    """Delete the stage's checkpoints that the job does not keep."""
    saved = checkpoints.list_checkpoints(StageFolder(Path(job.stage_folder)))
    positions = [checkpoint.position for checkpoint in saved]
    retained = checkpoints.retained(positions, plan.end, job.keep, job.keep_last)
    for checkpoint in saved:
        if checkpoint.position not in retained:
            checkpoints.discard(checkpoint)


def mark_done(job: TrainJob, plan: StagePlan) -> None:
    """Once the stage's end is saved: write `DONE` with the digest of its weights."""
    folder = StageFolder(Path(job.stage_folder))
    if folder.done.exists():
        return
    retain(job, plan)  # a kill may have come before it
    path = folder.checkpoint(job.generation, plan.end)
    done = {"checkpoint": path.name, "position": plan.end, "weights": checkpoints.content_digest(path)}
    fs.write_sealed(folder.done, done)


@dataclass(slots=True, kw_only=True)
class PendingCheckpoint:
    """A checkpoint that is being written into `folder`, on every rank; it appears whole by `publish`, or not at all.

    Call `publish` or `abandon` once every rank has written: only rank 0 does something there. It may come later, from
    a thread, while training continues.
    """

    folder: Path
    first: bool
    job: TrainJob
    plan: StagePlan
    state: Mapping[str, Any]
    entry: ledger.Entry
    published: Callable[[], None]

    def publish(self, digests: Mapping[str, str] | None = None) -> None:
        """Write state and manifest, rename, and delete what is not kept any more.

        `digests` are BLAKE3 by file name, of files that the writer has hashed. CheckpointError where the folder does
        not hold what the trainer's layout says; nothing is saved then.
        """
        if not self.first:
            return
        stage = StageFolder(Path(self.job.stage_folder))
        try:
            self._check()
            fs.write_json(self.folder / checkpoints.STATE, self.state)
            checkpoints.seal(self.folder, digests)
            # before it appears: a line without its checkpoint is cut away when the run resumes
            ledger.append(stage, self.entry)
            fs.publish(self.folder, stage.checkpoints / self.entry.checkpoint)
        except BaseException:
            self.abandon()
            raise
        retain(self.job, self.plan)
        self.published()

    def abandon(self) -> None:
        """Remove what was written."""
        if self.first:
            fs.remove(self.folder)

    def _check(self) -> None:
        if self.job.trainer is None:  # our own, whose writer knows its files
            return
        trainer, files = self.job.trainer, sorted(self.folder.rglob("*"))
        for path in files:
            name = path.relative_to(self.folder)
            if path.is_symlink():
                raise _unfit(self, f"`{name}` is a symbolic link", "write the file itself: a checkpoint is moved whole")
            if str(name) in RESERVED:
                raise _unfit(self, f"`{name}` is written by `curriculum`", "give the file of the trainer another name")
        if not any(path.is_file() for path in files):
            raise _unfit(self, "the trainer wrote no file into it", "write into the folder that `checkpoint()` gives")
        if trainer.layout == "hf" and (lacking := checkpoints.lacks_of_hf(self.folder)):
            raise _unfit(
                self,
                f"`layout: hf` promises a Hugging Face model, and there is no {lacking}",
                "save it there or in `hf/`, as `model.save_pretrained(folder)` does; or say `layout: opaque`",
            )


def _unfit(pending: PendingCheckpoint, reason: str, hint: str) -> CheckpointError:
    assert pending.job.trainer is not None
    return CheckpointError(
        f"the checkpoint of trainer `{pending.job.trainer.name}` at step {pending.entry.step:,} is not saved: {reason}",
        hint=f"{hint}; what was saved before is intact",
    )

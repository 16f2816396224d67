"""Saves a stage beside its training: a checkpoint with its line in the ledger, and no more of them than asked for."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from curriculum import fs
from curriculum.artifacts import checkpoints, ledger
from curriculum.artifacts.jobs import TrainJob
from curriculum.artifacts.stage_folder import StageFolder
from curriculum.plan.stage import StagePlan
from runner.checkpoint import tensors
from runner.model.llama import Llama
from runner.parallel.ranks import Ranks
from runner.train.grace import Grace
from runner.train.state import State

BYTES_A_PARAMETER = 3 * 4  # weights and both of Adam's moments, fp32


class Saves:
    """What every rank calls; one thread of each writes. `end` is the position that this attempt trains to."""

    def __init__(
        self,
        plan: StagePlan,
        job: TrainJob,
        model: Llama,
        optimizer: torch.optim.Optimizer,
        ranks: Ranks,
        grace: Grace,
        end: int,
    ) -> None:
        self._plan, self._job, self._end = plan, job, end
        self._model, self._optimizer = model, optimizer
        self._ranks, self._grace = ranks, grace
        self._saver = tensors.Saver(ranks)
        self._folder = StageFolder(Path(job.stage_folder))
        self._bytes = BYTES_A_PARAMETER * sum(parameter.numel() for parameter in model.parameters())

    def check_room(self) -> None:
        """Refuse to train towards a checkpoint that the disk could not take."""
        free = self._ranks.agree(checkpoints.free_bytes(self._folder.path) if self._ranks.first else None)
        checkpoints.check_room(self._folder.path, self._bytes, free)

    def wanted(self, state: State) -> bool:
        """Whether somebody branches from here and was given no checkpoint yet; asked of rank 0."""
        return self._ranks.first and state.position in checkpoints.pinned(self._folder)

    def begin(self, state: State) -> None:
        """Copy what is to be saved, and write it while training goes on."""
        entry = state.entry(self._plan, self._job)

        def sealed() -> None:
            # before it appears: a line without its checkpoint is cut away when the run goes on, whereas nobody
            # goes on from the last checkpoint of all to add a line that is missing
            ledger.append(self._folder, entry)

        def published() -> None:
            self.retain()
            if entry.position < self._end:
                checkpoints.check_room(self._folder.path, self._bytes)
            self._grace.saved(time.monotonic() - begun)

        begun = time.monotonic()
        path = self._folder.checkpoint(entry.generation, entry.position)
        value = state.value(self._plan, self._job, self._ranks)
        self._saver.begin(path, self._model, self._optimizer, value, published, sealed)
        state.saved_at = state.position

    def check(self) -> None:
        """Raise what a save ended with, if it did not end well."""
        self._saver.check()

    def wait(self) -> None:
        """Until nothing is being written any more."""
        self._saver.wait()

    def retain(self) -> None:
        """Keep the last `keep_last` checkpoints of the cadence, and every one that is kept for its own sake."""
        found = checkpoints.list_checkpoints(self._folder)
        old = [c for c in found if c.position != self._plan.end and c.position not in self._job.keep]
        for doomed in old[: -self._job.keep_last or None]:
            checkpoints.discard(doomed)

    def mark_done(self) -> None:
        """On rank 0, once the stage's end is saved: say so, with the digest of its weights."""
        if self._folder.done.exists():
            return
        self.retain()  # a kill may have come before it
        path = self._folder.checkpoint(self._job.generation, self._end)
        digest = checkpoints.tensors_digest(path)
        done = {"checkpoint": path.name, "position": self._end, "weights": digest}
        fs.write_json(self._folder.done, done)

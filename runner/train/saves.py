"""Saves a stage during its training: a checkpoint with its ledger line, and as many checkpoints as the job keeps."""

from __future__ import annotations

import sys
import time

from curriculum.artifacts import checkpoints, ledger
from curriculum.plan.host_memory import host_need
from curriculum.plan.memory import saved_bytes
from curriculum.stage import saves
from curriculum.units import show_bytes
from runner.checkpoint import tensors
from runner.monitor import hardware
from runner.parallel import replica_check
from runner.train.grace import Grace
from runner.train.setup import Setup
from runner.train.state import State

PINS_EVERY = 1.0
"""Seconds between two readings of the folder of pins, which may be on a slow disk of the network."""


class Saves:
    """What every rank calls; a thread of each writes its part."""

    def __init__(self, setup: Setup, grace: Grace) -> None:
        self._setup, self._grace = setup, grace
        self._saver = tensors.Saver(setup.ranks, setup.job.machine.slow_limit)
        self._folder = setup.folder
        self._copies: bool | None = None  # known at the first save, when training has taken its memory
        self._pins: dict[int, tuple[str, ...]] = {}
        self._pins_at = -PINS_EVERY
        self._bytes = saved_bytes(setup.model.config, setup.plan.optimizer)

    def check_room(self) -> None:
        """Refuse to train towards a checkpoint that the disk could not take."""
        ranks = self._setup.ranks
        free = ranks.agree(checkpoints.free_bytes(self._folder.path) if ranks.first else None)
        checkpoints.check_room(self._folder.path, self._bytes, free)

    def pinned(self, state: State) -> bool:
        """On rank 0, whether a branch is known to start at the state; it is known `PINS_EVERY` after its pin."""
        if not self._setup.ranks.first:
            return False
        if (now := time.monotonic()) - self._pins_at >= PINS_EVERY:
            self._pins, self._pins_at = checkpoints.pinned(self._folder), now
        return state.position in self._pins

    def check_state(self, state: State) -> None:
        """RunFailed where the state may not be saved: its counts are not the plan's, or the replicas differ."""
        setup = self._setup
        ledger.check(setup.plan, state.position, state.windows)
        replica_check.check(setup.model, setup.optimizer, setup.ranks, state.step)

    def begin(self, state: State) -> None:
        """Copy what is to be saved, and write it while training continues; without room for a copy, write it first."""
        setup = self._setup
        copies = self._copies = self._room_for_copies() if self._copies is None else self._copies
        entry = state.entry(setup.plan, setup.job)

        def sealed() -> None:
            # before it appears: a line without its checkpoint is cut away when the run resumes, whereas no run
            # resumes from the last checkpoint of all to add a missing line
            ledger.append(self._folder, entry)

        def published() -> None:
            saves.retain(setup.job, setup.plan)
            if entry.position < setup.end:
                checkpoints.check_room(self._folder.path, self._bytes)
            self._grace.saved(time.monotonic() - start, copied=copies)

        start = time.monotonic()
        path = self._folder.checkpoint(entry.generation, entry.position)
        value = state.value(setup.plan, setup.job, setup.ranks)
        self._saver.begin(path, setup.model, setup.optimizer, value, published, sealed, copy=copies)
        state.saved_at = state.position

    def _room_for_copies(self) -> bool:
        """Whether every node has the memory for a second copy of what is saved; where not, the log says so."""
        setup, ranks = self._setup, self._setup.ranks
        needed = host_need(
            setup.model.config.parameters,
            saved=self._bytes,
            ranks=ranks.size,
            local_ranks=ranks.local_size,
            sharding=setup.job.machine.sharding,
            on_cpu=ranks.device.type == "cpu",
        )
        memory, free = hardware.host_memory()
        stated = setup.job.machine.host_memory
        short = ranks.any(not needed.copies(memory if stated is None else min(memory, stated), free))
        if short and ranks.first:
            print(
                f"a save would copy {show_bytes(needed.staging)} into memory; of {show_bytes(stated or memory)}, "
                f"{show_bytes(free)} free, that is too much: saves copy nothing, and training waits for them",
                file=sys.stderr,
                flush=True,
            )
        return not short

    def wait_for_copy(self) -> None:
        """Until the weights and the optimizer's state may be changed."""
        self._saver.wait_for_copy()

    def check(self) -> None:
        """Raise the error of a save that failed."""
        self._saver.check()

    def wait(self) -> None:
        """Until no save is being written."""
        self._saver.wait()

    def mark_done(self) -> None:
        """On rank 0, once the stage's end is saved: write `DONE` with the digest of its weights."""
        saves.mark_done(self._setup.job, self._setup.plan)

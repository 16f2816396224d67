"""Saves a stage during its training: the tensors, written by threads into the stage's next checkpoint."""

from __future__ import annotations

import sys
import time

from curriculum.artifacts import checkpoints, ledger
from curriculum.plan.host_memory import host_need
from curriculum.plan.memory import saved_bytes
from curriculum.units import show_bytes
from runner.checkpoint import tensors
from runner.monitor import hardware
from runner.parallel import replica_check
from runner.train.grace import Grace
from runner.train.setup import Setup
from runner.train.state import State


class Saves:
    """What every rank calls; a thread of each writes its part."""

    def __init__(self, setup: Setup, grace: Grace) -> None:
        self._setup, self._grace = setup, grace
        self._saver = tensors.Saver(setup.ranks, setup.job.machine.slow_limit)
        self._folder = setup.stage.folder
        self._copies: bool | None = None  # known at the first save, when training has taken its memory
        self._bytes = saved_bytes(setup.model.config, setup.plan.optimizer)

    def check_room(self) -> None:
        """Refuse to train towards a checkpoint that the disk could not take."""
        ranks = self._setup.ranks
        free = ranks.agree(checkpoints.free_bytes(self._folder.path) if ranks.first else None)
        checkpoints.check_room(self._folder.path, self._bytes, free)

    def check_state(self, state: State) -> None:
        """RunFailed where the state may not be saved: its counts are not the plan's, or the replicas differ."""
        setup = self._setup
        ledger.check(setup.plan, setup.stage.position, state.windows)
        replica_check.check(setup.model, setup.optimizer, setup.ranks, setup.stage.step)

    def begin(self, state: State) -> None:
        """Copy what is to be saved, and write it while training continues; without room for a copy, write it first."""
        setup, at_end = self._setup, self._setup.stage.step == self._setup.stage.last_step
        copies = self._copies = self._room_for_copies() if self._copies is None else self._copies

        def published() -> None:
            if not at_end:
                checkpoints.check_room(self._folder.path, self._bytes)
            self._grace.saved(time.monotonic() - start, copied=copies)

        start = time.monotonic()
        self._saver.wait()
        value = {**state.value(), "adam_step": tensors.adam_step(setup.optimizer)}
        pending = setup.stage.begin_checkpoint(state=value, size=self._bytes, published=published)
        self._saver.write(pending.folder, setup.model, setup.optimizer, pending.publish, copy=copies)

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

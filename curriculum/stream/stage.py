"""One process of a stage's trainer: what it reads, what it reports, when it saves, and how it ends.

Read this to have another training loop train a stage; docs/job-json.md has the same as files. Our own trainer is a
client, too: `runner/train/loop.py`.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from functools import cached_property, partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from curriculum import fs
from curriculum.artifacts import checkpoints, evaluations, jobs, ledger
from curriculum.artifacts.job_process import StopFlag, install_stop_flag
from curriculum.artifacts.stage_folder import Attempt, StageFolder
from curriculum.errors import CheckpointError, PlanError, RunFailed
from curriculum.stream import metrics
from curriculum.stream.agreement import Agree, first_does
from curriculum.stream.batch import Batch
from curriculum.stream.held_out import HeldOutSets, Losses
from curriculum.stream.resume import LOCK_SECONDS, cut_back, stage_lock, verified_state
from curriculum.stream.saves import (
    WITNESSED,
    PendingCheckpoint,
    ledger_entry,
    make_folder,
    mark_done,
    state_of,
    temporary_folder,
)
from curriculum.stream.stream import load
from curriculum.stream.watchdog import Watchdog


class Stage:
    """A stage as its trainer sees it; a context manager that holds the stage's lock and says how the trainer ended.

    `resume` is what it continues from, `step` the first step not yet taken, `last_step` the first that it does not
    take. `outcome` is how it ended, once it has. Files are touched by rank 0 alone. Every rank calls the same methods
    in the same order: `agree` makes their answers one.
    """

    def __init__(
        self, job: jobs.TrainJob | jobs.EvaluateJob, stop: StopFlag, *, agree: Agree, rank: int, world_size: int
    ) -> None:
        assert job.resume is not None
        self.job, self.resume, self.rank, self.world_size = job, job.resume, rank, world_size
        self.training = isinstance(job, jobs.TrainJob)
        self.folder, self.attempt = StageFolder(Path(job.stage_folder)), Attempt(Path(job.attempt_folder))
        self.stream = load(job.plan, job.data)
        self.plan = self.stream.stages[0].plan
        self.step = job.resume.step
        self.last_step = job.last_step if isinstance(job, jobs.TrainJob) else self.step
        self.stopping, self.unsaved = False, "its trainer did not save when it was asked to stop"
        self.outcome: dict[str, Any] = {}
        self._agree, self._stop, self._stop_answered = agree, stop, False
        self._lock = stage_lock(self.folder)
        self._watchdog = Watchdog(self.attempt, rank, job.machine.hang_limit)
        self._saved = job.resume.step if job.resume.origin == "own" else None
        self._witnessed, self._records_opened = True, False
        self._asked_to_save = self.position
        # where it was stopped nothing is due; where it was killed between an evaluation and its save, something is
        self._asked_to_evaluate = self.plan.position_before(self.step - 1)
        self._since, self._spent = time.monotonic(), dict[str, float]()

    @property
    def first(self) -> bool:
        return self.rank == 0

    @property
    def position(self) -> int:
        """Tokens since the root before `step`."""
        return self.plan.position_after(self.step - 1)

    @property
    def hf_folder(self) -> Path | None:
        """The Hugging Face model of what it resumes from, for a trainer with `layout: hf`; None for `nothing`."""
        return None if self.resume.folder is None else checkpoints.hf_folder(Path(self.resume.folder))

    # --- begin and end -----------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._watchdog.__enter__()
        try:
            if isinstance(self.job, jobs.TrainJob):
                if self.first:
                    self._lock.acquire(wait_seconds=LOCK_SECONDS)
                self._first_does(self._verify)  # no rank reads what rank 0 has not verified
        except BaseException as error:
            self._close(error)
            raise
        self._since = time.monotonic()
        return self

    def _first_does(self, work: Callable[[], object]) -> None:
        """Have rank 0 do what may take as long as a save while the other ranks wait."""
        self._watchdog.arm_slow()
        first_does(work, self._agree, first=self.first, alone=self.world_size == 1)

    def _verify(self) -> None:
        """On rank 0: verify what the stage resumes from."""
        checkpoints.refuse_links(self.folder)
        state = verified_state(self.resume, self.plan)
        self._witnessed = state is None or state.get("counted", WITNESSED) == WITNESSED

    def open_records(self) -> None:
        """Before this launch records anything: on rank 0 cut the records back to where it continues from."""
        job, opened, self._records_opened = self.job, self._records_opened, True
        if opened or not self.first or not isinstance(job, jobs.TrainJob):
            return
        cut_back(self.folder, job.generation, self.position)
        if self.resume.origin == "own":  # a kill may have come between a checkpoint and its line
            ledger.append(self.folder, ledger_entry(job, self.plan, self.step))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ended_well = error is None or (isinstance(error, SystemExit) and not error.code)
        end = self._unfinished() if ended_well else error
        if end is None:
            try:
                self._finish()
            except BaseException as failure:
                end = failure
        self._close(end)
        if end is not None and end is not error:
            raise end

    def _finish(self) -> None:
        """Write `DONE` where all of the stage is trained."""
        job = self.job
        if isinstance(job, jobs.TrainJob):
            self.open_records()
            if self.position == self.plan.end:
                self._first_does(lambda: mark_done(job, self.plan))

    def _close(self, error: BaseException | None) -> None:
        try:
            if error is not None:
                self.outcome = jobs.outcome_of(error)
            else:
                self.outcome = {"outcome": jobs.STOPPED if self._stopped else jobs.DONE}
                self.outcome |= {"position": self.position, "step": self.step}
                if self._stopped and self._saved != self.step:
                    self.outcome["unsaved"] = self.unsaved
            if self.first or error is not None:
                jobs.write_outcome(self.attempt, self.outcome)
        finally:
            self._watchdog.__exit__(None, None, None)
            self._lock.release()

    @property
    def ended(self) -> bool:
        """Whether no step is to be taken any more: at the end, or once a stop was answered."""
        return self.stopping or self.step == self.last_step

    @property
    def _stopped(self) -> bool:
        return self.stopping and self.step < self.last_step

    def _unfinished(self) -> RunFailed | None:
        """Why the trainer may not end here; None where it may."""
        name = self.job.trainer.name if self.job.trainer else "curriculum"
        if self.step < self.last_step and not self.stopping:
            return RunFailed(
                f"trainer `{name}` ended before step {self.step:,} of {self.last_step:,}, and was not asked to",
                hint="it has to take every step of `stage.batches()` and report each by `stage.took()`; what was saved "
                "is intact, and the same command resumes",
            )
        if self.training and self.step == self.last_step and self._saved != self.step:
            return RunFailed(
                f"trainer `{name}` took the last step, {self.step - 1:,}, and saved no checkpoint of it",
                hint="save by `stage.checkpoint()` wherever `stage.should_save()` is true; what was saved before is "
                "intact, and the same command resumes",
            )
        return None

    # --- steps -------------------------------------------------------------------------------------------

    def batches(
        self,
        *,
        rank: int | None = None,
        world_size: int | None = None,
        micro_batch: int | None = None,
        groups: Mapping[int, int] | None = None,
    ) -> Generator[Batch, None, None]:
        """This rank's micro-batches from `step` on; they end early, between two steps, once a stop was answered.

        PlanError where a step's batch does not divide among ranks and micro-batches, or a step was not reported.
        `groups` as in `Stream.batches`.
        """
        if self.stopping if self._stop_answered else self.should_stop():
            return
        rank, world_size = self.rank if rank is None else rank, self.world_size if world_size is None else world_size
        read = self.stream.batches(
            self.step, self.last_step, rank=rank, world_size=world_size, micro_batch=micro_batch, groups=groups
        )
        with contextlib.closing(read):
            for batch in read:
                if batch.micro == 0 and self.stopping:
                    return
                if batch.step != self.step:
                    raise PlanError(
                        f"step {self.step:,} was read and not reported",
                        hint="call `stage.took(step, loss=…)` after each update, that is once a step (`batch.last`)",
                    )
                self._watchdog.arm()
                yield batch

    def took(
        self,
        step: int,
        *,
        loss: float,
        grad_norm: float | None = None,
        source_loss: Mapping[str, float] | None = None,
        witness: int | None = None,
        **more: float,
    ) -> None:
        """Report that the update of `step` was made: losses are in nats a token, over all ranks.

        `witness` is that of all inputs of the step, the sum modulo 2**64 over ranks and micro-batches
        (`curriculum.stream.witness`); RunFailed where it is not the plan's. `more` goes into metrics.jsonl as it is.
        """
        self._check_step(step)
        if witness is None:
            self._witnessed = False
        elif self.first and witness != self.stream.witness(step):
            raise RunFailed(
                f"the witness of step {step:,} is {witness:016x}, the plan's is {self.stream.witness(step):016x}: the "
                "trainer read other tokens than it was offered",
                hint="the witnesses of all ranks and micro-batches are added modulo 2**64; if they are, something "
                "between the stream and the model reorders, repeats or drops; nothing of this step was saved",
            )
        self.open_records()
        if self.first:
            fs.append_json_line(self.folder.metrics, self._line(loss, grad_norm, source_loss, more), sync=False)
        self.advance(step)

    def advance(self, step: int) -> None:
        """The update of `step` was made: the clock moves. `took` does it, too; this is for a line written later."""
        self._check_step(step)
        self.open_records()
        self.step += 1
        self._watchdog.arm()

    def _check_step(self, step: int) -> None:
        if step != self.step or step >= self.last_step:
            raise PlanError(
                f"step {step:,} was reported, and the next one is {self.step:,} of {self.last_step:,}",
                hint="every update is reported once, in order; steps are counted from the root, as `batch.step` is",
            )

    def _line(
        self, loss: float, grad_norm: float | None, source_loss: Mapping[str, float] | None, more: Mapping[str, float]
    ) -> dict[str, Any]:
        plan, step, losses = self.plan, self.step, source_loss or {}
        now = time.monotonic()
        elapsed = max(now - self._since - self._spent.get("evaluation_seconds", 0.0), 1e-9)
        after, before = plan.windows_read(plan.position_after(step)), plan.windows_read(self.position)
        tokens = {name: (count - before.get(name, 0)) * plan.sequence_length for name, count in after.items()}
        line = metrics.line(
            plan,
            self.job.generation,
            step,
            loss=loss,
            grad_norm=grad_norm,
            seconds=elapsed,
            sources={name: (float(losses[name]), count) for name, count in tokens.items() if count and name in losses},
            more={**more, **self._spent},
        )
        self._since, self._spent = now, {}
        return dict(fs.finite_json(line))

    def heartbeat(self, *, slow: bool = False) -> None:
        """Give the sign of life that `batches` and `took` give: for loops that do not take `batches`, a micro-batch.

        With `slow`, what follows may take as long as a start or a save.
        """
        if slow:
            self._watchdog.arm_slow()
        else:
            self._watchdog.arm()

    def should_stop(self) -> bool:
        """Whether the trainer is asked to save and end, the same on every rank; once true it stays so."""
        self._stop_answered = True
        self.stopping = self._agree(self._stop_is_requested())
        return self.stopping

    def _stop_is_requested(self) -> bool:
        by_file = self.first and self.job.trainer is not None and self.attempt.stop.exists()
        return self.stopping or bool(self._stop) or by_file

    # --- checkpoints -------------------------------------------------------------------------------------

    def should_save(self) -> bool:
        """Whether to save now: at the cadence, where a branch starts, where one is kept, when stopped, at the end."""
        job, before, position = self.job, self._asked_to_save, self.position
        if not isinstance(job, jobs.TrainJob):
            return False
        stop = self._stop_is_requested()
        requested, self._stop_answered, self._asked_to_save = self._agree(stop or self._is_pinned()), True, position
        if requested:
            self.stopping = self._agree(stop)
        if self._saved == self.step:
            return False
        due = jobs.due(before, position, job.checkpoint_every)
        kept = position in job.keep and self.step > self.resume.step
        return requested or due or kept or self.step == self.last_step

    def _is_pinned(self) -> bool:
        """On rank 0, whether a branch starts here."""
        return self.first and checkpoints.is_pinned(self.folder, self.position)

    @contextlib.contextmanager
    def checkpoint(self) -> Iterator[Path]:
        """An empty folder, the same for every rank, to write a checkpoint of the present state into.

        When the block ends well it is sealed and appears; when it fails on any rank, or is killed, nothing is there.
        """
        start = time.monotonic()
        pending = self.begin_checkpoint()
        try:
            yield pending.folder
        except BaseException:
            pending.abandon()
            raise
        self._agree(False)  # every rank has written
        self._first_does(pending.publish)
        self._spend("checkpoint_seconds", start)

    def begin_checkpoint(
        self,
        *,
        state: Mapping[str, Any] | None = None,
        size: int | None = None,
        published: Callable[[], None] = lambda: None,
    ) -> PendingCheckpoint:
        """The same for a saver that goes on in the background: write into its `folder`, then `publish()` it.

        `state` is added to the checkpoint's state.json, `size` (bytes) is what it may take, that of the last one if
        not given, and `published` is called on rank 0 once it is there.
        """
        job = self.job
        if not isinstance(job, jobs.TrainJob) or self._saved == self.step:
            raise CheckpointError(
                f"there is a checkpoint at step {self.step:,} already",
                hint="save where `stage.should_save()` is true, once",
            )
        self.open_records()
        step, entry = self.step, ledger_entry(job, self.plan, self.step)
        temporary = temporary_folder(job, entry)

        def appeared() -> None:
            if self._saved is None or self._saved < step:
                self._saved = step
            published()

        self._first_does(partial(make_folder, job, temporary, size))  # no rank writes before the folder is there
        if not self.first:
            self._saved = step
        own = state_of(job, self.plan, step, self.world_size, witnessed=self._witnessed)
        return PendingCheckpoint(
            folder=temporary,
            first=self.first,
            job=job,
            plan=self.plan,
            state={**own, **(state or {})},
            entry=entry,
            published=appeared,
        )

    # --- held-out losses ---------------------------------------------------------------------------------

    def should_evaluate(self) -> bool:
        """Whether to measure the held-out losses now: at the stage's start, at the cadence and at its end."""
        before, position = self._asked_to_evaluate, self.position
        self._asked_to_evaluate = position
        edge = self.step in (self.plan.first_step, self.last_step)
        return edge or jobs.due(before, position, self.job.evaluate_every)

    def evaluate(self, losses: Losses, *, micro_batch: int = 8) -> dict[str, float]:
        """Measure, with the weights as they are, each held-out set that has no loss here yet; nats a token by source.

        `losses(tokens)` gives the summed loss of each window of `tokens` `[n, L + 1]` in nats, `[n]`, `n` at most
        `micro_batch`. Every rank calls it for all windows; what rank 0 measures is recorded.
        """
        start = time.monotonic()
        measured, names = self.unmeasured()

        def watched(tokens: Any) -> Any:
            self._watchdog.arm()
            return losses(tokens)

        new = self.held_out.measure(watched, names, micro_batch)
        self.record_losses(new)
        self._spend("evaluation_seconds", start)
        return {name: float(entry["loss"]) for name, entry in {**measured, **new}.items()}

    @cached_property
    def held_out(self) -> HeldOutSets:
        return HeldOutSets(self.plan, self.job.held_out)

    def unmeasured(self) -> tuple[dict[str, Any], list[str]]:
        """What `evaluations/` has of the present weights, by source, and the names of the sets that it lacks."""
        self.open_records()
        measured = evaluations.read_sets(self.folder, self.job.generation, self.position)
        # as rank 0 sees them: another may look once rank 0 has written
        names = [name for name in self.held_out.datasets if self._agree(self.first and name not in measured)]
        return measured, names

    def record_losses(self, sets: Mapping[str, Any]) -> None:
        """Write what `HeldOutSets.measure` gave of the present weights."""
        if self.first and sets:
            evaluations.write_sets(self.folder, self.job.generation, self.position, self.step, sets)

    def _spend(self, what: str, start: float) -> None:
        self._spent[what] = self._spent.get(what, 0.0) + time.monotonic() - start


def join(
    job: Path | str | None = None, *, agree: Agree = bool, rank: int | None = None, world_size: int | None = None
) -> Stage:
    """The stage that this process was started to train: `with join() as stage:`.

    `job` is the job file, else the one that `CURRICULUM_JOB` names; `rank` and `world_size` are those of torchrun's
    environment. With several ranks `agree` must answer whether any of them says yes
    (`curriculum.integrations.torch.any_rank`). Call it before a slow start: from here on a signal to stop is noticed.
    """
    stop = install_stop_flag()
    path = job or os.environ.get("CURRICULUM_JOB")
    if path is None:
        raise PlanError(
            "no job file is given: `CURRICULUM_JOB` is not set",
            hint="`curriculum run NAME --machine M` starts the trainer of machine M in machines.yaml",
        )
    loaded = jobs.load(Path(path))
    if not isinstance(loaded, jobs.TrainJob | jobs.EvaluateJob) or loaded.resume is None or loaded.trainer is None:
        raise PlanError(f"`{path}` is not a job for another trainer", hint="`trainer:` in machines.yaml names one")
    rank = int(os.environ.get("RANK", "0")) if rank is None else rank
    world_size = int(os.environ.get("WORLD_SIZE", "1")) if world_size is None else world_size
    if world_size > 1 and agree is bool:
        raise PlanError(
            f"{world_size} ranks cannot act as one without `agree`",
            hint="`join(agree=any_rank)` of `curriculum.integrations.torch`, once torch.distributed is initialised",
        )
    return Stage(loaded, stop, agree=agree, rank=rank, world_size=world_size)

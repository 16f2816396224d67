"""A stage on the token clock: its batch, its number of steps and its boundaries at a size."""

from __future__ import annotations

from dataclasses import dataclass

from curriculum.compiler.lineage import LineageStage
from curriculum.compiler.scaling import Scaler
from curriculum.errors import PlanError
from curriculum.plan.batch_clock import BatchChange, BatchClock, batch_clock
from curriculum.plan.learning_rate import LARGEST_POSITION


@dataclass(frozen=True, slots=True, kw_only=True)
class StageClock:
    """Positions in tokens at this size, counted from the root; `batches` says how many sequences each step takes.

    `declared_end` is the scaled `until`, `stop` the step boundary at which the lineage leaves the stage: its end,
    or the boundary at or past the branch position.
    """

    batches: BatchClock
    steps: int
    declared_end: int
    stop: int

    @property
    def start(self) -> int:
        return self.batches.start

    @property
    def sequence_length(self) -> int:
        return self.batches.sequence_length

    @property
    def sequences(self) -> int:
        return self.batches.sequences_before(self.steps)


def stage_clock(stage: LineageStage, scaler: Scaler, start: int) -> StageClock:
    """The clock of a stage that starts at `start`; PlanError when it has no step, or ends beyond 2^62 tokens."""
    setting = stage.setting
    sequence_length, batch = scaler.sequence_length(setting), scaler.batch(setting, setting.batch)
    levels = [(scaler.tokens(level.position), scaler.batch(setting, level.batch)) for level in setting.batch_levels]
    declared_end = scaler.tokens(setting.until)
    if setting.average:
        batches = BatchClock(start, sequence_length, (BatchChange(0, batch),))
        return StageClock(batches=batches, steps=0, declared_end=declared_end, stop=start)
    if declared_end <= start:
        raise PlanError(
            f"stage `{setting.stage}` has no step left: the stage before it ends at {start:,} tokens, "
            f"this one is declared to end at {declared_end:,}",
            place=setting.place("until"),
            hint="a stage must be longer than the last step of the one before it",
        )
    batches, steps = batch_clock(start, sequence_length, batch, levels, declared_end)
    if batches.position(steps) > LARGEST_POSITION:
        raise PlanError(
            f"stage `{setting.stage}` would end beyond 2^62 tokens: one step takes {batch * sequence_length:,}",
            place=setting.place("batch"),
            hint="as in `batch: 896 sequences`",
        )
    steps_to_stop = steps
    if stage.cut is not None:
        cut_steps = batches.step_from(scaler.tokens(stage.cut))
        steps_to_stop = min(max(cut_steps, 0), steps)
    return StageClock(batches=batches, steps=steps, declared_end=declared_end, stop=batches.position(steps_to_stop))

"""A stage on the token clock: its batch, its number of steps and its boundaries at a size."""

from __future__ import annotations

from dataclasses import dataclass

from curriculum.compiler.lineage import LineageStage
from curriculum.compiler.scaling import Scaler
from curriculum.errors import PlanError
from curriculum.plan.learning_rate import LARGEST_POSITION


@dataclass(frozen=True, slots=True, kw_only=True)
class StageClock:
    """Positions in tokens at this size, counted from the root; a step takes `batch_sequences` windows.

    `declared_end` is the scaled `until`, `stop` the step boundary at which the lineage leaves the stage: its end,
    or the boundary at or past the branch position.
    """

    start: int
    sequence_length: int
    batch_sequences: int
    steps: int
    declared_end: int
    stop: int

    @property
    def batch_tokens(self) -> int:
        return self.batch_sequences * self.sequence_length

    @property
    def sequences(self) -> int:
        return self.steps * self.batch_sequences


def stage_clock(stage: LineageStage, scaler: Scaler, start: int) -> StageClock:
    """The clock of a stage that starts at `start`; PlanError when it has no step, or ends beyond 2^62 tokens."""
    setting = stage.setting
    sequence_length, batch = scaler.sequence_length(setting), scaler.batch(setting)
    batch_tokens = batch * sequence_length
    declared_end = scaler.tokens(setting.until)
    steps = -((start - declared_end) // batch_tokens)
    if steps < 1:
        raise PlanError(
            f"stage `{setting.stage}` has no step left: the stage before it ends at {start:,} tokens, "
            f"this one is declared to end at {declared_end:,}",
            place=setting.place("until"),
            hint="a stage must be longer than the last step of the one before it",
        )
    if start + steps * batch_tokens > LARGEST_POSITION:
        raise PlanError(
            f"stage `{setting.stage}` would end beyond 2^62 tokens: one step takes {batch_tokens:,}",
            place=setting.place("batch"),
            hint="as in `batch: 896 sequences`",
        )
    steps_to_stop = steps
    if stage.cut is not None:
        cut_steps = -((start - scaler.tokens(stage.cut)) // batch_tokens)
        steps_to_stop = min(max(cut_steps, 0), steps)
    return StageClock(
        start=start,
        sequence_length=sequence_length,
        batch_sequences=batch,
        steps=steps,
        declared_end=declared_end,
        stop=start + steps_to_stop * batch_tokens,
    )

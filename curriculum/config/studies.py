"""studies/*.yaml: which futures of a curriculum are trained beside each other, and what is wanted of them."""

from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import Field, PlainSerializer, model_validator

from curriculum.config import fields
from curriculum.config.entry import (
    Entry,
    LearningRate,
    LearningRateOrZero,
    Name,
    Names,
    Position,
    Size,
    Span,
    Text,
    Tokens,
    Weight,
    exactly_one,
    lacks,
)
from curriculum.config.fields import Refusal
from curriculum.config.stages import EveryEntry
from curriculum.config.study_values import (
    Batches,
    Columns,
    DropAt,
    Factors,
    Flags,
    Lengths,
    LossLimit,
    Replicates,
    ShareBounds,
    Shares,
    Spans,
    StudyBudget,
    VariedSources,
)

LEAST_RUNS_OVER: Final = 3
"""A swarm has at least this many runs more than sources: one more than the law of a mixture has numbers."""
RUNS_A_SOURCE: Final = 5
"""The runs of a swarm for each of its sources, where a study does not say."""
LEAST_SHARES: Final = 3
"""Of a line of shares: fewer do not fix a curve."""


class SwarmEntry(Entry):
    """A swarm: mixtures around one, chosen so that the runs tell most about the law."""

    around: Name = Field(description="The mixture that the swarm is around; as in `math-code`.")
    runs: Size | None = Field(default=None, description="Runs of the swarm, else five for each source; as in `15`.")
    only: VariedSources | None = Field(
        default=None,
        description="Sources that vary; the others keep their ratios to each other. `NAME from 0` adds a source; "
        "as in `[stack-edu, finemath from 0]`.",
    )

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        _unique(tuple(one.name for one in self.only or ()), "only")
        return self


class ShareEntry(Entry):
    """A line: one source at several shares, the others in their own proportions."""

    of: Name = Field(description="The source; as in `slimpajama`.")
    at: Shares = Field(description="Its shares, each an arm; as in `[10%, 25%, 40%, 60%]`.")

    @model_validator(mode="after")
    def _different_shares(self) -> Self:
        for number, share in enumerate(self.at):
            hint = "three different shares below 100% fix a curve, as in `[10%, 25%, 40%]`"
            if share >= 1:
                raise Refusal(f"is {float(share):.4g} of the whole: nothing is left for the others", hint, "at", number)
            if share in self.at[:number]:
                raise Refusal("is stated twice", hint, "at", number)
        return self


class AddEntry(Entry):
    """New sources, each tried alone at the same share."""

    sources: Names = Field(description="The sources, each an arm; as in `[finemath, stack-edu]`.")
    share: Annotated[Fraction, fields.number("30%", most="0.999999"), PlainSerializer(float)] = Field(
        description="The share that each gets; as in `30%`."
    )
    into: Name | None = Field(
        default=None, description="The mixture that they are added to, else what the branch point reads."
    )

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        _unique(self.sources, "sources")
        return self


def _unique(values: tuple[Any, ...], *at: str) -> None:
    for number, value in enumerate(values):
        if value in values[:number]:
            raise Refusal("is stated twice", "each value is one arm: leave one of the two out", *at, number)


READ: Final = ("mixture", "share", "add", "list")
"""Keys of `vary` that change what is read; one of them at most."""


class VaryEntry(Entry):
    """What differs between the arms: one key, or a grid of all combinations."""

    mixture: SwarmEntry | None = Field(
        default=None, description="A swarm of mixtures; as in `{around: math-code, runs: 15}`."
    )
    share: ShareEntry | None = Field(
        default=None, description="A line of shares; as in `{of: slimpajama, at: [10%, 25%, 40%]}`."
    )
    add: AddEntry | None = Field(
        default=None, description="One new source at a time; as in `{sources: [finemath], share: 30%}`."
    )
    list: Names | None = Field(default=None, description="Mixtures by name; as in `[math-code, math-code-2]`.")
    batch: Batches | None = Field(default=None, description="Batches; as in `[896 sequences, 3584 sequences]`.")
    learning_rate: Factors | None = Field(
        default=None, description="Factors of the learning rate; as in `[kept, x0.5, x0.25]`."
    )
    tokens: Lengths | None = Field(default=None, description="Lengths of the arms; as in `[50B, 100B]`.")
    ramp: Spans | None = Field(default=None, description="How long shares move; as in `[6B, 20B]`.")
    rewarm: Spans | None = Field(default=None, description="How long the rate moves; as in `[1B, 5B]`.")
    mask_documents: Flags | None = Field(
        default=None, description="Whether attention ends at a document's end; as in `[true, false]`."
    )

    @model_validator(mode="after")
    def _one_question(self) -> Self:
        stated = [key for key in type(self).model_fields if key in self.model_fields_set]
        if not stated:
            raise Refusal("varies nothing", "as in `vary: {mixture: {around: math-code, runs: 15}}`")
        read = [key for key in stated if key in READ]
        if len(read) > 1:
            hint = f"what is read is varied by one of {', '.join(READ)}"
            raise Refusal(f"is one too many: `{read[0]}` is given as well", hint, read[1])
        for key in ("mixture", "share", "add"):
            if key in stated and len(stated) > 1:
                other = next(name for name in stated if name != key)
                hint = f"ask for `{other}` in a study of its own; `list` of mixtures may be part of a grid"
                raise Refusal(f"cannot be part of a grid with `{key}`", hint, other)
        for key in stated:
            values = getattr(self, key)
            if isinstance(values, tuple):
                _unique(values, key)
        if self.mixture is None and self.add is None and self.share is None and self.points < 2:
            raise Refusal("varies nothing: it has one value", "give at least two", stated[0], of_type=True)
        return self

    @property
    def points(self) -> int:
        """The combinations of a grid."""
        count = 1
        for key in GRID:
            count *= len(getattr(self, key) or (None,))
        return count


GRID: Final = ("list", "batch", "learning_rate", "tokens", "ramp", "rewarm", "mask_documents")
"""Keys of `vary` whose values are combined."""


class GoalEntry(Entry):
    """What is wanted: losses on held-out text."""

    lower: dict[Text, Weight] = Field(
        description="Source to its weight in the mean held-out loss that is minimised; as in `{proof-pile-2: 1}`."
    )
    keep: dict[Text, LossLimit] = Field(
        default={}, description="Source to the loss it may not exceed; as in `{slimpajama: before + 0.02}`."
    )

    @model_validator(mode="after")
    def _a_question(self) -> Self:
        if not any(self.lower.values()):
            hint = "as in `lower: {proof-pile-2: 1}`: the held-out losses whose mean is minimised"
            raise Refusal("minimises nothing", hint, "lower")
        for name in self.keep:
            if name in self.lower:
                hint = "what is minimised cannot be a limit too: leave one of the two out"
                raise Refusal(f"limits `{name}`, which `lower` minimises", hint, "keep", name, on_key=True)
        return self


class AnnealEntry(Entry):
    """Arms whose learning rate falls in a straight line from that of the branch point."""

    to: LearningRateOrZero = Field(description="The rate at an arm's end; as in `0`.")


class ForecastEntry(Entry):
    """A schedule that is not trained: the law of the runs that are there predicts its end."""

    shape: Literal["cosine", "wsd", "linear", "constant"] = Field(description="cosine, wsd, linear or constant.")
    horizon: Position = Field(description="Where it ends; as in `3T`.")
    max: LearningRate | None = Field(default=None, description="The highest rate, else the arms' own.")
    min: LearningRateOrZero | None = Field(default=None, description="The last rate, else the arms' own.")
    decay: Span | None = Field(default=None, description="How long wsd's fall is; as in `100B`.")

    @model_validator(mode="after")
    def _decay_of_wsd(self) -> Self:
        if (self.shape == "wsd") != (self.decay is not None):
            if self.shape == "wsd":
                raise Refusal("lacks `decay`", "wsd falls at its end, as in `decay: 100B`")
            raise Refusal(f"is not supported with `shape: {self.shape}`", "it belongs to the shape wsd", "decay")
        return self


class TableEntry(Entry):
    """Runs that others trained: two CSV files, a row for each run."""

    shares: Text = Field(description="CSV file of the share of each source; as in `data/mixtures.csv`.")
    losses: Text = Field(description="CSV file of the held-out losses; as in `data/losses.csv`.")
    join: Text = Field(default="index", description="Column that both files have, and that names the run.")
    share_columns: Columns = Field(
        default="*", description="Columns of shares, `*` the source's name; as in `train_the_pile_*`."
    )
    loss_columns: Columns = Field(
        default="*", description="Columns of losses, `*` the source's name; as in `metric/the_pile_*_val_loss`."
    )


CONTROLS: Final = ("kept", "stated", "natural", "uniform")
ASKS_OF_RUNS: Final = ("vary", "tokens", "budget", "controls", "repetition", "learning_rate", "every", "drop")
"""Keys that say something of runs that are trained for the study; `arms:` and `table:` have none."""

_NEEDS: Final[Mapping[str, str]] = {
    "for": "`for: v1.1-math-code/continual` asks about a stage",
    "from": "`from: v1.1/basic` with `tokens:` starts arms from a checkpoint",
    "arms": "`arms: [v1.1, v1.1-wsd]` takes runs that are there",
    "table": "`table:` those of others",
}


class StudyFile(Entry):
    """studies/NAME.yaml: a question, and the runs that answer it."""

    one_of: ClassVar[tuple[str, ...]] = ("for", "from", "arms", "table")

    about: Text | None = Field(default=None, description="What is asked, for people.")
    for_: Text | None = Field(
        default=None, alias="for", description="NAME/STAGE whose setting is in question; as in `v1.1/cooldown`."
    )
    from_: Text | None = Field(
        default=None, alias="from", description="NAME[/STAGE][@TOKENS] that every arm branches from; with `tokens`."
    )
    arms: Names | None = Field(default=None, description="Curricula that are compared; as in `[v1.1, v1.1-wsd]`.")
    table: TableEntry | None = Field(default=None, description="Runs that others trained, as CSV files.")
    tokens: Tokens | None = Field(
        default=None, description="Length of each arm; with `for`, else the stage's own; as in `10B`."
    )
    vary: VaryEntry | None = Field(default=None, description="What differs between the arms.")
    goal: GoalEntry = Field(description="What is minimised and what may not get worse.")
    budget: StudyBudget | None = Field(
        default=None, description="What all runs may take, at full size: tokens, USD or gpu-hours; as in `12T tokens`."
    )
    replicates: Replicates = Field(
        default=3,
        description="Runs of each control and each proposal, each reading its text in another order; as in `3`.",
    )
    seeds: Replicates | None = Field(
        default=None,
        description="Trunks under other seeds; else 2 below full size where the second costs less than a quarter of "
        "the arms; as in `2`.",
    )
    controls: Annotated[tuple[str, ...], fields.one_or_more(fields.name)] | None = Field(
        default=None, description="Which of kept, stated, natural and uniform; else all; as in `[kept, stated]`."
    )
    always: dict[Text, ShareBounds] = Field(
        default={}, description="Source to the shares that a proposal may give it; as in `{code: 20%..40%}`."
    )
    repetition: Literal["matched", "free"] = Field(
        default="matched",
        description="matched: an arm shorter than its stage repeats text that was not read whole as the stage would, "
        "and its ramp is as much shorter; free: it does not.",
    )
    learning_rate: AnnealEntry | None = Field(
        default=None, description="How the rate of the arms falls to their end; as in `{to: 0}`."
    )
    drop: DropAt | None = Field(
        default=None,
        description="Where arms of `add` or `list` end a first time, annealed, and the worse ones are dropped; with "
        "`learning_rate`; as in `at 50%`.",
    )
    forecast: dict[Name, ForecastEntry] = Field(
        default={}, description="Schedules to order, not trained; as in `{late: {shape: wsd, horizon: 2T, decay: 1T}}`."
    )
    law: Literal["annealing", "multi-power"] | None = Field(
        default=None, description="The law of schedules: annealing or multi-power, else both."
    )
    every: EveryEntry | None = Field(default=None, description="Cadence of evaluations and checkpoints of the arms.")

    @property
    def subject(self) -> Literal["for", "from", "arms", "table"]:
        """Which of the four the file states."""
        return "for" if self.for_ else "from" if self.from_ else "arms" if self.arms else "table"

    @model_validator(mode="after")
    def _fits_its_subject(self) -> Self:
        exactly_one(self, "; ".join(_NEEDS.values()))
        stated = {type(self).model_fields[name].alias or name for name in self.model_fields_set}
        if self.subject in ("for", "from"):
            if self.vary is None:
                raise lacks("vary", type(self).model_fields["vary"].description)
            if self.subject == "from" and self.tokens is None and self.vary.tokens is None:
                raise Refusal("lacks `tokens`", "say how long each arm is, as in `tokens: 10B`")
            for key in ("forecast", "law"):
                if key in stated:
                    raise Refusal(f"is not supported with `{self.subject}:`", "it belongs to `arms:`", key)
        else:
            for key in (*ASKS_OF_RUNS, "replicates", "seeds"):
                if key in stated:
                    hint = "leave it out: no arm is trained for this study"
                    raise Refusal(f"is not supported with `{self.subject}:`", hint, key)
        if self.arms is not None:
            _unique(self.arms, "arms")
            if len(self.arms) < 2 and not self.forecast:
                raise Refusal("has one curriculum: nothing is compared", "give at least two", "arms")
        self._check_keys()
        return self

    def _check_keys(self) -> None:
        for number, name in enumerate(self.controls or ()):
            if name not in CONTROLS:
                hint = f"there are: {', '.join(CONTROLS)}"
                raise Refusal(f"is no control: `{name}`", hint, "controls", number)
        _unique(self.controls or (), "controls")
        if self.seeds is not None and 1 < self.replicates < self.seeds:
            hint = f"each replicate runs on one trunk: `replicates: {self.seeds}`, or `seeds: {self.replicates}`"
            raise Refusal(f"asks for {self.seeds} trunks of {self.replicates} replicates", hint, "seeds")
        vary = self.vary
        if vary is None:
            return
        if self.always and vary.mixture is None and vary.share is None:
            hint = "leave it out: no law proposes shares here; it belongs to `mixture` and `share`"
            raise Refusal("is not supported with what is varied", hint, "always")
        if self.drop is not None:
            if vary.add is None and vary.list is None:
                hint = "a law needs all its arms; only `add` and `list` are judged arm by arm"
                raise Refusal("is not supported with what is varied", hint, "drop")
            if self.learning_rate is None:
                hint = "add `learning_rate: {to: 0}`: arms in the middle of a schedule hide most of a difference"
                raise Refusal("needs arms that are annealed", hint, "drop")
        for key in ("learning_rate", "tokens"):
            if getattr(self, key) is not None and getattr(vary, key) is not None:
                raise Refusal("is varied as well", "state it once, here or in `vary:`", key)
        if vary.share is not None and self.goal.keep and len(vary.share.at) < LEAST_SHARES:
            hint = "three different shares below 100% fix a curve, as in `[10%, 25%, 40%]`"
            raise Refusal(f"has {len(vary.share.at)}: too few for `keep`", hint, "vary", "share", "at")

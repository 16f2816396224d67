"""A size applied to a curriculum: one scale for every length, and what the size states in place of the rest."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

from curriculum import config
from curriculum.compiler.lineage import Setting, batch_sequences, length_in_tokens
from curriculum.compiler.schedules import RateStart, ScaledRates, curve, highest, warmup_of
from curriculum.config.project import Project
from curriculum.errors import Place, PlanError
from curriculum.plan.learning_rate import LearningRate
from curriculum.units import Length


class Scaler:
    """Full-size settings as they are at one size."""

    def __init__(self, size: config.SizeEntry, size_name: str, root: Setting) -> None:
        self.size = size
        self.size_name = size_name
        self.root = root
        self.scale = size.tokens if size.tokens is not None else Fraction(1)

    def tokens(self, full: int) -> int:
        return math.ceil(full * self.scale)

    def sequence_length(self, setting: Setting) -> int:
        """The tokens of a window; a size states the root's, and others keep their ratio to it."""
        if self.size.sequence_length is None:
            return setting.sequence_length
        scaled = Fraction(self.size.sequence_length * setting.sequence_length, self.root.sequence_length)
        if scaled.denominator == 1:
            return int(scaled)
        raise PlanError(
            f"a `sequence_length` of {setting.sequence_length} is {float(scaled):.2f} tokens at this size "
            f"({self.root.sequence_length} become {self.size.sequence_length})",
            place=setting.place("sequence_length"),
            hint="take a multiple of the root's, or a size whose `sequence_length` it divides",
        )

    def batch(self, setting: Setting, batch: Length) -> int:
        """A batch that the setting states, in sequences at this size; PlanError where it does not scale."""
        full = batch_sequences(setting, batch)
        if self.size.batch is None:
            return full
        becomes = self.size.batch.to
        base = self.size.batch.from_ or batch_sequences(self.root)
        scaled = Fraction(full * becomes, base)
        if scaled.denominator == 1:
            return int(scaled)
        step = base // math.gcd(base, becomes)
        near = [n for n in (full // step * step, (full // step + 1) * step) if n]
        raise PlanError(
            f"a batch of {full} sequences is {float(scaled):.2f} sequences at this size ({base} become {becomes})",
            place=setting.place("batch"),
            hint=f"the nearest that fit: {' or '.join(f'{n} sequences' for n in near)}",
        )

    def model(self, setting: Setting) -> dict[str, Any]:
        """The numbers of the model at this size, with the stage's rotations and window; an import keeps its own."""
        if setting.imported is not None:
            numbers = {**setting.imported.model, **self._rotations(setting)}
            return {**numbers, "max_position_embeddings": self.sequence_length(setting)}
        numbers = setting.model.model_dump(exclude_none=True)
        if self.size.model is not None:
            own = self.size.model.model_dump(exclude_none=True)
            if own.keys() & {"hidden_size", "num_attention_heads"}:
                numbers.pop("head_dim", None)  # the full size's; this size's follows from its own numbers
            numbers.update(own)
            # the file's and the size's may not fit together
            config.ModelNumbers.model_construct(**numbers).check_heads()
        return {**numbers, **self._rotations(setting), "max_position_embeddings": self.sequence_length(setting)}

    def _rotations(self, setting: Setting) -> dict[str, Any]:
        """What stages state of the rotations; where a size scales the model, their context is scaled as windows."""
        stated: dict[str, Any] = {}
        if setting.rope_theta is not None:
            stated["rope_theta"] = float(setting.rope_theta)
        if setting.rope_scaling is not None:
            stated["rope_scaling"] = scaling = setting.rope_scaling.model_dump(exclude_none=True)
            context = scaling.get("original_max_position_embeddings")
            if context is not None and self.size.sequence_length is not None and setting.imported is None:
                ratio = Fraction(self.size.sequence_length, self.root.sequence_length)
                scaling["original_max_position_embeddings"] = max(1, round(context * ratio))
        return stated

    def optimizer(self, setting: Setting) -> dict[str, Any]:
        """The optimizer of a plan; a later version's key is absent unless it is stated.

        The half-life of a moving average is in tokens at this size; its steps are those of the root's first batch, as
        of the learning rate.
        """
        numbers = setting.optimizer.model_dump(exclude_none=True)
        if setting.optimizer.ema is not None:
            numbers["ema"] = self.length(self.root, setting.optimizer.ema, "optimizer")
        return numbers

    def length(self, setting: Setting, length: Length, key: str) -> int:
        """The length at `key`, in scaled tokens; steps are those of the stage's full-size batch."""
        return self.tokens(length_in_tokens(setting, length, key))

    def small(self, setting: Setting, length: Length) -> int:
        """A length that the size itself states, in tokens; steps and sequences are this size's."""
        return length.tokens(
            sequence_length=self.sequence_length(setting), batch_sequences=self.batch(setting, setting.batch)
        )

    def learning_rate(self, setting: Setting, start: RateStart | None = None) -> tuple[LearningRate, int | None]:
        """The setting's curve at this size; and, where a floor lengthened its warm-up, the scaled warm-up in tokens.

        Its steps are those of the root's first batch; a curve of the shape `decay` falls from `start`, over steps of
        the stage's own, as `tokens` counts them.
        """
        entry = setting.learning_rate
        own = self.size.learning_rate if setting.imported is None else None
        low, ratio, warmup, rise = entry.min, Fraction(1), None, warmup_of(entry)
        if own is not None:
            # The size states the top of the root's curve; the rest of it, and any other curve, keeps its ratio to that.
            root = self.root.learning_rate
            if own.max is not None:
                ratio = own.max / highest(root)
                low *= ratio
            if own.min is not None and entry.shape not in ("constant", "decay"):
                low = entry.min * own.min / root.min if root.min else own.min
            if own.warmup is not None and rise == warmup_of(root):
                warmup = self.small(self.root, own.warmup)
        if warmup is None:
            warmup = self.length(self.root, rise, "learning_rate") if rise else 0
        floor = self.size.at_least.warmup if self.size.at_least else None
        lengthened = None
        if floor is not None and 0 < warmup < self.small(self.root, floor):
            lengthened, warmup = warmup, self.small(self.root, floor)
        counted_in = setting if entry.shape == "decay" else self.root
        scaled = ScaledRates(
            rate=lambda rate: float(rate * ratio),
            length=lambda length: self.length(counted_in, length, "learning_rate"),
            low=float(low),
            warmup=warmup,
        )
        return curve(entry, scaled, start), lengthened


def size_place(project: Project, size_name: str, *keys: str) -> Place | None:
    """The place at which a size overrides the stage files; None when it does not."""
    path = (size_name, *keys)
    return project.sizes_document.place(path) if path in project.sizes_document else None

"""What a plan at one size has in other proportions than at full size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from curriculum import config
from curriculum.compiler.cadence import held_out_windows
from curriculum.compiler.compile import Compiled
from curriculum.compiler.lineage import length_in_tokens
from curriculum.compiler.scaling import Scaler
from curriculum.plan.model import ModelConfig
from curriculum.units import show_count, show_exact


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeDifference:
    """A figure of the plan as text, and the same at full size."""

    what: str
    here: str
    full_size: str


def size_differences(compiled: Compiled) -> list[SizeDifference]:
    """What differs, the lengths first. A length that is only scaled is the same share of the whole, and not listed."""
    root, last = compiled.stages[0], compiled.stages[-1]
    setting, plan, curve = root.setting, root.plan, root.plan.learning_rate
    full = Scaler(config.SizeEntry(), "full", setting)
    full_curve, _ = full.learning_rate(setting)
    rows = [
        ("length", f"{show_count(last.stop)} tokens", f"{show_count(last.left_at)} tokens"),
        ("window", f"{show_exact(plan.sequence_length)} tokens", f"{show_exact(setting.sequence_length)} tokens"),
        ("batch", f"{plan.batch_sequences} sequences", f"{full.batch(setting, setting.batch)} sequences"),
        ("model", _parameters(plan.model), _parameters(full.model(setting))),
        ("tokenizer", compiled.tokenizer, setting.tokenizer),
        ("highest learning rate", f"{curve.max:.3g}", f"{full_curve.max:.3g}"),
        ("lowest learning rate", f"{curve.min:.3g}", f"{full_curve.min:.3g}"),
        (
            "windows of an evaluation",
            *(show_exact(n) for n in (root.held_out_windows, held_out_windows(setting, full))),
        ),
    ]
    lengths = [("warm-up", curve.warmup, full_curve.warmup)]
    names = [stage.setting.stage for stage in compiled.stages]
    for stage in compiled.stages:
        name = stage.name if names.count(stage.setting.stage) > 1 else stage.setting.stage
        if (ramp := stage.setting.ramp) is not None:
            sequences, tokens = stage.ramp_sequences, length_in_tokens(stage.setting, ramp, "ramp")
            lengths.append((f"ramp in {name}", sequences * stage.plan.sequence_length, tokens))
    for what, here, full_size in lengths:
        shares = f"{here / last.stop:.2%}", f"{full_size / last.left_at:.2%}"
        rounded = not compiled.scaled and 0 <= here - full_size < plan.sequence_length
        if shares[0] != shares[1] and not rounded:
            rows.append(
                (
                    what,
                    *(f"{show_count(n)}, {share} of all" for n, share in zip((here, full_size), shares, strict=True)),
                )
            )
    return [
        SizeDifference(what=what, here=here, full_size=full_size)
        for what, here, full_size in rows[not compiled.scaled :]  # an unscaled length is rounded to steps
        if here != full_size
    ]


def _parameters(model: Mapping[str, Any]) -> str:
    return f"{show_count(ModelConfig.from_json(model).parameters)} parameters"

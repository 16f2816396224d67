"""Which windows and documents a step reads, computed from the plan and looked up in the prepared text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from curriculum.compiler.compile import Compiled, CompiledStage
from curriculum.compiler.prepared_text import PreparedText
from curriculum.errors import NotFound
from curriculum.plan.stage import StagePlan

if TYPE_CHECKING:
    from curriculum.data.dataset import Dataset

TEXT_TOKENS = 48


def stage_of(compiled: Compiled, step: int) -> CompiledStage:
    """The stage of a lineage that takes `step`; NotFound beyond its end."""
    for stage in compiled.stages:
        if stage.plan.first_step <= step < stage.plan.first_step + stage.steps_run:
            return stage
    last = compiled.stages[-1]
    raise NotFound(
        f"`{compiled.curriculum}` has no step {step:,}",
        hint=f"its steps are 0 to {last.plan.first_step + last.steps_run - 1:,}",
    )


def batch(
    compiled: Compiled,
    texts: PreparedText,
    step: int,
    *,
    rank: int | None = None,
    ranks: int | None = None,
    text: bool = False,
    full_text: bool = False,
) -> dict[str, Any]:
    """The slots of `step` in order: source, pass, window and, where the text is prepared, its documents.

    With `text` also the beginning of each window's text, with `full_text` all of it.
    """
    stage = stage_of(compiled, step)
    plan = stage.plan
    draws = plan.draws(step)
    first = 0
    if rank is not None:
        count = ranks or rank + 1
        draws = draws.rank(rank, count)
        first = rank * plan.batch_of(step) // count
    datasets = {name: _open(plan, texts, name) for name in {draws.names[s] for s in draws.source}}
    slots = []
    for at in range(len(draws.window)):
        name = draws.names[draws.source[at]]
        window = int(draws.window[at])
        slot: dict[str, Any] = {
            "slot": first + at,
            "source": name,
            "item": int(draws.item[at]),
            "pass": int(draws.pass_number[at]),
            "window": window,
        }
        dataset = datasets[name]
        if dataset is not None:
            slot["documents"] = [
                {"id": span.id, "tokens": span.tokens, "offset": span.offset} for span in dataset.documents(window)
            ]
            if (text or full_text) and texts.loaded_tokenizer is not None:
                import numpy as np

                row = dataset.read(np.array([window]))[0][: None if full_text else TEXT_TOKENS]
                slot["text"] = texts.loaded_tokenizer.decode(row.tolist())
        slots.append(slot)
    return {
        "curriculum": stage.setting.curriculum,
        "stage": stage.setting.stage,
        "step": step,
        "position": plan.position_before(step),
        "lr": plan.lr(step),
        "sequence_length": plan.sequence_length,
        "batch_sequences": plan.batch_of(step),
        "prepared": all(dataset is not None for dataset in datasets.values()),
        "slots": slots,
    }


def _open(plan: StagePlan, texts: PreparedText, source: str) -> Dataset | None:
    dataset = plan.sources[source].dataset
    if texts.manifest(dataset) is None:
        return None
    from curriculum.data.dataset import Dataset  # not at the top: `batch` starts faster where nothing is prepared

    return Dataset.open(texts.folder(dataset), sequence_length=plan.sequence_length)

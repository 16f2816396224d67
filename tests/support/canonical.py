"""Canonical steps on every mesh that so many ranks can form; run as a script, one rank of several.

python canonical.py FOLDER FROM      under torchrun's environment variables; see `main`
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import ranks as steps
import torch

from curriculum.plan.model import ModelConfig
from curriculum.stream import reader
from curriculum.stream.batch import Batch
from runner.checkpoint import tensors
from runner.model.init import initialise
from runner.model.transformer import Transformer
from runner.parallel import fsdp
from runner.parallel.canonical import groups_of
from runner.parallel.ranks import Ranks, join_ranks, leave_ranks
from runner.train.optimizer import AdamW, adamw
from runner.train.step import forward_backward, update

BATCH, MICRO, STEPS, SAVED = 16, 2, 3, 1
MESHES = {1: {"(1, 1)": 1}, 2: {"(1, 2)": 2, "(2, 1)": 1}, 4: {"(1, 4)": 4, "(2, 2)": 2, "(4, 1)": 1}}
PLAN = steps.small_plan(batch=BATCH)
SWITCHES: dict[str, dict[str, Any]] = {
    "Qwen3's": {
        "attention_bias": "all",
        "mlp_bias": True,
        "qk_norm": "head",
        "no_rope": 2,
        "tie_word_embeddings": True,
    },
    "OLMo 3's": {"norm": "after", "qk_norm": "all", "sliding_window": 3, "full_attention": 2},
}
"""Switches of other families, all of which train in fp32 on every mesh too."""


def batch(step: int, ranks: Ranks, groups: int) -> Batch:
    tokens = np.random.default_rng(step).integers(0, steps.MODEL["vocab_size"], (BATCH, steps.LENGTH + 1))
    source = np.arange(BATCH, dtype=np.int32) % 4 // 3
    mine = reader.slots_of(BATCH, ranks.rank, ranks.size, groups)
    return Batch(step, PLAN.lr(step), tokens[mine], source[mine], PLAN.names)


def build(
    ranks: Ranks, *, bf16: bool, canonical: bool = True, switches: Mapping[str, Any] = MappingProxyType({})
) -> tuple[Transformer, AdamW]:
    model = Transformer(ModelConfig.from_json({**PLAN.model, **switches}))
    initialise(model, PLAN.seed)
    fsdp.apply(
        model,
        ranks,
        sharding="hybrid",
        bf16=bf16,
        activation_checkpointing="none",
        compile_blocks=False,
        canonical=canonical,
    )
    return model, adamw(model, PLAN.optimizer)


def take(model: Transformer, optimizer: AdamW, step: int, ranks: Ranks) -> float:
    groups = groups_of(BATCH, MICRO, ranks)
    forward_backward(model, batch(step, ranks, groups), MICRO, PLAN, groups)
    return float(update(model, optimizer, PLAN, step, ranks, canonical=True))


def digest(model: Transformer, optimizer: torch.optim.Optimizer) -> str:
    """Of all weights and moments, whole."""
    fsdp.reshard(model)
    found = hashlib.sha256()
    for name, parameter in model.named_parameters():
        for tensor in (parameter, *(optimizer.state[parameter][moment] for moment in tensors.MOMENTS)):
            found.update(name.encode() + steps.whole(tensor).numpy().tobytes())
    return found.hexdigest()


def run(ranks: Ranks, folder: Path, other: Path | None) -> dict[str, Any]:
    """Every mesh in fp32 and bf16: digests after STEPS steps, norms; then the same from `other`'s checkpoint."""
    report: dict[str, Any] = {}
    for mesh, shard in MESHES[ranks.size].items():
        here = replace(ranks, local_size=shard)
        for bf16 in (False, True):
            name = f"{mesh} {'bf16' if bf16 else 'fp32'}"
            model, optimizer = build(here, bf16=bf16)
            norms = []
            for step in range(STEPS):
                if step == SAVED and not bf16:
                    tensors.save(folder / mesh, model, optimizer, {"step": step}, here)
                norms.append(take(model, optimizer, step, here))
            report[name] = {"digest": digest(model, optimizer), "norms": norms}
        for name, switches in SWITCHES.items():
            model, optimizer = build(here, bf16=False, switches=switches)
            norms = [take(model, optimizer, step, here) for step in range(STEPS)]
            report[f"{mesh} {name}"] = {"digest": digest(model, optimizer), "norms": norms}
        if other is not None:
            model, optimizer = build(here, bf16=False)
            begin = tensors.load(other, model, optimizer)["step"]
            for step in range(begin, STEPS):
                take(model, optimizer, step, here)
            report[f"{mesh} resumed"] = {"digest": digest(model, optimizer)}
    return report


def main(folder: Path, other: str) -> None:
    torch.set_num_threads(1)
    ranks = join_ranks("cpu")
    report = run(ranks, folder, Path(other) if other else None)
    if ranks.first:
        (folder / "report.json").write_text(json.dumps(report))
    leave_ranks(ranks)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])

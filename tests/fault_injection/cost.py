"""R23: what integrity costs of a save's time and of a step's."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.fault_injection.figures import ROOT, Case, Tally, figure

SAVE_SHARE, STEP_SHARE = 0.10, 0.02


def _trained(hidden: int, layers: int) -> tuple[Any, Any, dict[str, Any]]:
    import torch

    from curriculum.plan.model import ModelConfig
    from runner.model import attention
    from runner.model.init import initialise
    from runner.model.transformer import Transformer
    from runner.train.optimizer import adamw
    from tests.fault_injection import small

    torch.set_num_threads(1)
    numbers = {
        **small.MODEL,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "intermediate_size": 3 * hidden,
        "num_attention_heads": hidden // 32,
        "num_key_value_heads": hidden // 64,
        "vocab_size": 4096,
        "max_position_embeddings": 128,
    }
    model = Transformer(ModelConfig.from_json(numbers), attention.sdpa)
    initialise(model, 1)
    return model, adamw(model, small.NUMBERS), numbers


def _saved(folder: Path, model: Any, optimizer: Any, *, bare: bool) -> tuple[float, float]:
    """Seconds until training goes on, and until the checkpoint is durable; `bare` writes and syncs, no more."""
    import torch

    from curriculum import fs
    from curriculum.artifacts import checkpoints
    from curriculum.fs import files
    from runner.checkpoint import tensors
    from runner.parallel.ranks import Ranks

    kept = checkpoints.seal, files.blake3_hasher
    if bare:
        checkpoints.seal = lambda folder, known: fs.write_json(folder / checkpoints.MANIFEST, {})
        files.blake3_hasher = lambda: SimpleNamespace(update=lambda block: None, hexdigest=lambda: "")
    try:
        saver = tensors.Saver(Ranks(0, 1, 1, torch.device("cpu")))
        began = time.monotonic()
        saver.begin(folder, model, optimizer, {"step": 1, "position": 1})
        stood = time.monotonic() - began
        saver.wait()
        return stood, time.monotonic() - began
    finally:
        checkpoints.seal, files.blake3_hasher = kept
        fs.remove(folder)


@figure("R23", "integrity: share of a save's and of a step's time, least of several measurements")
def cost(case: Case, tally: Tally) -> None:
    import tempfile

    import torch

    from runner.model.loss import next_token_loss
    from runner.parallel import replica_check

    hidden, layers = (128, 2) if case.size == "smoke" else (512, 8)
    model, optimizer, _ = _trained(hidden, layers)
    rounds = case.count(2, 5, 20)
    with tempfile.TemporaryDirectory(
        prefix=".fault-injection-", dir=ROOT
    ) as folder:  # a disk, where fsync takes its time
        bare = [_saved(Path(folder, "bare"), model, optimizer, bare=True) for _ in range(rounds)]
        whole = [_saved(Path(folder, "whole"), model, optimizer, bare=False) for _ in range(rounds)]
    stood = min(one for one, _ in whole)
    less, more = min(all_ for _, all_ in bare), min(all_ for _, all_ in whole)
    tokens = torch.zeros((4, 129), dtype=torch.int64)
    steps = []
    for _ in range(max(3, rounds)):
        began = time.monotonic()
        total, _ = next_token_loss(model(tokens[:, :-1]), model.head.weight, tokens[:, 1:])
        torch.autograd.backward(total)
        optimizer.step()
        optimizer.zero_grad()
        steps.append(time.monotonic() - began)
    began = time.monotonic()
    replica_check.fingerprint(model, optimizer)
    look = time.monotonic() - began
    share = look / replica_check.EVERY / min(steps)
    tally.notes |= {
        "checkpoint, MiB": round(sum(p.numel() for p in model.parameters()) * 12 / (1 << 20)),
        "training stands still for a save, seconds": round(stood, 3),
        "a save until it is durable, seconds, without and with digests": f"{less:.3f}, {more:.3f}",
        "digests' share of a save, which training does not wait for": f"{max(0.0, 1 - less / more):.1%}",
        "a look at the ranks' copies, share of a step": f"{share:.2%}",
    }
    if case.size == "smoke":
        tally.trial("a look costs more than the steps between two", share < 1)
        return
    tally.trial(f"digests take {1 - less / more:.1%} of a save's time", more * (1 - SAVE_SHARE) <= less)
    tally.trial(f"looks take {share:.2%} of a step", share <= STEP_SHARE)

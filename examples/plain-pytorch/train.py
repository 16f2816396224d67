"""A plain PyTorch loop as the trainer of a stage: `curriculum run plain --machine plain` starts it, stage by stage.

On any number of ranks: each computes the gradient of its part of a step, and the parts are added.
"""

from __future__ import annotations

from pathlib import Path

from curriculum.stream import join, witness


def agree(flag: bool) -> bool:
    return any_rank(flag)


stage = join(agree=agree)  # before torch, which takes seconds to import: from here on a signal to stop is noticed

import numpy as np  # noqa: E402
import torch  # noqa: E402

from curriculum.integrations.torch import any_rank  # noqa: E402

MICRO_BATCH = 4
if stage.world_size > 1:
    torch.distributed.init_process_group("gloo")


def added(values: torch.Tensor) -> torch.Tensor:
    """The sum over all ranks, in place."""
    if stage.world_size > 1:
        torch.distributed.all_reduce(values)
    return values


class Network(torch.nn.Module):
    """A small causal transformer: tokens `[n, L]` to logits `[n, L, vocabulary]`."""

    def __init__(self, vocabulary: int, length: int, width: int = 32) -> None:
        super().__init__()
        self.tokens = torch.nn.Embedding(vocabulary, width)
        self.places = torch.nn.Embedding(length, width)
        self.block = torch.nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True)
        self.head = torch.nn.Linear(width, vocabulary)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        length = tokens.shape[1]
        mask = torch.nn.Transformer.generate_square_subsequent_mask(length)
        states = self.tokens(tokens) + self.places(torch.arange(length))
        return self.head(self.block(states, src_mask=mask, is_causal=True))


torch.manual_seed(stage.plan.seed)
network = Network(stage.stream.vocab_size, stage.stream.sequence_length)
optimizer = torch.optim.AdamW(network.parameters(), betas=(0.9, 0.95), weight_decay=0.1)


def losses(tokens: np.ndarray) -> torch.Tensor:
    """The summed loss of each window of `[n, L + 1]` tokens, in nats."""
    rows = torch.from_numpy(tokens)
    logits = network(rows[:, :-1].contiguous())
    each = torch.nn.functional.cross_entropy(logits.transpose(1, 2), rows[:, 1:].contiguous(), reduction="none")
    return each.sum(dim=1)


def save(folder: Path) -> None:
    if stage.first:  # every rank has the same
        torch.save({"network": network.state_dict(), "optimizer": optimizer.state_dict()}, folder / "state.pt")


def load(folder: str) -> None:
    state = torch.load(f"{folder}/state.pt", weights_only=True)
    network.load_state_dict(state["network"])
    if stage.resume.optimizer:
        optimizer.load_state_dict(state["optimizer"])


def evaluate() -> None:
    with torch.no_grad():
        stage.evaluate(losses)


with stage:  # holds the stage's lock, and has verified what it resumes from
    if stage.resume.folder is not None:
        load(stage.resume.folder)
    if stage.should_evaluate():
        evaluate()
    loss, seen = 0.0, 0
    for batch in stage.batches(micro_batch=MICRO_BATCH):
        tokens_of_step = stage.plan.tokens_of(batch.step)
        total = losses(batch.tokens).sum()
        (total / tokens_of_step).backward()
        loss, seen = loss + float(total.detach()), (seen + witness(batch.inputs)) % 2**64
        if not batch.last:
            continue
        for parameter in network.parameters():
            added(parameter.grad)
        loss = float(added(torch.tensor(loss, dtype=torch.float64)))
        seen = int(added(torch.tensor(seen - 2**64 if seen >= 2**63 else seen))) % 2**64  # it wraps, as a witness does
        for group in optimizer.param_groups:
            group["lr"] = batch.lr
        norm = torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        stage.took(batch.step, loss=loss / tokens_of_step, grad_norm=float(norm), witness=seen)
        loss, seen = 0.0, 0
        if stage.should_evaluate():
            evaluate()
        if stage.should_save():
            with stage.checkpoint() as folder:
                save(folder)

"""Forward passes of the model over a batch: hidden states, and per-token losses."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from curriculum.stream.batch import document_bounds
from runner.model import attention
from runner.model.loss import next_token_losses
from runner.model.transfer import to_device
from runner.model.transformer import Transformer


def losses(model: Transformer, rows: NDArray[np.int64], eos: int | None = None) -> torch.Tensor:
    """Loss of every target of `rows` `[n, sequence_length + 1]`, in nats, shape `[n, sequence_length]`, on the device.

    With `eos`, which ends a document, no token attends to another document.
    """
    bounds = None if eos is None else document_bounds(rows, eos)
    tokens = to_device(torch.from_numpy(rows), model.embedding.weight.device)
    out: torch.Tensor = model.head(hidden(model, tokens, bounds), tokens[:, 1:], next_token_losses)
    return out


def hidden(model: Transformer, tokens: torch.Tensor, bounds: NDArray[np.int32] | None) -> torch.Tensor:
    """The hidden states at the inputs of `tokens`; with `bounds` no token attends to another document."""
    inputs = tokens[:, :-1]
    if bounds is None:
        return model(inputs)  # type: ignore[no-any-return]
    numbered = model.attend in attention.NUMBERED
    documents = attention.documents(bounds, *inputs.shape, numbered=numbered).to(inputs.device)
    if model.compiled:  # else each number of documents is a graph of its own, and the compiler gives up after eight
        torch._dynamo.mark_dynamic(documents.bounds, 0)
    return model(inputs, documents)  # type: ignore[no-any-return]

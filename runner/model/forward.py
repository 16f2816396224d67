"""Forward passes of the model over a batch: hidden states, and per-token losses."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from curriculum.stream.batch import document_bounds
from runner.model import attention
from runner.model.llama import Llama
from runner.model.loss import next_token_losses


def losses(model: Llama, tokens: torch.Tensor, eos: int | None = None) -> torch.Tensor:
    """Loss of every target of `tokens` `[n, sequence_length + 1]`, in nats, shape `[n, sequence_length]`.

    With `eos`, which ends a document, no token attends to another document.
    """
    bounds = None if eos is None else document_bounds(tokens.cpu().numpy(), eos)
    return next_token_losses(hidden(model, tokens, bounds), model.head.weight, tokens[:, 1:])


def hidden(model: Llama, tokens: torch.Tensor, bounds: NDArray[np.int32] | None) -> torch.Tensor:
    """The hidden states at the inputs of `tokens`; with `bounds` no token attends to another document."""
    inputs = tokens[:, :-1]
    if bounds is None:
        return model(inputs)  # type: ignore[no-any-return]
    documents = attention.documents(bounds, *inputs.shape)
    return model(inputs, documents.to(inputs.device))  # type: ignore[no-any-return]

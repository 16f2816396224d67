"""Llama models as transformers saves them, small and with weights that matter, for tests of import and export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

LLAMA_3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
VOCABULARY = 300


def model(
    *,
    dtype: torch.dtype = torch.float32,
    tied: bool = False,
    rope: dict[str, Any] | None = None,
    seed: int = 0,
    **numbers: Any,
) -> LlamaForCausalLM:
    """A model whose norms are not all 1 and whose attention is not flat."""
    torch.manual_seed(seed)
    stated = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 64,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 128,
        "initializer_range": 0.2,
        "bos_token_id": None,
        "eos_token_id": 0,
    } | numbers
    made = LlamaForCausalLM(LlamaConfig(**stated, tie_word_embeddings=tied, rope_parameters=rope))
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "norm" in name:
                parameter.add_(torch.randn(parameter.shape), alpha=0.2)
    return made.to(dtype).eval()


def tokenizer() -> PreTrainedTokenizerFast:
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["</s>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    inner.train_from_iterator(["the sea was calm and grey ships went slowly home under rain"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>")


def save(folder: Path, made: LlamaForCausalLM | None = None, *, shard: str = "5GB", **numbers: Any) -> Path:
    """Write a model's directory as transformers does, its tokenizer beside it."""
    (made or model(**numbers)).save_pretrained(folder, max_shard_size=shard)
    tokenizer().save_pretrained(folder)
    return folder


def tokens() -> torch.Tensor:
    """The same tokens whenever they are asked for, shape `[3, 24]`."""
    return torch.randint(VOCABULARY, (3, 24), generator=torch.Generator().manual_seed(2))


def logits(made: Any) -> torch.Tensor:
    """A transformers model's fp32 logits of `tokens()`, shape `[3, 24, vocabulary]`."""
    with torch.no_grad():
        out: torch.Tensor = made.float()(tokens()).logits
    return out

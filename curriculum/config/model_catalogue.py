"""The models that a curriculum may name: Llama-architecture numbers under Hugging Face's key names.

Each is as in its own published `config.json`, from which the parameter count in the comment follows;
`llama-20m` is ours. `max_position_embeddings` is never among them: it is the curriculum's sequence length.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final


def _llama(
    hidden_size: int,
    num_hidden_layers: int,
    num_attention_heads: int,
    num_key_value_heads: int,
    intermediate_size: int,
    vocab_size: int,
    *,
    rope_theta: int = 10000,
    tie_word_embeddings: bool = False,
    **others: Any,
) -> Mapping[str, Any]:
    return {
        "hidden_size": hidden_size,
        "num_hidden_layers": num_hidden_layers,
        "num_attention_heads": num_attention_heads,
        "num_key_value_heads": num_key_value_heads,
        "intermediate_size": intermediate_size,
        "vocab_size": vocab_size,
        "rms_norm_eps": "1e-5",
        "rope_theta": rope_theta,
        "tie_word_embeddings": tie_word_embeddings,
        **others,
    }


_LLAMA_3_ROPE: Final[Mapping[str, Any]] = {
    "rope_type": "llama3",
    "factor": 32,
    "low_freq_factor": 1,
    "high_freq_factor": 4,
    "original_max_position_embeddings": 8192,
}

CATALOGUE: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        # 1,100,048,384 parameters: Zhang et al. 2024, "TinyLlama", section 2.2
        "tinyllama-1.1b": _llama(2048, 22, 32, 4, 5632, 32000),
        # 134,515,008 parameters
        "smollm2-135m": _llama(576, 30, 9, 3, 1536, 49152, rope_theta=100000, tie_word_embeddings=True),
        # 361,821,120 parameters
        "smollm2-360m": _llama(960, 32, 15, 5, 2560, 49152, rope_theta=100000, tie_word_embeddings=True),
        # 1,711,376,384 parameters
        "smollm2-1.7b": _llama(2048, 24, 32, 32, 8192, 49152, rope_theta=130000, tie_word_embeddings=True),
        # 1,235,814,400 parameters
        "llama-3.2-1b": _llama(
            *(2048, 16, 32, 8, 8192, 128256),
            head_dim=64,
            rope_theta=500000,
            rope_scaling=_LLAMA_3_ROPE,
            tie_word_embeddings=True,
        ),
        # 21,109,248 parameters: for trials, with the rehearsal's vocabulary
        "llama-20m": _llama(512, 6, 8, 2, 1408, 4096),
        # 6,738,415,616 parameters
        "llama-2-7b": _llama(4096, 32, 32, 32, 11008, 32000),
    }
)

"""The models a curriculum may call by name: Llama-architecture numbers under Hugging Face's key names.

Each is as in its own published `config.json`, from which the parameter count in the comment follows.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

CATALOGUE: Final[Mapping[str, Mapping[str, int | str | bool]]] = MappingProxyType(
    {
        # 1,100,048,384 parameters: Zhang et al. 2024, "TinyLlama", section 2.2
        "tinyllama-1.1b": {
            "hidden_size": 2048,
            "num_hidden_layers": 22,
            "num_attention_heads": 32,
            "num_key_value_heads": 4,
            "intermediate_size": 5632,
            "vocab_size": 32000,
            "rms_norm_eps": "1e-5",
            "rope_theta": 10000,
            "tie_word_embeddings": False,
        },
        # 134,515,008 parameters
        "smollm2-135m": {
            "hidden_size": 576,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "intermediate_size": 1536,
            "vocab_size": 49152,
            "rms_norm_eps": "1e-5",
            "rope_theta": 100000,
            "tie_word_embeddings": True,
        },
        # 6,738,415,616 parameters
        "llama-2-7b": {
            "hidden_size": 4096,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "intermediate_size": 11008,
            "vocab_size": 32000,
            "rms_norm_eps": "1e-5",
            "rope_theta": 10000,
            "tie_word_embeddings": False,
        },
    }
)

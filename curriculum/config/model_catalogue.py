"""The models a curriculum may call by name: Llama-architecture numbers under Hugging Face's key names.

Each is as in its own published `config.json`, from which the parameter count in the comment follows;
`llama-20m` is ours. `max_position_embeddings` is never among them: it is the curriculum's sequence length.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

CATALOGUE: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
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
        # 361,821,120 parameters
        "smollm2-360m": {
            "hidden_size": 960,
            "num_hidden_layers": 32,
            "num_attention_heads": 15,
            "num_key_value_heads": 5,
            "intermediate_size": 2560,
            "vocab_size": 49152,
            "rms_norm_eps": "1e-5",
            "rope_theta": 100000,
            "tie_word_embeddings": True,
        },
        # 1,711,376,384 parameters
        "smollm2-1.7b": {
            "hidden_size": 2048,
            "num_hidden_layers": 24,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "intermediate_size": 8192,
            "vocab_size": 49152,
            "rms_norm_eps": "1e-5",
            "rope_theta": 130000,
            "tie_word_embeddings": True,
        },
        # 1,235,814,400 parameters
        "llama-3.2-1b": {
            "hidden_size": 2048,
            "num_hidden_layers": 16,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 64,
            "intermediate_size": 8192,
            "vocab_size": 128256,
            "rms_norm_eps": "1e-5",
            "rope_theta": 500000,
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 32,
                "low_freq_factor": 1,
                "high_freq_factor": 4,
                "original_max_position_embeddings": 8192,
            },
            "tie_word_embeddings": True,
        },
        # 21,109,248 parameters: for trials, with the rehearsal's vocabulary
        "llama-20m": {
            "hidden_size": 512,
            "num_hidden_layers": 6,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "intermediate_size": 1408,
            "vocab_size": 4096,
            "rms_norm_eps": "1e-5",
            "rope_theta": 10000,
            "tie_word_embeddings": False,
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

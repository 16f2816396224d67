"""The keys of a `config.json`: those that a family is read by, those without effect, and those that are neither."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

REFUSED = (
    *("quantization_config", "per_layer_config", "fusion_config", "transformers_weights"),
    *("text_config", "text_encoder", "decoder", "generator", "kv_sharing_modes"),
)
"""Keys by which transformers reads other weights or builds another model; refused for every value but null."""

_READ = frozenset(
    (
        *("model_type", "architectures", "auto_map", "vocab_size", "hidden_size", "intermediate_size", "hidden_act"),
        *("num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "max_position_embeddings"),
        *("rms_norm_eps", "tie_word_embeddings", "layer_types", "is_causal"),
        *("rope_parameters", "rope_scaling", "rope_theta", "partial_rotary_factor"),
        *REFUSED,
    )
)
_WINDOWS = ("use_sliding_window", "sliding_window")
_OF_FAMILY: Mapping[str, tuple[str, ...]] = {
    "llama": ("attention_bias", "mlp_bias"),
    "mistral": ("sliding_window",),
    "granite": (
        *("attention_bias", "mlp_bias", "embedding_multiplier", "residual_multiplier", "attention_multiplier"),
        "logits_scaling",
    ),
    "qwen2": (*_WINDOWS, "max_window_layers"),
    "qwen3": (*_WINDOWS, "max_window_layers", "attention_bias"),
    "smollm3": (*_WINDOWS, "no_rope_layers", "no_rope_layer_interval", "attention_bias", "mlp_bias"),
    "olmo2": ("attention_bias",),
    "olmo3": ("attention_bias", "sliding_window"),
}
"""What else the classes of the families read."""

WITHOUT_EFFECT = frozenset(
    (
        # what wrote the file and how it is loaded
        *("transformers_version", "_name_or_path", "name_or_path", "_commit_hash", "dtype", "torch_dtype"),
        *("tokenizer_class", "attn_implementation", "_attn_implementation", "_attn_implementation_autoset"),
        *("use_cache", "return_dict", "output_hidden_states", "output_attentions", "torchscript"),
        *("gradient_checkpointing", "chunk_size_feed_forward", "pretraining_tp", "use_bfloat16", "tf_legacy_loss"),
        # first weights and training by its class; the ids of a tokenizer
        *("initializer_range", "attention_dropout", "pad_token_id", "bos_token_id", "eos_token_id", "sep_token_id"),
        # other tasks
        *("id2label", "label2id", "num_labels", "problem_type", "finetuning_task", "task_specific_params", "prefix"),
        *("is_encoder_decoder", "is_decoder", "add_cross_attention", "cross_attention_hidden_size"),
        *("tie_encoder_decoder", "decoder_start_token_id", "pruned_heads", "tie_last_hidden_states"),
        # generation, as version 4 wrote it here
        *("max_length", "min_length", "do_sample", "early_stopping", "num_beams", "num_beam_groups", "temperature"),
        *("top_k", "top_p", "typical_p", "repetition_penalty", "length_penalty", "diversity_penalty"),
        *("no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences"),
        *("output_scores", "return_dict_in_generate", "forced_bos_token_id", "forced_eos_token_id"),
        *("remove_invalid_values", "exponential_decay_length_penalty", "suppress_tokens", "begin_suppress_tokens"),
    )
)
"""Keys that change no logits of any family. Most are those of transformers' own base class."""


def read_keys(kind: str) -> frozenset[str]:
    """The keys that decide what the family's class computes; our reader follows or refuses each."""
    outside = () if kind == "olmo3" else ("original_max_position_embeddings",)
    return _READ | {*_OF_FAMILY[kind], *outside}


def unread(kind: str, config: Mapping[str, Any]) -> tuple[str, ...]:
    """The keys that say something, are not known to be without effect, and are not read."""
    handled_keys = read_keys(kind) | WITHOUT_EFFECT
    return tuple(key for key, value in config.items() if key not in handled_keys and value not in (None, False))


def resembled(kind: str, key: str) -> str | None:
    """The key of the family that `key` may be a misspelling of."""
    similar = difflib.get_close_matches(key, sorted(read_keys(kind)), n=1, cutoff=0.88)
    return similar[0] if similar else None

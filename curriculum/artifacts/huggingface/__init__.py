"""Hugging Face directories: what one holds, which bytes it is, the words of one that we write."""

from __future__ import annotations

from curriculum.artifacts.huggingface import families as families
from curriculum.artifacts.huggingface.config import config_of as config_of, with_dtype as with_dtype
from curriculum.artifacts.huggingface.digests import (
    digest as digest,
    known_sums as known_sums,
    remember_sums as remember_sums,
    stamp as stamp,
)
from curriculum.artifacts.huggingface.directory import Directory as Directory, read as read
from curriculum.artifacts.huggingface.files import (
    BYTES as BYTES,
    CONFIG as CONFIG,
    INDEX as INDEX,
    README as README,
    SOURCE as SOURCE,
    TOKENIZER as TOKENIZER,
    WEIGHTS as WEIGHTS,
    is_carried as is_carried,
    is_weights as is_weights,
    read_json as read_json,
)

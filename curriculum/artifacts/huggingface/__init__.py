"""Hugging Face directories of Llama models: what one holds, which bytes it is, the words of one that we write."""

from __future__ import annotations

from curriculum.artifacts.huggingface.config import config_of as config_of
from curriculum.artifacts.huggingface.config import with_dtype as with_dtype
from curriculum.artifacts.huggingface.digests import digest as digest
from curriculum.artifacts.huggingface.digests import known_sums as known_sums
from curriculum.artifacts.huggingface.digests import remember_sums as remember_sums
from curriculum.artifacts.huggingface.digests import stamp as stamp
from curriculum.artifacts.huggingface.directory import Directory as Directory
from curriculum.artifacts.huggingface.directory import read as read
from curriculum.artifacts.huggingface.files import BYTES as BYTES
from curriculum.artifacts.huggingface.files import CONFIG as CONFIG
from curriculum.artifacts.huggingface.files import INDEX as INDEX
from curriculum.artifacts.huggingface.files import README as README
from curriculum.artifacts.huggingface.files import SOURCE as SOURCE
from curriculum.artifacts.huggingface.files import TOKENIZER as TOKENIZER
from curriculum.artifacts.huggingface.files import WEIGHTS as WEIGHTS

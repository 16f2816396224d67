"""Hugging Face directories of Llama models: what one holds, which bytes it is, the words of one that we write."""

from __future__ import annotations

from curriculum.huggingface.configuration import config_of as config_of
from curriculum.huggingface.configuration import with_dtype as with_dtype
from curriculum.huggingface.directory import PREFIX as PREFIX
from curriculum.huggingface.directory import Directory as Directory
from curriculum.huggingface.directory import directory_of as directory_of
from curriculum.huggingface.directory import read as read
from curriculum.huggingface.directory import shapes as shapes
from curriculum.huggingface.files import BYTES as BYTES
from curriculum.huggingface.files import CONFIG as CONFIG
from curriculum.huggingface.files import INDEX as INDEX
from curriculum.huggingface.files import README as README
from curriculum.huggingface.files import SOURCE as SOURCE
from curriculum.huggingface.files import TOKENIZER as TOKENIZER
from curriculum.huggingface.files import WEIGHTS as WEIGHTS
from curriculum.huggingface.identity import digest as digest
from curriculum.huggingface.identity import known_sums as known_sums
from curriculum.huggingface.identity import remember_sums as remember_sums
from curriculum.huggingface.identity import stamp as stamp

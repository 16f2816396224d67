"""Small texts to prepare, and what came of them."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import numpy as np

from curriculum.data.dataset import Dataset
from curriculum.data.manifest import Manifest
from curriculum.data.tokenizer import Tokenizer

WORDS = ["the", "of", "and", "to", "in", "that", "state", "people", "year", "law", "country", "congress", "peace"]


def write_texts(folder: Path, documents: int, words: int = 200, *, first: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + documents):
        drawn = random.Random(number).choices(WORDS, k=words)
        (folder / f"{number:04d}.txt").write_text(f"document {number} " + " ".join(drawn) + "\n")


def digests(folder: str | Path) -> dict[str, str]:
    """The SHA-256 of every file below `folder`."""
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def documents_of(output: str, split: str, tokenizer_file: str) -> dict[str, str]:
    """`{id: text with its marks}` of every document of a split."""
    tokenizer = Tokenizer.load(tokenizer_file)
    manifest = Manifest.load(Path(output))
    dataset = Dataset.open(output, split=split, sequence_length=16)
    found = {}
    for number, shard in enumerate(manifest.splits[split].shards):
        tokens = np.fromfile(Path(output) / shard.file, manifest.dtype)
        for document in range(shard.documents):
            span = dataset.document(number, document)
            found[span.id] = tokenizer.decode(tokens[span.first_token :][: span.tokens].tolist())
    return found

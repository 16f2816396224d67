"""Files that hold one blend for Megatron-LM: weights and prefixes of token files, as JSON or as plain words."""

from __future__ import annotations

import re
from dataclasses import dataclass

from curriculum.config.recipes.recipe import Statement, exact
from curriculum.config.yaml import Document
from curriculum.errors import Place


@dataclass(frozen=True, slots=True)
class BlendFile:
    """A file that holds one blend: weights and prefixes in turn."""

    file: str
    whole: Statement
    words: tuple[Statement, ...]
    left_out: tuple[str, ...] = ()


def of_document(document: Document) -> BlendFile | None:
    """A JSON file as `--per-split-data-args-path` names it: lists by `train`, `valid` and `test`, or one list."""
    by_split = isinstance(document.value, dict)
    words = document.value.get("train") if by_split else document.value
    if not isinstance(words, list) or not words or any(isinstance(word, dict | list) for word in words):
        return None
    path: tuple[str | int, ...] = ("train",) if by_split else ()
    others = (key for key in document.value if key != "train") if by_split else ()
    return BlendFile(
        document.file,
        Statement("train", words, document.place(path)),
        tuple(Statement("train", word, document.place((*path, at))) for at, word in enumerate(words)),
        tuple(f"{document.file}:{document.key_place((key,)).line} {key}" for key in others),
    )


def of_text(text: str, file: str) -> BlendFile | None:
    """A file of nothing but weights and prefixes, as `--data-args-path` names it; None for any other text."""
    words = tuple(
        Statement("blend", match.group(), Place(file, number, match.start() + 1, line))
        for number, line in enumerate(text.splitlines(), 1)
        for match in re.finditer(r"\S+", line.partition("#")[0])
    )
    if len(words) < 2 or exact(words[0].value) is None or exact(words[1].value) is not None:
        return None
    return BlendFile(file, Statement("blend", text, words[0].place), words)

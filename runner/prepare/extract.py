"""Natural language in program text: the values of `extract:` in sources.yaml."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator

from curriculum.data.listing import SourceFile
from runner.prepare.formats import decode, open_file

_HANZI = re.compile(r"[\u4e00-\u9fff]")
LEAST_HANZI = 16
LEAST_HANZI_SHARE = 0.4


def chinese_docstrings(files: Iterable[SourceFile]) -> Iterator[tuple[str, str]]:
    """`(file name, text)`: a file's Chinese comment and docstring sentences that no earlier file has.

    One sentence a line; it counts with at least 16 hanzi that make up at least 40% of it. A repeated sentence
    belongs to the first of `files` that has it.
    """
    seen: set[bytes] = set()
    for file in files:
        with open_file(file) as stream:
            text = decode(stream.read())
        if text is None or text.isascii():
            continue
        sentences = []
        for sentence in _chinese_sentences(text):
            digest = hashlib.blake2b(sentence.encode(), digest_size=16).digest()
            if digest not in seen:
                seen.add(digest)
                sentences.append(sentence)
        if sentences:
            yield file.name, "\n".join(sentences) + "\n"


def _chinese_sentences(source: str) -> Iterator[str]:
    for number, part in enumerate(re.split(r'"""|\'\'\'', source)):
        for line in part.split("\n"):
            if line.isascii():
                continue
            if number % 2 == 0:  # outside a docstring only a comment is text
                if "#" not in line:
                    continue
                line = line.split("#", 1)[1]
            line = re.sub(r"^\s*:\w+(?:\s+\w+)?:", " ", line)  # `:param _Name:` and its like
            line = re.sub(r"\[([^\]\n]*)\]\([^)\n]*\)", r"\1", line)  # [words](link)
            line = re.sub(r"<[^<>\n]{0,200}>|&\w{2,6};|[*`]+", " ", line)  # tags, entities, emphasis
            for piece in re.split(r"(?<=[。！？；])", line):
                sentence = " ".join(piece.split())
                hanzi = len(_HANZI.findall(sentence))
                if hanzi >= LEAST_HANZI and hanzi >= LEAST_HANZI_SHARE * len(sentence):
                    yield sentence

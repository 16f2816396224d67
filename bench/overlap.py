"""How fast `curriculum overlap` searches prepared text for shared runs of 13 tokens: `python -m bench.overlap`.

Generated text of uint16 tokens is searched for the runs of a reference as large as the items of some benchmarks; one
document of a thousand holds a run of it. Measured is one core; the command searches with as many as the machine has.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from bench import measure
from curriculum.data.ngrams import RUN, NgramIndex, Reference

GOAL = 50e6
"""Tokens a second of one core."""
VOCABULARY, DOCUMENT, ITEM = 32_000, 400, 200
PIECE = 1 << 22
"""Tokens that are searched at a time, as a shard's documents are."""


def text(tokens: int, reference: Reference, seed: int) -> tuple[NDArray[np.uint16], NDArray[np.int64]]:
    """Tokens and where their documents end, of which every thousandth holds a run of `reference`."""
    draw = np.random.default_rng(seed)
    tokens_drawn = words(draw, tokens)
    ends = np.arange(DOCUMENT, tokens + 1, DOCUMENT, dtype=np.int64)
    for at in range(0, len(ends), 1000):
        begin = int(draw.integers(0, len(reference.tokens) // ITEM)) * ITEM
        tokens_drawn[at * DOCUMENT : at * DOCUMENT + RUN] = reference.tokens[begin : begin + RUN]
    return tokens_drawn, ends


def words(draw: np.random.Generator, count: int) -> NDArray[np.uint16]:
    """Tokens as frequent as words are by their rank."""
    return (VOCABULARY ** draw.random(count, dtype=np.float32)).astype(np.uint16)


def main() -> None:
    given = measure.arguments(
        __doc__ or "",
        tokens={"type": int, "default": 64_000_000, "help": "of the text that is searched"},
        reference={"type": int, "default": 2_000_000, "help": "tokens of the items that are looked for"},
    )
    measure.machine("numpy")
    size, items = (1_000_000, 100_000) if given.toy else (given.tokens, given.reference)
    names = [str(number) for number in range(items // ITEM)]
    ends = np.arange(ITEM, items + 1, ITEM, dtype=np.int64)
    reference = Reference(names, words(np.random.default_rng(0), items), ends)
    index = NgramIndex(reference, RUN)
    tokens, ends = text(size, reference, 1)

    def timed(work: Callable[[NDArray[np.uint16], NDArray[np.int64]], object]) -> Callable[[], float]:
        def turn() -> float:
            started = time.process_time()
            for begin in range(0, size, PIECE // DOCUMENT * DOCUMENT):
                piece = tokens[begin : begin + PIECE // DOCUMENT * DOCUMENT]
                work(piece, np.arange(DOCUMENT, len(piece) + 1, DOCUMENT, dtype=np.int64))
            return size / (time.process_time() - started)

        return turn

    whole = index.shared(tokens, ends)
    assert len(whole.documents) >= len(ends) // 1000, "all that was planted is found"
    rows = measure.in_turns(
        {
            "limit: one pass over the tokens": timed(lambda piece, _: piece.sum(dtype=np.uint64)),
            f"runs of {RUN} tokens of {items:,}": timed(index.shared),
        },
        given.turns,
    )
    title = f"{size:,} tokens searched by one core"
    measure.table(title, list(rows.values()), " tok/CPU s", against="limit: one pass over the tokens")
    measure.goal("tokens a second of a core", [*rows.values()][1].median, GOAL)
    measure.save(given.json, {title: list(rows.values())})


if __name__ == "__main__":
    main()

"""Shared runs of tokens are those that a comparison of every pair of runs finds, whatever their hashes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings, strategies as st

from curriculum.data import ngrams
from curriculum.data.ngrams import NgramIndex, Reference, SharedRuns, run_hashes

DOCUMENTS = st.lists(st.lists(st.integers(0, 3), max_size=30), min_size=1, max_size=5)


def joined(documents: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    tokens = np.array([token for document in documents for token in document], np.uint16)
    return tokens, np.cumsum([len(document) for document in documents], dtype=np.int64)


def shared(reference: list[list[int]], text: list[list[int]], n: int) -> SharedRuns:
    tokens, ends = joined(reference)
    return NgramIndex(Reference([], tokens, ends), n).shared(*joined(text))


def by_pairs(reference: list[list[int]], text: list[list[int]], n: int) -> tuple[dict[int, int], set[int]]:
    """Shared tokens by document of the text, and the documents of the reference, by every pair of runs."""

    def runs(document: list[int]) -> list[tuple[int, ...]]:
        return [tuple(document[at : at + n]) for at in range(len(document) - n + 1)]

    known = {run for document in reference for run in runs(document)}
    tokens = {
        number: len({at + k for at, run in enumerate(runs(document)) if run in known for k in range(n)})
        for number, document in enumerate(text)
    }
    own = {run for document in text for run in runs(document)}
    return (
        {number: count for number, count in tokens.items() if count},
        {number for number, document in enumerate(reference) if own.intersection(runs(document))},
    )


@pytest.mark.promise("Shared runs of tokens are exact: those that comparing all pairs finds, within documents")
@given(reference=DOCUMENTS, text=DOCUMENTS, n=st.integers(1, 13), block=st.sampled_from([4, 8, 1 << 15]))
@example(reference=[[0] * 8], text=[[0] * 9], n=8, block=4)  # its last anchor begins a block of its own
@settings(max_examples=300, deadline=None)
def test_shared_runs_are_those_that_comparing_all_pairs_finds(
    reference: list[list[int]], text: list[list[int]], n: int, block: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ngrams, "BLOCK", block)
        found = shared(reference, text, n)
    documents, references = by_pairs(reference, text, n)
    assert dict(zip(found.documents.tolist(), found.tokens.tolist(), strict=True)) == documents
    assert set(found.references.tolist()) == references


@given(reference=DOCUMENTS, text=DOCUMENTS, n=st.integers(1, 9))
@settings(max_examples=100, deadline=None)
def test_equal_hashes_of_different_runs_change_nothing(
    reference: list[list[int]], text: list[list[int]], n: int
) -> None:
    """With this base the hash of a run is its last token."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ngrams, "BASE", np.uint64(0))
        found = shared(reference, text, n)
    documents, references = by_pairs(reference, text, n)
    assert dict(zip(found.documents.tolist(), found.tokens.tolist(), strict=True)) == documents
    assert set(found.references.tolist()) == references


@given(tokens=st.lists(st.integers(0, 2**16 - 1), max_size=40), n=st.integers(1, 13), stride=st.sampled_from([1, 4]))
def test_a_hash_is_the_polynomial_of_its_tokens(tokens: list[int], n: int, stride: int) -> None:
    expected = []
    for at in range(0, len(tokens) - n + 1, stride):
        value = 0
        for token in tokens[at : at + n]:
            value = (value * int(ngrams.BASE) + token) % 2**64
        expected.append(value)
    assert run_hashes(np.array(tokens, np.uint16), n, stride).tolist() == expected


def test_texts_shorter_than_a_run_are_counted() -> None:
    tokens, ends = joined([[1] * 12, [2] * 13, [3]])
    index = NgramIndex(Reference([], tokens, ends), 13)
    assert (len(index), index.too_short) == (1, 2)

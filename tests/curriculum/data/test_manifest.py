"""A manifest: the contents that its digest covers, and what must never change between versions."""

from __future__ import annotations

from dataclasses import replace

import pytest

from curriculum.data import manifest as data_manifest
from curriculum.data.manifest import TRAIN, Manifest, dtype_for


def test_the_digest_of_the_same_contents_never_changes() -> None:
    """Else the folders of earlier versions would count as altered, and every plan that names one as another."""
    shard = data_manifest.Shard(
        file="train/00000.ds", tokens=9, documents=2, text_bytes=30, **dict.fromkeys(SHARD_DIGESTS, "0" * 64)
    )
    split = data_manifest.Split(
        documents=2, tokens=9, text_bytes=30, max_token=7, filler=2, dropped={"empty": 1}, shards=(shard,)
    )
    manifest = Manifest(
        dataset="d",
        tokenizer=data_manifest.TokenizerRecord(digest="1" * 64, name="t", vocab_size=8),
        policy=data_manifest.SpecialTokens(bos=None, eos=2),
        dtype="uint16",
        block_bytes=4096,
        recipe={},
        recipe_digest="2" * 64,
        provenance={},
        splits={TRAIN: split},
    )
    assert manifest.digest == "18051805b3cc890174c58c01e9c2624de3394263112a73d778a3f59c19129062"
    grown = replace(manifest, earlier=manifest.states)
    assert grown.digest == "5f20074c19492593a4860fe845ed4549249683794516ef63351e94223f34bf0d"


SHARD_DIGESTS = ("sha256", "blocks_sha256", "index_sha256", "ids_sha256", "ids_index_sha256")


@pytest.mark.parametrize(("size", "dtype"), [(300, "uint16"), (65_536, "uint16"), (65_537, "uint32")])
def test_two_bytes_hold_a_vocabulary_of_65536_ids_and_not_one_more(size: int, dtype: str) -> None:
    assert dtype_for(size) == dtype


def test_the_hash_that_holds_a_document_out_never_changes() -> None:
    assert data_manifest.text_hash(b"") == 0xB4B2797457A0A6E4
    assert data_manifest.text_hash(b"curriculum") == 0x06F2086C6EE9992E

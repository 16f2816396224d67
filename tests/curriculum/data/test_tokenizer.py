"""One set of rules for encoding: nothing is added, nothing cut, and every text comes back."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given, strategies as st
from tokenizers import Tokenizer as Inner, decoders, models, pre_tokenizers, processors, trainers

from curriculum.data.tokenizer import Tokenizer
from curriculum.errors import DataError


def byte_level(path: Path, *, special: list[str]) -> Inner:
    inner = Inner(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator(["the cat and the hat and the rat"] * 3, trainer)
    inner.save(str(path))
    return inner


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    byte_level(path, special=["</s>", "<s>"])
    return Tokenizer.load(path)


@given(text=st.text())
def test_every_text_comes_back_from_its_ids(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_marks_name_inside_a_text_stays_text(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("before</s>after")
    assert tokenizer.eos_id not in ids
    assert tokenizer.decode(ids) == "before</s>after"


def test_the_digest_is_of_the_files_bytes_and_marks_are_found_by_name(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    inner = byte_level(path, special=["<pad>", "<|endoftext|>"])
    loaded = Tokenizer.load(path)
    assert loaded.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (loaded.eos_id, loaded.bos_id) == (inner.token_to_id("<|endoftext|>"), None)


def test_a_files_own_template_truncation_and_padding_are_not_applied(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    inner = byte_level(path, special=["</s>", "<s>"])
    plain = inner.encode("the cat and the hat", add_special_tokens=False).ids
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", inner.token_to_id("<s>"))]
    )
    inner.enable_truncation(2)
    inner.enable_padding(length=50)
    inner.save(str(path))
    assert Tokenizer.load(path).encode("the cat and the hat") == plain


def test_the_vocabulary_reaches_to_the_highest_id_even_where_ids_are_missing(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    Inner(models.WordLevel({"a": 0, "b": 99}, unk_token="a")).save(str(path))
    assert Tokenizer.load(path).vocab_size == 100


@pytest.mark.parametrize("content", [b"\x00\x01spm", b"{}", json.dumps({"vocab": []}).encode()])
def test_a_file_that_is_no_tokenizer_is_refused_with_what_is_wanted(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(content)
    with pytest.raises(DataError, match="is not a tokenizer") as refusal:
        Tokenizer.load(path)
    assert "tokenizer.json" in (refusal.value.hint or "")


def test_a_missing_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        Tokenizer.load(tmp_path / "none.json")

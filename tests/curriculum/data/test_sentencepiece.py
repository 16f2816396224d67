"""A SentencePiece model becomes a tokenizer.json that gives the same ids: on code, on Chinese, on anything."""

from __future__ import annotations

import inspect
import io
import json
import random
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import sentencepiece  # type: ignore[import-untyped]
from hypothesis import given, settings, strategies as st

from curriculum import fs
from curriculum.compiler import tokenizers
from curriculum.config.project import Project
from curriculum.data import sentencepiece as data_sentencepiece
from curriculum.data.requests import TokenizerRequest
from curriculum.data.tokenizer import Tokenizer
from curriculum.errors import DataError
from runner.prepare.tokenizer import train_tokenizer

CHINESE = (
    "天地玄黄，宇宙洪荒。日月盈昃，辰宿列张。寒来暑往，秋收冬藏。闰余成岁，律吕调阳。",
    "我们训练了一个小的语言模型，它先读普通的文字，然后读代码和数学。",
    "训练分三个阶段：基础训练、继续训练和冷却；每个阶段都有自己的数据比例。",
)


def code() -> list[str]:
    return [inspect.getsource(module) for module in (random, json, inspect)]


@cache
def trained(model_type: str = "bpe", **changes: Any) -> bytes:
    """A model as Llama-2's is made: BPE, identity, byte fallback, no blank removed."""
    stream = io.BytesIO()
    settings: dict[str, Any] = {
        "model_type": model_type,
        "vocab_size": 1200,
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "add_dummy_prefix": True,
        "allow_whitespace_only_pieces": True,
        "split_digits": True,
        "character_coverage": 0.995,
        "minloglevel": 3,
    }
    texts = [line for text in code() for line in text.splitlines()] + list(CHINESE) * 20
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=stream, **{**settings, **changes}
    )
    return stream.getvalue()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("llama") / "tokenizer.model"
    path.write_bytes(trained())
    return path


@pytest.fixture(scope="module")
def both(model: Path) -> tuple[Tokenizer, Any]:
    reference = sentencepiece.SentencePieceProcessor(model_file=str(model))
    return Tokenizer.from_bytes(data_sentencepiece.convert(model), "model"), reference


@pytest.mark.promise("A SentencePiece model gives SentencePiece's own ids")
def test_code_chinese_and_the_probes_get_the_ids_of_sentencepiece(both: tuple[Tokenizer, Any]) -> None:
    tokenizer, reference = both
    for text in [*code(), *CHINESE, *data_sentencepiece.PROBES]:
        assert tokenizer.encode(text) == reference.encode(text), text[:60]
    assert (tokenizer.eos_id, tokenizer.bos_id) == (reference.eos_id(), reference.bos_id())
    assert tokenizer.vocab_size == reference.vocab_size()


@pytest.mark.promise("A SentencePiece model gives SentencePiece's own ids")
@settings(max_examples=150, deadline=None)
@given(
    text=st.lists(
        st.one_of(
            st.sampled_from(["    ", "  ", " ", "\n", "\t", "return", "self.", "</s>", "模型", "我们", "▁"]),
            st.text(alphabet=st.characters(exclude_categories=("Cs",)), max_size=6),
        ),
        max_size=12,
    ).map("".join)
)
def test_any_text_gets_the_ids_of_sentencepiece_and_comes_back(both: tuple[Tokenizer, Any], text: str) -> None:
    tokenizer, reference = both
    ids = tokenizer.encode(text)
    assert ids == reference.encode(text)
    if "▁" not in text:  # which SentencePiece itself reads as a blank
        assert tokenizer.decode(ids) == text


def test_the_conversion_is_the_same_file_every_time(model: Path) -> None:
    assert data_sentencepiece.convert(model) == data_sentencepiece.convert(model)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (lambda: trained()[:-1000], "no SentencePiece model|twice"),
        (lambda: b"", "no SentencePiece model"),
        (lambda: b"<html>404</html>", "no SentencePiece model"),
        (lambda: trained("unigram"), "it is no BPE"),
        (lambda: trained(normalization_rule_name="nmt_nfkc"), "rewrites characters"),
        (lambda: trained(remove_extra_whitespaces=True), "removes blanks"),
        (lambda: trained(user_defined_symbols="<sep>"), "words of a user"),
    ],
)
def test_what_cannot_be_converted_exactly_is_refused(tmp_path: Path, data: Any, words: str) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(data())
    with pytest.raises(DataError, match=words):
        data_sentencepiece.convert(path)


def bound(root: Path, path: str) -> Project:
    """The small project with its tokenizer bound to `path`."""
    sources = root / "sources.yaml"
    text = sources.read_text().replace("{train: [prose, code], vocab_size: 300}", f"{{path: {path}}}")
    sources.write_text(text)
    return Project.find(root)


def made(project: Project) -> Tokenizer:
    request = tokenizers.tokenizer_request(project, "small")
    if request is not None:
        train_tokenizer(fs.from_json(TokenizerRequest, asdict(request)))
    return Tokenizer.load(tokenizers.tokenizer_file(project, "small"))


def test_a_model_a_json_and_a_folder_of_either_may_be_named(small_project: Path, model: Path) -> None:
    folder = small_project / "llama"
    folder.mkdir()
    (folder / "tokenizer.model").write_bytes(model.read_bytes())
    first = made(bound(small_project, "llama/tokenizer.model"))
    sources = small_project / "sources.yaml"
    sources.write_text(sources.read_text().replace("llama/tokenizer.model", "llama"))
    second = made(Project.find(small_project))
    assert first.digest == second.digest  # the digest is of what encodes, however it was named
    assert tokenizers.named_tokenizer(str(folder)).digest == first.digest


def test_a_published_json_that_disagrees_with_the_model_beside_it_is_refused(small_project: Path, model: Path) -> None:
    folder = small_project / "llama"
    folder.mkdir()
    (folder / "tokenizer.model").write_bytes(model.read_bytes())
    published = json.loads(data_sentencepiece.convert(model))
    (folder / "tokenizer.json").write_text(json.dumps(published))
    project = bound(small_project, "llama")
    agreed = made(project)
    assert tokenizers.tokenizer_file(project, "small").read_bytes() == (folder / "tokenizer.json").read_bytes()
    # the known wrong conversion: merges that reach runs of blanks come first
    blanks = [pair for pair in published["model"]["merges"] if not "".join(pair).strip("▁")]
    rest = [pair for pair in published["model"]["merges"] if "".join(pair).strip("▁")]
    assert blanks
    published["model"]["merges"] = [*rest, *blanks] if published["model"]["merges"][0] in blanks else [*blanks, *rest]
    (folder / "tokenizer.json").write_text(json.dumps(published))
    with pytest.raises(DataError, match="does not encode as"):
        made(project)
    assert agreed.digest

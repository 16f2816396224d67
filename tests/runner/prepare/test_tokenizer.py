"""The tokenizer that is trained: the same file always, of a bounded sample, with the ids asked for."""

from __future__ import annotations

import json
import os
import random
import re
import string
import time
from dataclasses import asdict, replace
from pathlib import Path

import commands
import pytest
from texts import write_texts
from tokenizers import Tokenizer as Inner

import runner.prepare.tokenizer
from curriculum.data.requests import TokenizerRequest
from curriculum.data.tokenizer import Tokenizer
from curriculum.errors import DataError
from runner.prepare.tokenizer import train_tokenizer

TRAIN_TOKENIZER = """
import json, sys
from curriculum import fs
from curriculum.data.requests import TokenizerRequest
from runner.prepare.tokenizer import train_tokenizer
train_tokenizer(fs.from_json(TokenizerRequest, json.loads(sys.argv[1])))
"""


@pytest.mark.processes
def test_a_tokenizer_is_the_same_file_on_one_thread_and_on_several(tmp_path: Path) -> None:
    write_texts(tmp_path / "texts", 30)
    (tmp_path / "code").mkdir()
    for number in range(10):
        (tmp_path / "code" / f"{number}.txt").write_text(f"def f{number}(x):\n    return x ** {number}\n" * 20)
    made = []
    for threads in ("1", "3"):
        request = TokenizerRequest(
            reads={"texts": {"folder": "texts"}, "code": {"folder": "code"}},
            vocab_size=340,
            output=str(tmp_path / threads / "tokenizer.json"),
            root=str(tmp_path),
        )
        environment = {**os.environ, "RAYON_NUM_THREADS": threads}
        words = ("-c", TRAIN_TOKENIZER, json.dumps(asdict(request)))
        commands.python(*words, folder=tmp_path, environment=environment, check=True)
        made.append(Path(request.output).read_bytes())
    assert made[0] == made[1]
    loaded = Tokenizer.load(tmp_path / "1" / "tokenizer.json")
    assert (loaded.eos_id, loaded.vocab_size) == (0, 340)


def test_the_tokenizers_sample_is_spread_over_a_dataset_and_bounded(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    for number in range(100):
        (tmp_path / "texts" / f"{number:02d}.txt").write_text(f"{'early' if number < 90 else 'later'} " * 100)
    request = TokenizerRequest(
        reads={"texts": {"folder": "texts"}},
        vocab_size=267,
        output=str(tmp_path / "tokenizer.json"),
        sample_bytes=6000,
        root=str(tmp_path),
    )
    train_tokenizer(request)
    vocabulary = Inner.from_file(request.output).get_vocab()
    assert {"early", "later"} <= {token.removeprefix("Ġ") for token in vocabulary}
    assert len((tmp_path / "sample.log").read_text().splitlines()) < 20


@pytest.mark.promise(
    "A trained tokenizer has exactly `vocab_size` ids, or is refused; a missing folder of text is refused by `plan`"
)
def test_a_text_that_gives_fewer_ids_than_asked_for_is_refused_with_the_number_it_gives(tmp_path: Path) -> None:
    write_texts(tmp_path / "texts", 30)
    request = TokenizerRequest(
        name="small",
        reads={"texts": {"folder": "texts"}},
        vocab_size=5000,
        output=str(tmp_path / "t.json"),
        root=str(tmp_path),
    )
    with pytest.raises(DataError, match=r"`small`: the text gives (\d+) of the 5,000 ids asked for") as refusal:
        train_tokenizer(request)
    assert refusal.value.entry == ("tokenizers", "small", "vocab_size")
    assert not (tmp_path / "t.json").exists()
    said = re.match(r"`vocab_size: (\d+)`, of the tokenizer and of the model", refusal.value.hint or "")
    assert said is not None
    train_tokenizer(replace(request, vocab_size=int(said[1])))
    assert Tokenizer.load(request.output).vocab_size == int(said[1])


@pytest.mark.promise("Text without blanks takes no more time to train a tokenizer on, or to encode, than other text")
@pytest.mark.parametrize("kind", ["letters", "blanks", "digits"])
def test_a_word_as_long_as_a_file_takes_time_that_grows_with_its_length_only(tmp_path: Path, kind: str) -> None:
    alphabet = {"letters": string.ascii_lowercase, "blanks": " \n\t", "digits": string.digits}[kind]
    (tmp_path / "texts").mkdir()
    word = "".join(random.Random(1).choices(alphabet, k=400_000))
    (tmp_path / "texts" / "blob.txt").write_text(f"a{word}a")
    request = TokenizerRequest(
        reads={"texts": {"folder": "texts"}}, vocab_size=300, output=str(tmp_path / "t.json"), root=str(tmp_path)
    )
    started = time.process_time()
    train_tokenizer(request)
    tokenizer = Tokenizer.load(request.output)
    assert tokenizer.decode(tokenizer.encode(word)) == word
    assert time.process_time() - started < 30  # without a limit to a word's length, minutes


def test_words_of_usual_length_give_the_tokenizer_that_they_gave_without_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_texts(tmp_path / "texts", 20)
    request = TokenizerRequest(
        reads={"texts": {"folder": "texts"}}, vocab_size=320, output=str(tmp_path / "t.json"), root=str(tmp_path)
    )
    train_tokenizer(request)
    monkeypatch.setattr(runner.prepare.tokenizer, "LONGEST_WORD", 1 << 30)
    train_tokenizer(replace(request, output=str(tmp_path / "unlimited.json")))
    assert (tmp_path / "t.json").read_bytes() == (tmp_path / "unlimited.json").read_bytes()
    assert json.loads((tmp_path / "t.json").read_text())["pre_tokenizer"]["type"] == "ByteLevel"


def test_a_sample_takes_no_more_of_a_document_than_its_limit(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("early " * 100 + "later " * 1000)
    request = TokenizerRequest(
        reads={"texts": {"folder": "texts"}},
        vocab_size=262,
        output=str(tmp_path / "t.json"),
        sample_bytes=600,
        root=str(tmp_path),
    )
    train_tokenizer(request)
    assert "later" not in "".join(Inner.from_file(request.output).get_vocab())


def test_a_tokenizer_of_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "void.txt").write_text("")
    request = TokenizerRequest(
        reads={"texts": {"folder": "texts"}}, vocab_size=300, output=str(tmp_path / "t.json"), root=str(tmp_path)
    )
    with pytest.raises(DataError, match=r"`texts` has no text to read: 1 empty \(the first: void.txt\)"):
        train_tokenizer(request)
    assert not (tmp_path / "t.json").exists()

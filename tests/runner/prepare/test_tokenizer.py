"""The tokenizer that is trained: the same file always, of a bounded sample, with the ids asked for."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from texts import write_texts
from tokenizers import Tokenizer as Inner

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
        command = [sys.executable, "-c", TRAIN_TOKENIZER, json.dumps(asdict(request))]
        subprocess.run(command, env=environment, check=True, capture_output=True)
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


def test_a_tokenizer_of_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "void.txt").write_text("")
    request = TokenizerRequest(
        reads={"texts": {"folder": "texts"}}, vocab_size=300, output=str(tmp_path / "t.json"), root=str(tmp_path)
    )
    with pytest.raises(DataError, match=r"`texts` has no text to read: 1 empty \(the first: void.txt\)"):
        train_tokenizer(request)
    assert not (tmp_path / "t.json").exists()

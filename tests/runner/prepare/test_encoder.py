"""The fast encoder gives the ids of `tokenizers` or is not used, and one source never mixes the two."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from texts import digests, documents_of, write_texts

import runner.prepare.encoder
from curriculum.data.manifest import HELD_OUT, TRAIN, Manifest
from curriculum.data.progress import read_progress
from curriculum.data.tokenizer import Tokenizer
from curriculum.errors import DataError
from runner.prepare import encoder_choice, proof
from runner.prepare.encoder import (
    CheckedEncoder,
    EncoderDiffers,
    EncoderUnavailable,
    FastEncoder,
    ReferenceEncoder,
    first_difference,
)
from runner.prepare.job import help_to_prepare, prepare
from runner.prepare.texts import Texts, Tokens

FAST = "gigatoken 0.10.0"


def edited(tokenizer_file: str, folder: Path, **changes: Any) -> str:
    """The tokenizer with other values of top-level keys, in a file of its own."""
    path = folder / "edited.json"
    path.write_text(json.dumps({**json.loads(Path(tokenizer_file).read_text()), **changes}))
    return str(path)


def encoders(tokenizer_file: str) -> tuple[FastEncoder, ReferenceEncoder]:
    return FastEncoder(Path(tokenizer_file).read_bytes()), ReferenceEncoder(Tokenizer.load(tokenizer_file))


@pytest.mark.promise("The fast encoder gives the ids of `tokenizers` on hostile text, or is not used")
def test_the_fast_encoder_agrees_on_the_hostile_corpus_and_another_normaliser_is_found_out(
    tokenizer_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proof, "_PROVEN", {})
    fast, reference = encoders(tokenizer_file)
    proof.prove(fast, reference, Path(tokenizer_file).read_bytes(), tmp_path / "proofs")
    other = Path(edited(tokenizer_file, tmp_path, normalizer={"type": "NFC"}))
    fast, reference = encoders(str(other))
    with pytest.raises(EncoderDiffers, match=r"gigatoken 0\.10\.0 differs from tokenizers 0\.\d+\.\d+ on '"):
        proof.prove(fast, reference, other.read_bytes(), tmp_path / "proofs")
    records = [json.loads(path.read_text()) for path in (tmp_path / "proofs").iterdir()]
    assert sorted(bool(record["differs"]) for record in records) == [False, True]


@given(texts=st.lists(st.text(max_size=60) | st.just("a </s> b</s>\n"), min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
def test_any_texts_have_the_same_ids_from_both_encoders(texts: list[str], tokenizer_file: str) -> None:
    fast, reference = encoders(tokenizer_file)
    data = [text.encode() for text in texts]
    assert first_difference(fast, reference, [data]) is None
    tokens = fast.encode(Texts.join(data))
    tokenizer = Tokenizer.load(tokenizer_file)
    assert [tokens[at].tolist() for at in range(len(texts))] == [tokenizer.encode(text) for text in texts]


def test_the_hostile_corpus_is_the_same_every_time_and_holds_every_class_of_code_points() -> None:
    first, second = (list(proof.hostile_corpus(["<|x|>"])) for _ in range(2))
    assert first == second
    assert {len(batch) > 0 for batch in first} == {True}
    whole = b"".join(b"".join(batch) for batch in first).decode()
    import unicodedata

    classes = {unicodedata.category(character) for character in whole}
    assert len(classes) == 29  # all but surrogates, which are not text
    assert "a<|x|>b" in whole


def test_a_tokenizer_is_proven_once(tokenizer_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    real = proof.hostile_corpus
    monkeypatch.setattr(proof, "hostile_corpus", lambda added: made.append(1) or real(added))
    monkeypatch.setattr(proof, "_PROVEN", {})
    data = Path(edited(tokenizer_file, tmp_path, added_tokens=[])).read_bytes()
    for _ in range(2):
        proof.prove(*encoders(tokenizer_file), data, tmp_path / "proofs")
        proof._PROVEN.clear()
    assert len(made) == 1
    (record,) = (tmp_path / "proofs").iterdir()
    record.write_text(record.read_text().replace('"differs": ""', '"differs": "altered"'))
    proof.prove(*encoders(tokenizer_file), data, tmp_path / "proofs")
    assert len(made) == 2


def test_the_encoder_is_renewed_after_so_much_text_and_the_ids_stay(
    tokenizer_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner.prepare.encoder, "RENEWAL_BYTES", 1000)
    fast, reference = encoders(tokenizer_file)
    loads = []
    real = fast._load
    fast._load = lambda data: loads.append(1) or real(data)
    batches = [[f"text {number} of words".encode() * 20] for number in range(20)]
    assert first_difference(fast, reference, batches) is None
    assert len(loads) == 4  # 310 bytes a batch: after every four


@pytest.mark.promise("A source's manifest names the encoder that made its ids")
def test_the_manifest_names_the_encoder_and_either_writes_the_same_bytes(
    tmp_path: Path, request_for: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_texts(tmp_path / "texts", 40)
    request = request_for()
    prepare(request)
    assert Manifest.load(Path(request.output)).provenance["encoder"] == FAST
    assert not read_progress(Path(request.progress)).fast_encoder_refused
    monkeypatch.setattr(encoder_choice, "FastEncoder", absent)
    prepare(slow := request_for(output=str(tmp_path / "data" / "slow")))
    provenance = Manifest.load(Path(slow.output)).provenance
    assert provenance["encoder"].startswith("tokenizers 0.")
    assert provenance["fast_encoder_refused"] == "gigatoken is not installed: no wheel"
    assert read_progress(Path(slow.progress)).fast_encoder_refused == "gigatoken is not installed: no wheel"
    same_but_manifest(request.output, slow.output)


def absent(*words: Any, **keys: Any) -> Any:
    raise EncoderUnavailable("gigatoken is not installed: no wheel")


def same_but_manifest(one: str, other: str) -> None:
    first, second = digests(one), digests(other)
    del first["manifest.json"], second["manifest.json"]
    assert first == second
    assert Manifest.load(Path(one)).digest == Manifest.load(Path(other)).digest


def wrong_from(call: int) -> Callable[[FastEncoder, Texts], Tokens]:
    """`encode` that is wrong from that call on."""
    calls = []
    real = FastEncoder.encode

    def encode(self: FastEncoder, texts: Texts) -> Tokens:
        calls.append(1)
        tokens = real(self, texts)
        return Tokens(tokens.ids + np.uint32(len(calls) > call), tokens.bounds)

    return encode


@pytest.mark.promise("Where the fast encoder differs on a document of a source, the whole source is encoded without it")
@pytest.mark.parametrize("helped", [False, True])
def test_a_difference_in_the_middle_of_a_source_makes_all_its_tasks_again(
    tmp_path: Path, request_for: Any, monkeypatch: pytest.MonkeyPatch, helped: bool
) -> None:
    write_texts(tmp_path / "texts", 40)
    monkeypatch.setattr(encoder_choice, "FastEncoder", absent)
    prepare(right := request_for(tasks=8, output=str(tmp_path / "data" / "right")))
    monkeypatch.undo()
    request = request_for(tasks=8)
    proof.prove(*encoders(request.tokenizer_file), Path(request.tokenizer_file).read_bytes(), None)
    monkeypatch.setattr(FastEncoder, "encode", wrong_from(8))  # a comparison and a batch for each task
    if helped:
        help_to_prepare(request)
    prepare(request)
    provenance = Manifest.load(Path(request.output)).provenance
    assert provenance["encoder"].startswith("tokenizers")
    assert "differs from tokenizers" in provenance["fast_encoder_refused"]
    assert "document " in provenance["fast_encoder_refused"]
    same_but_manifest(request.output, right.output)


def test_finished_tasks_of_another_encoder_are_done_again(
    tmp_path: Path, request_for: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_texts(tmp_path / "texts", 40)
    request = request_for(tasks=4)
    monkeypatch.setattr(encoder_choice, "FastEncoder", absent)
    help_to_prepare(request)
    monkeypatch.undo()
    partial = Path(f"{request.output}.partial")
    tasks = [json.loads(path.read_text()) for path in sorted(partial.glob("tasks/*/task.json"))]
    assert {task["encoder"].split()[0] for task in tasks} == {"tokenizers"}
    (partial / encoder_choice.FILE).unlink()
    prepare(request)
    assert Manifest.load(Path(request.output)).provenance["encoder"] == FAST


def test_what_is_appended_is_encoded_as_what_is_there(
    tmp_path: Path, request_for: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_texts(tmp_path / "texts", 40)
    slow = request_for(output=str(tmp_path / "data" / "slow"))
    fast = request_for()
    prepare(fast)
    with monkeypatch.context() as patch:
        patch.setattr(encoder_choice, "FastEncoder", absent)
        prepare(slow)
    write_texts(tmp_path / "texts", 6, first=100)
    prepare(replace(slow, append=True))
    provenance = Manifest.load(Path(slow.output)).provenance
    assert provenance["fast_encoder_refused"].startswith("the text was started with tokenizers 0.")
    monkeypatch.setattr(encoder_choice, "FastEncoder", absent)
    with pytest.raises(DataError, match="nothing can be appended with the encoder") as refused:
        prepare(replace(fast, append=True))
    assert "is not installed" in str(refused.value)
    monkeypatch.undo()
    prepare(replace(fast, append=True))
    assert Manifest.load(Path(fast.output)).provenance["encoder"] == FAST
    assert [Manifest.load(Path(r.output)).splits[s].digest for r in (fast, slow) for s in (TRAIN, HELD_OUT)][:2] == [
        Manifest.load(Path(slow.output)).splits[s].digest for s in (TRAIN, HELD_OUT)
    ]


def test_the_sample_of_a_task_is_its_beginning_and_a_part_of_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner.prepare.encoder, "SAMPLE_FIRST", 100)
    monkeypatch.setattr(runner.prepare.encoder, "SAMPLE_EVERY", 1000)
    monkeypatch.setattr(runner.prepare.encoder, "SAMPLE_PART", 30)

    class Lengths:
        """Each byte is an id; texts are remembered."""

        name = "lengths"

        def __init__(self) -> None:
            self.seen: list[bytes] = []

        def encode(self, texts: Texts) -> Tokens:
            self.seen += [bytes(texts[at]) for at in range(len(texts))]
            return Tokens(texts.data.astype(np.uint32), texts.bounds)

    reference = Lengths()
    checked = CheckedEncoder(Lengths(), reference)
    for first in range(0, 60, 10):
        checked.encode(Texts.join([f"{number:02d}ä".encode() * 20 for number in range(first, first + 10)]))
    sampled = [text[:2].decode() for text in reference.seen]
    assert sampled[:4] == ["00", "01", "02", "03"]
    assert all(len(text) <= 30 and text.decode() for text in reference.seen)
    assert 500 <= sum(map(len, reference.seen)) < 530  # 80 bytes a document, 4,800 in all, 100 of each thousand
    assert sampled[4:7] == ["13", "14", "15"]


@pytest.mark.parametrize("encoder", ["gigatoken", "tokenizers"])
def test_the_name_of_every_special_token_in_a_text_is_ordinary_text(
    tmp_path: Path, request_for: Any, tokenizer_file: str, monkeypatch: pytest.MonkeyPatch, encoder: str
) -> None:
    if encoder == "tokenizers":
        monkeypatch.setattr(encoder_choice, "FastEncoder", absent)
    known = json.loads(Path(tokenizer_file).read_text())["added_tokens"]
    first = Tokenizer.load(tokenizer_file).vocab_size
    names = ["<s>", "<pad>", "<|im_start|>", "[MASK]"]
    added = [{**known[0], "id": first + number, "content": name} for number, name in enumerate(names)]
    file = edited(tokenizer_file, tmp_path, added_tokens=[*known, *added])
    text = "".join(f"a {name}b{name}{name} {name[:-1]}\n{name}" for name in ("</s>", *names))
    write_texts(tmp_path / "texts", 40)
    (tmp_path / "texts" / "marks.txt").write_text(text)
    prepare(request := request_for(tokenizer_file=file, held_out=None))
    manifest = Manifest.load(Path(request.output))
    assert manifest.provenance["encoder"].split()[0] == encoder
    assert documents_of(request.output, TRAIN, file)["marks.txt"] == f"{text}</s>"
    tokens = np.concatenate([np.fromfile(path, "<u2") for path in Path(request.output, TRAIN).glob("*.ds")])
    marks = [Tokenizer.load(file).eos_id, *range(first, first + len(names))]
    assert np.isin(tokens, marks).sum() == 41  # where documents end, and nowhere else

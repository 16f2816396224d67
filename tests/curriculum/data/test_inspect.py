"""`curriculum inspect`: what a token file is, what of that is guessed, and what it contains."""

from __future__ import annotations

import json
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from curriculum.cli.view.inspect import inspection_lines
from curriculum.data.inspect import inspect
from curriculum.data.tokenizer import Tokenizer

pytestmark = pytest.mark.promise("`inspect` says what a file states and what is guessed")

Curriculum = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def prepared(finished: Path) -> tuple[Path, Path]:
    """A prepared folder of the finished project, and its tokenizer."""
    folder = next((finished / "data" / "prose").glob("*/manifest.json")).parent
    return folder, next((finished / "data" / "tokenizers").glob("*/tokenizer.json"))


def test_a_packed_chunk_says_what_its_header_states(tmp_path: Path, prepared: tuple[Path, Path]) -> None:
    tokens = np.fromfile(prepared[0] / "train" / "00000.ds", "<u2")[: 2049 * 2].copy()
    tokens[-100:] = 0
    path = tmp_path / "train_slim_0_0000000000.bin"
    path.write_bytes(b"LITPKDS" + struct.pack("<QBQ", 1, 8, len(tokens)) + tokens.tobytes())
    found = inspect(path, Tokenizer.load(prepared[1]))
    assert (found["format"], found["dtype"], found["guessed"]) == ("packed", "uint16", False)
    assert (found["tokens"], found["sequence_length"], found["offset"]) == (2049 * 2, 2049, 24)
    assert found["filler"] == 99  # the first EOS ends the last document
    assert found["tokenizer"]["agreement"] > 0.95
    text = "\n".join(inspection_lines(found))
    assert "2 of 2,049" in text
    assert "its last 99 tokens" in text
    assert max(map(len, text.splitlines())) < 200


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_the_width_of_a_flat_file_is_guessed_and_said_to_be(
    tmp_path: Path, prepared: tuple[Path, Path], dtype: str
) -> None:
    tokens = np.fromfile(prepared[0] / "train" / "00000.ds", "<u2")
    tokens.astype(np.dtype(dtype).newbyteorder("<")).tofile(tmp_path / "part-0.npy")
    found = inspect(tmp_path / "part-0.npy")
    assert (found["format"], found["dtype"], found["guessed"]) == ("flat", dtype, True)
    assert found["documents"] is None
    assert "guessed" in "\n".join(inspection_lines(found))


def test_our_own_folder_says_its_source_tokenizer_and_marks(
    prepared: tuple[Path, Path], curriculum: Curriculum, tmp_path: Path
) -> None:
    folder, tokenizer = prepared
    shown = curriculum(tmp_path, "inspect", str(folder), "--tokenizer", str(tokenizer)).stdout
    assert "prepared text of the source `prose`" in shown
    assert "BOS none, EOS 0" in shown
    assert "the sea" in shown or "sea was" in shown or "ships" in shown  # decoded
    found = json.loads(curriculum(tmp_path, "inspect", str(folder), "--json").stdout)
    assert found["prepared"]["splits"]["train"]["documents"] > 0
    assert found["kinds"][0]["format"] == "datatrove"


def test_another_tokenizer_shows_as_one(tmp_path: Path, prepared: tuple[Path, Path]) -> None:
    np.random.default_rng(0).integers(1, 257, 5000).astype("<u2").tofile(tmp_path / "a.npy")
    found = inspect(tmp_path / "a.npy", Tokenizer.load(prepared[1]))
    assert found["tokenizer"]["agreement"] < 0.5
    np.full(5000, 9999, "<u2").tofile(tmp_path / "b.npy")
    lines = "\n".join(inspection_lines(inspect(tmp_path / "b.npy", Tokenizer.load(prepared[1]))))
    assert "not this one" in lines


def test_what_is_no_token_file_is_refused_on_one_screen(tmp_path: Path, curriculum: Curriculum) -> None:
    (tmp_path / "empty.bin").write_bytes(b"")
    (tmp_path / "text.bin").write_text("words of prose\n" * 99)
    np.save(tmp_path / "none.npy", np.zeros(0, np.uint16))
    for word, what in (("text.bin", "holds text, not tokens"), ("none.npy", "holds no tokens")):
        done = curriculum(tmp_path, "inspect", word, check=False)
        assert (done.returncode, what in done.stderr) == (2, True)
    for word in ("empty.bin", "absent.bin", "."):
        done = curriculum(tmp_path, "inspect", word, check=False)
        assert done.returncode == 2
        assert "hint:" in done.stderr
        assert "Traceback" not in done.stderr
        assert "absent" in word or "is not complete" in done.stderr  # a folder says what is wrong with its files

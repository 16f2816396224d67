"""What `overlap` found is kept with the text it is of, and shown by the plan, the comparison and the model card."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from curriculum.analysis import ngram_overlap, ngram_record
from curriculum.compiler.prepared_text import PreparedText
from curriculum.config.project import Project
from curriculum.data.dataset import Dataset
from curriculum.execution import model_card


@pytest.fixture
def compared(finished: Path, tmp_path: Path) -> Path:
    """The finished project, its text compared with an item that is the beginning of a training document of `prose`."""
    root = Path(shutil.copytree(finished, tmp_path / "project"))
    texts = open_texts(root, "variant")
    opened = Dataset.open(texts.folder("prose"), split="train", sequence_length=32)
    name = opened.document(0, 3).id
    (root / "items.jsonl").write_text(json.dumps({"question": (root / "texts/prose" / name).read_text()[:90]}) + "\n")
    overlap(root)
    return root


def open_texts(root: Path, name: str) -> PreparedText:
    return PreparedText.open(Project.find(root), name, "full")


def overlap(root: Path) -> dict[str, Any]:
    texts = open_texts(root, "variant")
    return ngram_overlap.ngram_overlap(texts.project, [texts.compiled], texts, against=str(root / "items.jsonl"))


@pytest.mark.promise(
    "What `overlap` found is shown by plan, compare and the model card, as long as the text is the same"
)
def test_a_plan_a_comparison_and_a_card_show_what_was_found_and_how_often_it_was_read(
    compared: Path, curriculum: Callable[..., Any]
) -> None:
    found = {row["source"]: row for row in overlap(compared)["rows"]}
    prose = found["prose"]
    assert prose["documents"] >= 1
    shown = curriculum(compared, "plan", "variant", "--size", "full").stdout
    line = f"shared with items.jsonl, runs of 13 tokens: code nothing; prose {prose['documents']} of"
    assert line in shown
    assert "`curriculum overlap variant --against " in shown.replace(" --size full", "")
    both = curriculum(compared, "plan", "trunk", "variant", "--size", "full").stdout
    assert line in both

    texts = [open_texts(compared, name) for name in ("trunk", "variant")]
    compiled = [text.compiled for text in texts]
    (noted,) = ngram_overlap.compare_lines(texts[0].project, ["trunk", "variant"], compiled, texts)
    done = sum(stage["readings_done"] for stage in prose["stages"])
    assert noted.startswith(line[: line.index("code")])
    assert f"variant {done}" in noted
    assert done == sum(stage["readings"] for stage in prose["stages"]) > 0  # all is trained

    (title, table, _) = model_card._overlap(texts[1].project, compiled[1], texts[1], compiled[1].stages)
    assert title == "## Overlap of the training text"
    row = next(row for row in table.splitlines() if "`prose`" in row)
    assert [cell.strip() for cell in row.split("|")][2:5] == [
        "items.jsonl",
        "13",
        f"{prose['documents']} of {prose['of_documents']}",
    ]
    assert row.rstrip(" |").endswith(str(done))


def test_nothing_is_shown_of_a_reference_that_has_changed_and_a_damaged_list_is_made_again(compared: Path) -> None:
    texts = open_texts(compared, "variant")
    ngram_overlap.ngram_overlap(texts.project, [texts.compiled], texts)
    assert len(ngram_record.lines(texts)) == 3  # the held-out text of two sources, and the file
    known = list(ngram_record.records_of(texts))
    assert len(known) == 6
    record, path = next(entry for entry in known if entry[0].option is None)
    documents = ngram_record.documents_of(path, record)
    assert documents is not None
    ngram_record.write(path, replace(record, identity=f"held-out {'0' * 64}"), documents)
    assert len(list(ngram_record.records_of(texts))) == 5
    ngram_record.write(path, replace(record, text="0" * 64), documents)
    assert len(list(ngram_record.records_of(texts))) == 5

    for path in (compared / "data/ngrams").rglob("*.documents"):
        path.write_bytes(path.read_bytes() + bytes(24))
    shown = ngram_overlap.compare_lines(texts.project, ["variant"], [texts.compiled], [texts])
    assert any(line.endswith("read so far: variant not counted") for line in shown)
    overlap(compared)
    shown = ngram_overlap.compare_lines(texts.project, ["variant"], [texts.compiled], [texts])
    assert not any("items.jsonl" in line and "not counted" in line for line in shown)

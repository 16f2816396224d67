"""`curriculum overlap` on prepared text: what it counts, the steps that it names, and what it keeps."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import commands
import pytest
from projects import BuiltOnce, write_small_project

from curriculum.analysis import batch, ngram_overlap, ngram_references
from curriculum.analysis.ngram_references import references
from curriculum.compiler.prepared_text import PreparedText
from curriculum.config.project import Project
from curriculum.data.dataset import Dataset
from curriculum.data.manifest import HELD_OUT, TRAIN

ITEM = "the grey ships that went home in the rain of seventeen winters ago, said the keeper of the northern light"


@pytest.fixture(scope="session")
def planted(built_once: BuiltOnce) -> Path:
    """A prepared project; document 7 of `prose` quotes ITEM, and so does the code of document 3."""

    def build(root: Path) -> None:
        write_small_project(root)
        sources = root / "sources.yaml"
        sources.write_text(sources.read_text().replace("held_out: 25%", "held_out: 25%, tasks: 3"))
        for name in ("prose/007.txt", "code/003.txt"):
            path = root / "texts" / name
            path.write_text(f"{path.read_text()}\n{ITEM}\n{path.read_text()}")
        commands.run("prepare", "variant", "--size", "full", folder=root, check=True)

    return built_once("planted-text", build)


def overlap(root: Path, **options: Any) -> dict[str, Any]:
    project = Project.find(root)
    texts = PreparedText.open(project, "variant", "full")
    return ngram_overlap.ngram_overlap(project, [texts.compiled], texts, **options)


def planted_documents(root: Path) -> dict[str, str]:
    """Of both documents that quote ITEM, the split that they are in."""
    project = Project.find(root)
    texts = PreparedText.open(project, "variant", "full")
    found = {}
    for dataset, name in (("prose", "007.txt"), ("code", "003.txt")):
        for split in (TRAIN, HELD_OUT):
            if Dataset.open(texts.folder(dataset), split=split, sequence_length=32).find_documents(name):
                found[dataset] = split
    return found


@pytest.mark.promise(
    "`overlap` names the documents that share text with a file, a source or held-out text, and their steps"
)
def test_an_item_in_the_text_is_found_in_its_documents_with_the_steps_that_read_them(planted: Path) -> None:
    (planted / "items.jsonl").write_text(
        json.dumps({"question": ITEM, "choices": ["no such words are anywhere in it", "yes"], "answer": 1}) + "\n"
    )
    result = overlap(planted, against=str(planted / "items.jsonl"))
    rows = {row["source"]: row for row in result["rows"]}
    trained = {dataset for dataset, split in planted_documents(planted).items() if split == TRAIN}
    assert trained  # the hash of the text decides
    for dataset, row in rows.items():
        if dataset not in trained:
            assert row["documents"] == row["tokens"] == 0
            continue
        (document,) = row["listed"]
        assert document["id"] == ("007.txt" if dataset == "prose" else "003.txt")
        assert (row["documents"], row["references"], row["of_references"]) == (1, 1, 1)
        assert row["tokens"] == document["tokens"] > 13
        assert row["leave_out"] == [
            {"source": dataset, "shard": document["shard"], "why": "shares text with items.jsonl"}
        ]
        for stage in row["stages"]:
            assert stage["readings_done"] == 0
            if stage["readings"]:
                _step_reads(planted, stage, dataset, document)
        assert sum(stage["readings"] for stage in row["stages"]) > 0


def _step_reads(root: Path, stage: dict[str, Any], dataset: str, document: dict[str, Any]) -> None:
    project = Project.find(root)
    texts = PreparedText.open(project, "variant", "full")
    shown = batch.batch(texts.compiled, texts, stage["first_step"])
    assert document["id"] in json.dumps(shown)


def test_the_held_out_sets_are_compared_by_default_and_another_source_by_its_name(planted: Path) -> None:
    by_default = overlap(planted, n=20)
    assert {(row["source"], row["reference"]) for row in by_default["rows"]} == {
        (source, f"held out of {held_out}") for source in ("prose", "code") for held_out in ("prose", "code")
    }
    against = overlap(planted, against="code", n=20)
    (row,) = against["rows"]
    assert (row["source"], row["reference"]) == ("prose", "code")
    both_trained = set(planted_documents(planted).values()) == {TRAIN}
    assert row["documents"] == both_trained


def test_what_was_compared_is_kept_by_the_texts_and_not_compared_again(
    planted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (planted / "other.txt").write_text(f"{ITEM} and more of it")
    first = overlap(planted, against=str(planted / "other.txt"))
    monkeypatch.setattr(ngram_overlap, "_compared", None)
    assert overlap(planted, against=str(planted / "other.txt")) == first
    (planted / "other.txt").write_text(f"{ITEM} and something else")
    with pytest.raises(TypeError):
        overlap(planted, against=str(planted / "other.txt"))


def test_any_size_of_a_piece_gives_the_same_counts(planted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = Project.find(planted)
    texts = PreparedText.open(project, "variant", "full")
    against = next(each for each in references(texts, None) if each.name == "held out of prose")
    index = ngram_overlap.NgramIndex(against.load(), 4)
    whole, documents = ngram_overlap._compared(texts, "prose", against, index)
    monkeypatch.setattr(ngram_overlap, "PIECE", 1)
    again, in_pieces = ngram_overlap._compared(texts, "prose", against, index)
    assert again == whole
    assert in_pieces.tolist() == documents.tolist()
    assert whole.documents == len(documents) > 10
    assert documents[:, 2].min() >= 4


@pytest.mark.parametrize(
    ("against", "said"),
    [
        ("no-such.jsonl", "there is no source and no file `no-such.jsonl`"),
        ("latin.txt", "`latin.txt` is not UTF-8"),
        ("broken.jsonl", "`broken.jsonl`, line 2, is not JSON"),
    ],
)
def test_a_reference_that_cannot_be_read_is_refused_in_one_screen(
    planted: Path, curriculum: Callable[..., Any], against: str, said: str
) -> None:
    (planted / "latin.txt").write_bytes("é".encode("latin-1"))
    (planted / "broken.jsonl").write_text('{"a": "b"}\n{broken\n')
    done = curriculum(planted, "overlap", "variant", "--size", "full", "--against", against, check=False)
    assert done.returncode != 0
    error = done.stderr
    assert said in error
    assert "hint:" in error
    assert "Traceback" not in error


def test_a_reference_beyond_memory_is_refused(planted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ngram_references, "MOST_REFERENCE_TOKENS", 10)
    with pytest.raises(ngram_overlap.DataError, match="a reference has at most 10"):
        overlap(planted)


def test_the_command_shows_documents_steps_and_what_leaves_them_out(
    planted: Path, curriculum: Callable[..., Any]
) -> None:
    (planted / "items.jsonl").write_text(json.dumps({"question": ITEM}) + "\n")
    said = curriculum(planted, "overlap", "variant", "--size", "full", "--against", "items.jsonl").stdout
    assert "shared runs of 13 tokens, variant at size full" in said
    assert "leave_out:" in said
    assert "first in step" in said
    result = json.loads(
        curriculum(planted, "overlap", "variant", "--size", "full", "--against", "items.jsonl", "--json").stdout
    )
    assert (result["format"], result["ngram"]) == (ngram_overlap.FORMAT, 13)


@pytest.mark.parametrize("split", [TRAIN, HELD_OUT])
def test_a_flipped_bit_of_what_is_compared_is_refused(planted: Path, tmp_path: Path, split: str) -> None:
    project = Path(shutil.copytree(planted, tmp_path / "copy", ignore=shutil.ignore_patterns("ngrams")))
    texts = PreparedText.open(Project.find(project), "variant", "full")
    path = next((texts.folder("prose") / split).glob("*.ds"))
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(ngram_overlap.DataError, match=f"`{path}` is damaged"):
        overlap(project)


TASK = """\
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {name}.jsonl}}}}
test_split: test
output_type: multiple_choice
description: "the keeper said it before every question of the {name}, and again after it, to all of them\\n"
doc_to_text: "{{{{question}}}}"
doc_to_target: answer
doc_to_choice: "{{{{choices}}}}"
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
metadata: {{version: 1.0}}
"""


@pytest.mark.promise("`overlap` compares with the items of a benchmark task by its name, as an evaluation reads them")
def test_the_items_of_a_task_or_of_a_group_are_found_by_its_name(
    planted: Path, tmp_path: Path, curriculum: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    tasks = planted / "tasks"
    tasks.mkdir()
    asked, answers = ITEM.rsplit(" of ", 1)  # the item is whole only once its choice follows its question
    rows = {"ships": [(asked, ["nothing at all", f"of {answers}"]), ("who?", ["he"])], "none": [("why?", ["so", "no"])]}
    for name, questions in rows.items():
        (tasks / f"{name}.yaml").write_text(TASK.format(name=name))
        lines = [json.dumps({"question": q, "choices": c, "answer": 0}) for q, c in questions]
        (tasks / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    (tasks / "both.yaml").write_text("group: both\ntask: [ships, none]\n")
    words = ("overlap", "variant", "--size", "full", "--json", "--against")
    found = json.loads(curriculum(planted, *words, "both").stdout)
    trained = {dataset for dataset, split in planted_documents(planted).items() if split == TRAIN}
    assert {row["source"] for row in found["rows"] if row["documents"]} == trained
    for row in found["rows"]:
        assert (row["reference"], row["of_references"]) == ("both", 3)
        assert row["references"] == (row["source"] in trained)
        assert row["too_short"] == 2

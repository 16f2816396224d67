"""What somebody meets whose text is not prepared yet, is too little, or is not all text."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from curriculum.data.progress import describe_unread
from curriculum.data.tokenizer import Tokenizer

Curriculum = Callable[..., subprocess.CompletedProcess[str]]
FULL = ("--size", "full")


def test_a_plan_of_unprepared_text_says_what_it_does_not_know_and_how_to_know_it(
    small_project: Path, curriculum: Curriculum
) -> None:
    said = curriculum(small_project, "plan", "variant", *FULL).stdout
    words = " ".join(said.split())
    assert "B of tokens" not in words
    again = "are not checked until the text is prepared: `curriculum prepare"
    assert f"basic: passes of `prose` {again} trunk`" in words
    assert f"continual: passes of `code` {again} variant`" in words
    assert words.count("passes of") == 2
    both = " ".join(curriculum(small_project, "plan", "trunk", "variant", *FULL).stdout.split())
    assert "B of tokens" not in both
    cost = json.loads(curriculum(small_project, "plan", "variant", *FULL, "--json").stdout)["cost"]
    assert cost["token_bytes"] is None
    curriculum(small_project, "prepare", "variant", *FULL)
    words = " ".join(curriculum(small_project, "plan", "variant", *FULL).stdout.split())
    assert "B of tokens" in words
    assert "passes of" not in words


@pytest.mark.promise(
    "A trained tokenizer has exactly `vocab_size` ids, or is refused; a missing folder of text is refused by `plan`"
)
def test_a_folder_that_is_not_there_is_refused_by_plan_and_by_run_before_anything_is_prepared(
    small_project: Path, curriculum: Curriculum
) -> None:
    (small_project / "texts/code").rename(small_project / "texts/codes")
    for words in (("plan", "trunk"), ("run", "trunk"), ("run", "trunk", "--dry-run"), ("prepare", "trunk")):
        refused = curriculum(small_project, *words, *FULL, check=False)  # its tokenizer is to be trained on it
        assert refused.returncode == 2, words
        assert "error: `code`: the folder `texts/code` does not exist\n  sources.yaml:5:25" in refused.stderr
        assert "did you mean `codes`?" in refused.stderr
        assert refused.stdout == ""
    (small_project / "texts/codes").rename(small_project / "texts/code")
    curriculum(small_project, "prepare", "trunk", *FULL)
    (small_project / "texts/code").rename(small_project / "texts/codes")
    curriculum(small_project, "plan", "trunk", *FULL)  # the tokenizer is there, and nothing else reads it


def test_text_that_is_on_another_machine_can_be_planned_where_its_tokens_are_declared(
    small_project: Path, curriculum: Curriculum
) -> None:
    path = small_project / "sources.yaml"
    declared = path.read_text().replace("{folder: texts/code}", "{folder: /cluster/code}, tokens: 100k")
    path.write_text(declared.replace("{folder: texts/prose}", "{folder: /cluster/prose}, tokens: 100k"))
    curriculum(small_project, "plan", "variant", *FULL)
    refused = curriculum(small_project, "prepare", "variant", *FULL, check=False)
    assert "the folder `/cluster/code` does not exist" in refused.stderr


@pytest.mark.promise(
    "A trained tokenizer has exactly `vocab_size` ids, or is refused; a missing folder of text is refused by `plan`"
)
def test_a_tokenizer_that_falls_short_is_refused_where_its_vocab_size_stands_and_the_number_said_is_right(
    small_project: Path, curriculum: Curriculum
) -> None:
    for file in ("sources.yaml", "stages/trunk.yaml"):
        path = small_project / file
        path.write_text(path.read_text().replace("vocab_size: 300", "vocab_size: 5000"))
    refused = curriculum(small_project, "run", "trunk", *FULL, check=False)
    assert refused.returncode == 1
    assert "sources.yaml:2:45\n  2 │   small: {train: [prose, code], vocab_size: 5000}" in refused.stderr
    found = re.search(r"hint: `vocab_size: (\d+)`, of the tokenizer and of the model", refused.stderr)
    assert found is not None
    assert not list((small_project / "data").rglob("tokenizer.json"))
    for file in ("sources.yaml", "stages/trunk.yaml"):
        path = small_project / file
        path.write_text(path.read_text().replace("vocab_size: 5000", f"vocab_size: {found[1]}"))
    curriculum(small_project, "prepare", "trunk", *FULL)
    made = next((small_project / "data").rglob("tokenizer.json"))
    assert Tokenizer.load(made).vocab_size == int(found[1])


def test_run_and_prepare_say_in_one_line_how_many_documents_were_no_text_and_name_the_first(
    small_project: Path, curriculum: Curriculum
) -> None:
    for name in ("a", "b"):
        (small_project / f"texts/prose/{name}.txt").write_bytes(b"\xff\xfe")
        (small_project / f"texts/code/{name}.txt").write_text("")
    said = curriculum(small_project, "prepare", "variant", "--source", "code", *FULL).stdout
    assert "code: left out, since they are no text: 2 empty (the first: a.txt)\n" in said
    (small_project / "stages/trunk.yaml").write_text(
        re.sub(r"  - \{name: co.*\n", "", (small_project / "stages/trunk.yaml").read_text())
    )
    said = curriculum(small_project, "run", "trunk", *FULL).stdout
    assert "prose: left out, since they are no text: 2 not UTF-8 (the first: a.txt)\n" in said
    assert "code: left out" not in said


def test_a_file_that_cannot_be_read_to_its_end_is_refused_at_the_line_of_its_source(
    small_project: Path, curriculum: Curriculum
) -> None:
    (small_project / "texts/code/b.jsonl.gz").write_bytes(b"not packed")
    refused = curriculum(small_project, "prepare", "variant", "--source", "code", *FULL, check=False)
    assert "error: `code`: " in refused.stderr
    assert "b.jsonl.gz" in refused.stderr
    assert "sources.yaml:5:" in refused.stderr
    assert "hint: " in refused.stderr


def test_reasons_are_reported_in_words_with_the_first_of_each() -> None:
    assert describe_unread({}) == ""
    assert describe_unread({"not UTF-8": (1200, "old/1.txt")}) == "1,200 not UTF-8 (the first: old/1.txt)"


@pytest.mark.parametrize("lengths", [(64,), (16, 64)], ids=["longer windows", "shorter ones, then longer ones"])
def test_stages_with_windows_of_other_lengths_are_trained_as_planned(
    small_project: Path, curriculum: Curriculum, lengths: tuple[int, ...]
) -> None:
    path = small_project / "stages/trunk.yaml"
    head = path.read_text().split("stages:")[0].replace("1024 tokens}", "4096 tokens}").replace("2048", "8192")
    stages = ["{name: one, until: 1024, mixture: prose-only, batch: 8 sequences}"]
    for number, length in enumerate(lengths):
        stages.append(
            f"{{name: of-{length}, until: {2048 + 1024 * number}, sequence_length: {length}, positions: restart}}"
        )
    path.write_text(head + "stages:\n" + "".join(f"  - {stage}\n" for stage in stages))
    curriculum(small_project, "run", "trunk", *FULL)
    assert len(list((small_project / "runs").rglob("DONE"))) == len(stages)

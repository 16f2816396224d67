"""Prepared text as a dataset of `datasets`: the rows are its documents, and the tokens those of the files."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import commands
import numpy as np
import pytest
from projects import BuiltOnce, write_small_project

import curriculum as package
from curriculum.compiler.prepared_text import PreparedText
from curriculum.config.project import Project
from curriculum.data.dataset import Dataset
from curriculum.errors import ConfigError, DataError, NotFound


@pytest.fixture(scope="session")
def prepared_project(built_once: BuiltOnce) -> Path:
    def build(root: Path) -> None:
        write_small_project(root)
        sources = root / "sources.yaml"
        sources.write_text(sources.read_text().replace("held_out: 25%", "held_out: 25%, tasks: 3"))
        commands.run("prepare", "trunk", "--size", "full", folder=root, check=True)

    return built_once("prepared-for-rows", build)


@pytest.mark.promise('`curriculum.open(".").dataset(SOURCE)` gives prepared text as a `datasets` dataset')
@pytest.mark.parametrize("split", ["train", "held-out"])
def test_the_rows_are_the_documents_with_their_ids_and_tokens(prepared_project: Path, split: str) -> None:
    rows = package.open(prepared_project).dataset("prose", split)
    texts = PreparedText.open(Project.find(prepared_project), "trunk", "full")
    opened = Dataset.open(texts.folder("prose"), split=split, sequence_length=32)
    at = 0
    for number, shard in enumerate(opened.mapped):
        for document in range(shard.record.documents):
            span = opened.document(number, document)
            row = rows[at]
            assert row["id"] == span.id
            assert (
                row["tokens"]
                == np.asarray(shard.tokens_between(0, shard.record.tokens))[span.first_token :][: span.tokens].tolist()
            )
            at += 1
    assert len(rows) == at > 3
    assert sum(len(row["tokens"]) for row in rows.filter(lambda row: len(row["tokens"]) > 5)) > 100


def test_a_source_that_is_not_there_or_not_prepared_is_refused(
    prepared_project: Path, curriculum: Callable[..., Any]
) -> None:
    project = package.open(prepared_project)
    with pytest.raises(NotFound, match="no curriculum here reads a source `prosa`") as refused:
        project.dataset("prosa")
    assert "prose" in str(refused.value.hint)
    with pytest.raises(DataError, match="`code` is not prepared yet"):
        project.dataset("code")
    with pytest.raises(DataError, match="has no split `test`"):
        project.dataset("prose", "test")


def test_a_flipped_bit_is_refused_unless_the_bytes_are_not_compared(prepared_project: Path, tmp_path: Path) -> None:
    project = Path(shutil.copytree(prepared_project, tmp_path / "copy"))
    texts = PreparedText.open(Project.find(project), "trunk", "full")
    path = sorted((texts.folder("prose") / "train").glob("*.ds"))[-1]
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=f"`{path}` is damaged: it differs from its digest in block 0"):
        package.open(project).dataset("prose")
    assert len(package.open(project).dataset("prose", verify=False)) > 3


def test_another_curriculum_s_faulty_file_hides_no_prepared_text(prepared_project: Path, tmp_path: Path) -> None:
    project = shutil.copytree(prepared_project, tmp_path / "project")
    (project / "stages/another.yaml").write_text("ema: 2\n")
    assert package.open(project).dataset("prose").num_rows > 3
    with pytest.raises(ConfigError, match="no key `ema`"):
        package.open(project).dataset("prose", curriculum="another")

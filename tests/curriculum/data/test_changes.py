"""Files that changed since their text was prepared, and what `prepare` and `plan` say of them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from curriculum.data.changes import FileChanges, file_changes, file_record, recorded_files
from curriculum.data.listing import SourceFile
from curriculum.data.manifest import Manifest, SpecialTokens, Split, TokenizerRecord
from curriculum.fs import sha256_file


def listed(folder: Path) -> list[SourceFile]:
    return [SourceFile(path.name, str(path), path.stat().st_size) for path in sorted(folder.iterdir())]


@pytest.mark.promise(
    "`prepare` and `plan` say which files changed, are gone or are new since a text was prepared, and that it stays"
)
def test_files_are_compared_by_size_and_time(tmp_path: Path) -> None:
    for name in ("a", "b", "c", "d"):
        (tmp_path / name).write_text("text")
    recorded = {file.name: file_record(file) for file in listed(tmp_path)}
    assert file_changes(recorded, listed(tmp_path)) == FileChanges((), (), ())
    (tmp_path / "a").write_text("longer text")
    os.utime(tmp_path / "b", (1, 1))  # the same size
    (tmp_path / "c").unlink()
    (tmp_path / "e").write_text("text")
    assert file_changes(recorded, listed(tmp_path)) == FileChanges(("a", "b"), ("c",), ("e",))


def test_a_record_without_times_is_compared_by_size_alone(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("text")
    recorded = {file.name: file_record(file)[:2] for file in listed(tmp_path)}
    os.utime(tmp_path / "a", (1, 1))
    assert file_changes(recorded, listed(tmp_path)) == FileChanges((), (), ())
    (tmp_path / "a").write_text("longer text")
    assert file_changes(recorded, listed(tmp_path)) == FileChanges(("a",), (), ())


def test_contents_are_compared_where_their_digest_is_recorded_and_else_size_and_time(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text("text")
        os.utime(tmp_path / name, (5, 5))
    recorded = {file.name: [*file_record(file), sha256_file(Path(file.path))] for file in listed(tmp_path)}
    (tmp_path / "a").write_text("TEXT")
    os.utime(tmp_path / "a", (5, 5))
    os.utime(tmp_path / "b", (1, 1))
    (tmp_path / "c").write_text("longer text")
    now = listed(tmp_path)
    assert file_changes(recorded, now, contents=True) == FileChanges(("a", "c"), (), (), "contents")
    assert file_changes(recorded, now) == FileChanges(("b", "c"), (), ())
    undigested = {name: record[:3] for name, record in recorded.items()}
    assert file_changes(undigested, now, contents=True) == FileChanges(("b", "c"), (), (), "contents")


def test_files_of_every_preparation_are_known_unless_a_record_is_missing(tmp_path: Path) -> None:
    split = Split(documents=0, tokens=0, text_bytes=0, max_token=-1, filler=0, dropped={}, shards=())
    once = Manifest(
        dataset="d",
        tokenizer=TokenizerRecord(digest="t", name="t", vocab_size=8),
        policy=SpecialTokens(bos=None, eos=None),
        dtype="uint16",
        block_bytes=1,
        recipe={},
        recipe_digest="r",
        provenance={},
        splits={"train": split},
    )
    (tmp_path / "files-0.json").write_text('{"a": [1, null, 5]}')
    twice = replace(once, earlier=once.states)
    assert recorded_files(tmp_path, once) == {"a": [1, None, 5]}
    assert recorded_files(tmp_path, twice) is None
    (tmp_path / "files-1.json").write_text('{"b": [2, null, 6]}')
    assert recorded_files(tmp_path, twice) == {"a": [1, None, 5], "b": [2, None, 6]}


@pytest.mark.promise(
    "`prepare` and `plan` say which files changed, are gone or are new since a text was prepared, and that it stays"
)
def test_prepare_and_plan_say_what_changed_and_what_takes_it_up(
    small_project: Path, curriculum: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    def said(verb: str) -> str:
        return " ".join(curriculum(small_project, verb, "trunk", "--size", "full").stdout.split())

    prose = small_project / "texts/prose"
    assert "since it was prepared" not in said("prepare") + said("plan")
    (prose / "zzz.txt").write_text("a new file " * 9)
    for verb in ("prepare", "plan"):
        words = said(verb)
        assert "files changed since it was prepared: 1 new (zzz.txt); the prepared text stays" in words
        assert "curriculum prepare trunk" in words
        assert "--append` adds what is new" in words
    (prose / "001.txt").write_text("other words " * 9)
    (prose / "002.txt").unlink()
    for verb in ("prepare", "plan"):
        words = said(verb)
        assert "1 with other size or time (001.txt); 1 no longer there (002.txt); 1 new (zzz.txt)" in words
        assert "--append" not in words


def test_with_check_contents_are_compared_and_a_time_alone_is_no_change(
    small_project: Path, curriculum: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    def said(verb: str, *options: str) -> str:
        done = curriculum(small_project, verb, "trunk", "--size", "full", *options)
        return " ".join(done.stdout.split())

    prose = small_project / "texts/prose"
    assert "since it was prepared" not in said("prepare", "--check")
    text, times = (prose / "003.txt").read_text(), os.stat(prose / "003.txt")
    (prose / "003.txt").write_text(text.swapcase())
    os.utime(prose / "003.txt", ns=(times.st_atime_ns, times.st_mtime_ns))  # the same size and time
    os.utime(prose / "004.txt", (1, 1))
    for verb in ("prepare", "plan"):
        assert "1 with other size or time (004.txt)" in said(verb)
        assert "1 with other contents (003.txt); the prepared text stays" in said(verb, "--check")

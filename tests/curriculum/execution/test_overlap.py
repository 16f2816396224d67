"""The same text under two names: told, and refused where one source trains on what another holds out."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import commands
import numpy as np
import pytest
from pretend_runs import pretend
from projects import write_small_project

from curriculum import fs
from curriculum.compiler import overlap
from curriculum.compiler.prepared_text import PreparedText
from curriculum.config.project import Project
from curriculum.data.requests import TokenizerRequest
from runner.prepare.tokenizer import train_tokenizer

Curriculum = Callable[..., subprocess.CompletedProcess[str]]
FULL = ("--size", "full")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_small_project(tmp_path_factory.mktemp("tokenizer"))
    reads = {name: {"folder": f"texts/{name}"} for name in ("prose", "code")}
    path = root / "tokenizer.json"
    train_tokenizer(TokenizerRequest(reads=reads, vocab_size=300, output=str(path), root=str(root)))
    return path


def write_project(root: Path, tokenizer: Path) -> Path:
    """A project of one short curriculum that reads the sources `a` and `b`."""
    write_small_project(root)
    (root / "stages/variant.yaml").unlink()
    (root / "mixtures/mixed.yaml").unlink()
    shutil.copy(tokenizer, root / "tokenizer.json")
    (root / "mixtures/prose-only.yaml").write_text("weights: {a: 1, b: 1}\n")
    return root


@pytest.fixture
def project(tmp_path: Path, tokenizer: Path) -> Path:
    return write_project(tmp_path / "project", tokenizer)


@pytest.fixture(scope="module")
def overlapping(tmp_path_factory: pytest.TempPathFactory, tokenizer: Path) -> Path:
    """A project whose `b` trains on what `a` holds out, as `prepare` leaves it when it refuses that."""
    root = write_project(tmp_path_factory.mktemp("overlapping") / "project", tokenizer)
    write_sources(
        root, "a: {read: {folder: texts/prose}, held_out: 40%}", "b: {read: {folder: texts/prose}, held_out: 20%}"
    )
    assert commands.run("prepare", "trunk", *FULL, folder=root).returncode == 2
    return root


@pytest.fixture
def prepared(overlapping: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(overlapping, tmp_path / "prepared"))


def write_sources(project: Path, *sources: str) -> None:
    lines = ["tokenizers:", "  small: {path: tokenizer.json}", "sources:", *(f"  {source}" for source in sources)]
    (project / "sources.yaml").write_text("\n".join(lines) + "\n")


def words(done: subprocess.CompletedProcess[str]) -> str:
    return " ".join((done.stdout + done.stderr).split())


@pytest.mark.promise("What one source of a curriculum holds out, no other trains on unless it says `overlap: allow`")
def test_a_source_that_trains_on_what_another_holds_out_is_refused_at_its_line_until_it_says_so(
    project: Path, curriculum: Curriculum
) -> None:
    a = "a: {read: {folder: texts/prose}, held_out: 40%}"
    b = "b: {read: {folder: texts/prose}, held_out: 20%}"
    write_sources(project, a, b)
    for command in (("prepare", "trunk"), ("plan", "trunk"), ("run", "trunk"), ("run", "trunk", "--dry-run")):
        refused = curriculum(project, *command, *FULL, check=False)
        assert refused.returncode == 2, command
        assert "`b` trains on" in words(refused)
        assert "documents that `a` holds out" in words(refused)
        assert f"sources.yaml:5:3\n  5 │   {b}" in refused.stderr
        assert "hint: `held_out: 40%` for `b` too holds out the same documents" in words(refused)
    write_sources(project, a, b.replace("held_out", "overlap: allow, held_out"))
    for command in ("prepare", "plan"):
        allowed = words(curriculum(project, command, "trunk", *FULL))
        assert "as its `overlap: allow` permits; the loss on what was trained on is no held-out loss" in allowed
    notes = json.loads(curriculum(project, "plan", "trunk", *FULL, "--json").stdout)["stages"][-1]["notes"]
    assert len([note for note in notes if note.startswith("overlap: ")]) == 2


KINDS = {
    "copies under other names": ("folder: texts/prose", "folder: texts/copies"),
    "overlapping patterns": (
        'folder: texts/prose, files: ["00*", "01*", "02*"]',
        'folder: texts/prose, files: ["01*", "02*", "03*", "04*"]',
    ),
    "two filters of one corpus": ("folder: rows}, keep: {lang: en", "folder: rows}, drop: {lang: fr"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_documents_are_found_whatever_their_files_and_ids_are_called(
    project: Path, curriculum: Curriculum, kind: str
) -> None:
    texts = sorted((project / "texts/prose").iterdir())
    (project / "texts/copies").mkdir()
    (project / "rows").mkdir()
    rows = []
    for number, path in enumerate(texts):
        shutil.copy(path, project / f"texts/copies/{99 - number}.md")
        rows.append(json.dumps({"text": path.read_text(), "lang": ("en", "fr", "en", "de")[number % 4]}))
    (project / "rows/all.jsonl").write_text("\n".join(rows) + "\n")
    a, b = KINDS[kind]
    write_sources(project, f"a: {{read: {{{a}}}, held_out: 40%}}", f"b: {{read: {{{b}}}, held_out: 20%}}")
    refused = curriculum(project, "prepare", "trunk", *FULL, check=False)
    assert refused.returncode == 2
    assert "`b` trains on" in words(refused)
    write_sources(project, f"a: {{read: {{{a}}}, held_out: 40%}}", f"b: {{read: {{{b}}}, held_out: 40%}}")
    told = words(curriculum(project, "prepare", "trunk", *FULL))  # one share holds out the same documents
    assert "are the same text; passes are counted by source, so it is read more often than they say" in told
    assert "holds out" not in told


def test_sources_get_no_word_of_overlap_until_text_of_one_is_appended_to_the_other(
    project: Path, curriculum: Curriculum
) -> None:
    write_sources(
        project, "a: {read: {folder: texts/prose}, held_out: 40%}", "b: {read: {folder: texts/code}, held_out: 20%}"
    )
    assert "overlap" not in words(curriculum(project, "prepare", "trunk", *FULL))
    assert "overlap" not in words(curriculum(project, "plan", "trunk", *FULL))
    for path in (project / "texts/prose").iterdir():
        shutil.copy(path, project / f"texts/code/copy-{path.name}")
    refused = curriculum(project, "prepare", "trunk", "--append", *FULL, check=False)
    assert "`b` trains on" in words(refused)


def test_a_plan_compares_few_documents_itself_and_takes_the_result_of_many_from_preparation(
    project: Path, curriculum: Curriculum, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_sources(
        project, "a: {read: {folder: texts/prose}, held_out: 40%}", "b: {read: {folder: texts/prose}, held_out: 40%}"
    )
    curriculum(project, "prepare", "trunk", *FULL)
    for path in project.glob("data/*/*/*/*.hashes"):
        hashes = np.fromfile(path, "<u8")
        assert (hashes[:-1] < hashes[1:]).all()
    texts = PreparedText.open(Project(project), "trunk", "full")
    monkeypatch.setattr(overlap, "QUICK_DOCUMENTS", 95)  # each has 48
    recorded = overlap.overlap_lines(texts)
    assert "are the same text" in recorded[0]
    shutil.rmtree(project / "data/overlaps")
    (uncounted,) = overlap.overlap_lines(texts)
    assert uncounted == "overlap of `a` and `b` is not counted yet: `curriculum prepare trunk` counts it"
    monkeypatch.setattr(overlap, "QUICK_DOCUMENTS", 96)
    assert overlap.overlap_lines(texts) == recorded
    assert not (project / "data/overlaps").exists()


def test_text_that_was_prepared_by_an_older_version_is_planned_and_its_overlap_called_unknown(
    prepared: Path, curriculum: Curriculum
) -> None:
    shutil.rmtree(prepared / "data/overlaps")
    for path in prepared.glob("data/a/*/*/*.hashes"):
        path.unlink()
    (manifest,) = prepared.glob("data/a/*/manifest.json")
    value = json.loads(manifest.read_bytes())
    del value["sidecars"], value["sha256"]
    manifest.write_text(json.dumps(fs.seal(value)))
    for command in ("plan", "prepare"):
        told = words(curriculum(prepared, command, "trunk", *FULL))
        assert "overlap of `a` with other sources is not known: prepared by an older version" in told


@pytest.mark.parametrize("how", ["altered", "cut", "lost"])
def test_hashes_that_were_damaged_since_are_named_and_protection_does_not_end_unsaid(
    prepared: Path, curriculum: Curriculum, how: str
) -> None:
    shutil.rmtree(prepared / "data/overlaps")
    (path,) = prepared.glob("data/b/*/train/*.hashes")
    data = path.read_bytes()
    if how == "lost":
        path.unlink()
    else:
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]) if how == "altered" else data[:-8])
    planned = "".join((curriculum(prepared, "plan", "trunk", *FULL)).stdout.split())
    assert f"`{path}`ismissingordamaged" in planned
    assert "olderversion" not in planned
    refused = curriculum(prepared, "prepare", "trunk", *FULL, check=False)
    assert refused.returncode == 2
    folder = path.parents[1]
    hint = f"remove the folder `{folder}`, and `curriculum prepare trunk` makes it again".replace(" ", "")
    assert f"`{path}`ismissingordamaged" in "".join(refused.stderr.split())
    assert hint in "".join(refused.stderr.split())
    shutil.rmtree(folder)
    assert "documents that `a` holds out" in words(curriculum(prepared, "prepare", "trunk", *FULL, check=False))
    assert path.read_bytes() == data


def test_a_record_of_overlap_that_was_altered_is_counted_again(prepared: Path, curriculum: Curriculum) -> None:
    (path,) = (prepared / "data/overlaps").iterdir()
    path.write_text(json.dumps({**json.loads(path.read_bytes()), "held_out": [0, 0]}))
    assert "documents that `a` holds out" in words(curriculum(prepared, "plan", "trunk", *FULL, check=False))


def test_a_curriculum_that_has_started_to_train_is_reported_and_not_refused(
    project: Path, curriculum: Curriculum
) -> None:
    write_sources(
        project,
        "a: {read: {folder: texts/prose}, held_out: 40%, tokens: 20k}",
        "b: {read: {folder: texts/prose}, held_out: 20%, tokens: 20k}",
    )
    assert curriculum(project, "prepare", "trunk", *FULL, check=False).returncode == 2
    pretend(project, "trunk", part=0.5)
    assert "documents that `a` holds out; the loss on what" in words(curriculum(project, "plan", "trunk", *FULL))
    (project / "stages/other.yaml").write_text(
        "about: a branch that reads more\nfrom: trunk/basic\nstages:\n  - {name: more, until: 9216, mixture: more}\n"
    )
    (project / "mixtures/more.yaml").write_text("weights: {a: 1, c: 1}\n")
    with (project / "sources.yaml").open("a") as file:
        file.write("  c: {read: {folder: texts/prose}, held_out: 10%, tokens: 20k}\n")
    refused = curriculum(project, "prepare", "other", *FULL, check=False)
    assert refused.returncode == 2
    assert "error: `c` trains on" in words(refused)  # and nothing of `b`, which the trunk was trained on


def test_tokens_that_are_read_in_place_are_compared_with_text(project: Path, curriculum: Curriculum) -> None:
    write_sources(
        project, "a: {read: {folder: texts/prose}, held_out: 40%}", "b: {read: {folder: texts/code}, held_out: 40%}"
    )
    curriculum(project, "prepare", "trunk", *FULL)
    tokens = project / "tokens"
    tokens.mkdir()
    for path in project.glob("data/a/*/train/00000.ds*"):
        shutil.copy(path, tokens / path.name)
    write_sources(
        project, "a: {read: {folder: texts/prose}, held_out: 20%}", "b: {read: {tokenised: tokens}, held_out: 40%}"
    )
    refused = curriculum(project, "prepare", "trunk", *FULL, check=False)
    found = re.search(r"`a` trains on (\d+) of the (\d+) documents that `b` holds out", words(refused))
    assert found is not None
    assert found[1] == found[2]
    assert "hint: leave the files out" in words(refused)  # the same share would hold out others

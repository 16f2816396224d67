"""`verify` finds what was altered or lost of every kind, lists all of it, and its hints work when they are typed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from projects import write_small_project

Curriculum = Callable[..., "subprocess.CompletedProcess[str]"]
FULL = ("--size", "full")
VERIFY = ("verify", "variant", *FULL)
COOLDOWN = "runs/full/variant/cooldown"


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short path, which no line of a message is broken in."""
    with tempfile.TemporaryDirectory(prefix="v") as path:
        yield Path(path)


@pytest.fixture
def project(finished: Path, folder: Path) -> Path:
    return Path(shutil.copytree(finished, folder / "p"))


def only(project: Path, pattern: str) -> Path:
    (path,) = project.glob(pattern)
    return path


def flip(path: Path) -> None:
    """Change one byte in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def swap_two_ids(tokenizer: Path) -> None:
    """Exchange two ids of a tokenizer's vocabulary: it stays a valid one."""
    value = json.loads(tokenizer.read_bytes())
    ids = value["model"]["vocab"]
    one, other = [word for word, number in ids.items() if number in (280, 281)]
    ids[one], ids[other] = ids[other], ids[one]
    tokenizer.write_text(json.dumps(value, ensure_ascii=False))


def words(done: subprocess.CompletedProcess[str]) -> str:
    return " ".join(done.stderr.split())


def hint(done: subprocess.CompletedProcess[str]) -> str:
    return words(done).partition("hint: ")[2]


def follow(project: Path, curriculum: Curriculum, text: str) -> None:
    """Do what a hint says: remove what it names, then run its last command."""
    named = re.search(r"(?:remove(?: the folder)?|move) `([^`]+)`", text)
    if named and Path(named[1]).is_dir():
        shutil.rmtree(named[1])
    elif named:
        Path(named[1]).unlink()
    commands = re.findall(r"`curriculum ([^`]+)`", text)
    if commands:
        curriculum(project, *commands[-1].split())


@pytest.mark.parametrize("command", ["verify", "prepare", "run", "export"])
@pytest.mark.promise("A tokenizer that was altered since a stage was trained with it is found, and its file named")
def test_an_altered_tokenizer_is_named_and_the_way_out_makes_the_same_again(
    project: Path, curriculum: Curriculum, command: str
) -> None:
    tokenizer = only(project, "data/tokenizers/*/tokenizer.json")
    sound = tokenizer.read_bytes()
    swap_two_ids(tokenizer)
    refused = curriculum(
        project, command, "variant", *FULL, *(("--to", "exported") if command == "export" else ()), check=False
    )
    assert refused.returncode == 2
    assert str(tokenizer) in words(refused)
    assert "is not the one that `trunk/basic` was made with" in words(refused)
    if command == "verify":
        assert "ok  text of prose" in refused.stdout  # the text is the same as ever
    follow(project, curriculum, hint(refused))
    assert tokenizer.read_bytes() == sound
    assert curriculum(project, *VERIFY).stderr == ""


def test_an_altered_tokenizer_is_found_by_the_text_that_was_made_with_it(folder: Path, curriculum: Curriculum) -> None:
    small_project = write_small_project(folder / "p")
    curriculum(small_project, "prepare", "variant", *FULL)
    tokenizer = only(small_project, "data/tokenizers/*/tokenizer.json")
    swap_two_ids(tokenizer)
    for command in ("verify", "prepare"):
        refused = curriculum(small_project, command, "variant", *FULL, check=False)
        assert refused.returncode == 2
        assert f"the tokenizer `{tokenizer}` is not the one that the prepared text" in words(refused)
    follow(small_project, curriculum, hint(refused))
    assert curriculum(small_project, *VERIFY).stderr == ""


def test_a_tokenizer_that_is_lost_or_broken_is_no_sound_one(project: Path, curriculum: Curriculum) -> None:
    tokenizer = only(project, "data/tokenizers/*/tokenizer.json")
    for spoil in (lambda: tokenizer.write_text("{"), tokenizer.unlink):
        spoil()
        refused = curriculum(project, *VERIFY, check=False)
        assert refused.returncode == 2
        assert str(tokenizer) in words(refused)
        assert "ok  text of prose" in refused.stdout
        assert "ok  end of variant/cooldown" in refused.stdout
        follow(project, curriculum, hint(refused))
        assert curriculum(project, *VERIFY).stderr == ""


def test_text_that_is_merely_not_here_is_said_to_be_and_is_no_fault(project: Path, curriculum: Curriculum) -> None:
    shutil.rmtree(only(project, "data/prose/*-*[!.log]"))
    told = curriculum(project, *VERIFY)
    assert "not here  text of prose: `curriculum prepare variant` makes it" in told.stdout
    assert "ok  text of prose" not in told.stdout


def test_text_that_was_prepared_again_from_changed_files_is_not_what_a_stage_was_trained_on(
    project: Path, curriculum: Curriculum
) -> None:
    folder = only(project, "data/code/*-*[!.log]")
    shutil.rmtree(folder)
    for path in sorted((project / "texts/code").iterdir())[:4]:
        path.write_text(path.read_text() + " lambda")
    curriculum(project, "prepare", "variant", *FULL)
    refused = curriculum(project, *VERIFY, check=False)
    assert refused.returncode == 2
    assert f"the text in `{folder}` is not the one that `variant/continual` was trained on" in words(refused)


def test_all_faults_are_listed(project: Path, curriculum: Curriculum) -> None:
    spoilt = [
        only(project, "data/code/*/manifest.json"),
        only(project, "data/prose/*/train/00000.ds"),
        only(project, "data/prose/*/held-out/00000.ids"),
        project / COOLDOWN / "plan.json",
        project / COOLDOWN / "metrics.jsonl",
        sorted((project / COOLDOWN / "evaluations").iterdir())[-1],
        next((project / "runs/full/trunk/basic/checkpoints").glob("*/state.json")),
    ]
    for path in spoilt:
        if path.name == "metrics.jsonl":
            path.write_bytes(path.read_bytes().replace(b"}\n", b"\n", 1))
        else:
            flip(path)
    refused = curriculum(project, *VERIFY, check=False)
    assert refused.returncode == 2
    assert refused.stderr.count("error: ") == len(spoilt), refused.stderr
    for path in spoilt:
        assert str(path.parent if path.name == "state.json" else path) in words(refused)


KINDS = {
    "tokens": "data/prose/*/train/00000.ds",
    "their index": "data/prose/*/train/00000.ds.index",
    "block digests": "data/prose/*/held-out/00000.ds.blocks",
    "ids": "data/code/*/train/00000.ids",
    "hashes of documents": "data/code/*/held-out/00000.ds.hashes",
    "the files that were read": "data/prose/*/files-0.json",
    "manifest": "data/code/*/manifest.json",
    "plan": f"{COOLDOWN}/plan.json",
    "ledger": f"{COOLDOWN}/ledger.jsonl",
    "metrics": f"{COOLDOWN}/metrics.jsonl",
    "evaluation": f"{COOLDOWN}/evaluations/g0-0000000000012288.json",
    "earlier evaluation": "runs/full/trunk/basic/evaluations/g0-0000000000000000.json",
    "checkpoint at a stage's end": f"{COOLDOWN}/checkpoints/g0-0000000000012288/state.json",
    "checkpoint on the way": f"{COOLDOWN}/checkpoints/g0-0000000000011264/rank-00000.safetensors",
    "mark of the end": f"{COOLDOWN}/DONE",
}


@pytest.mark.parametrize("how", ["altered", "lost"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.promise("The hint of everything that `verify` finds is a way out that works as it is typed")
def test_what_verify_finds_it_also_says_how_to_mend(project: Path, curriculum: Curriculum, kind: str, how: str) -> None:
    if how == "lost" and kind in {"metrics", "evaluation", "earlier evaluation", "mark of the end"}:
        return  # what was measured or marked need not be there
    path = only(project, KINDS[kind])
    if how == "lost":
        path.unlink()
    elif kind == "metrics":
        path.write_bytes(path.read_bytes()[1:])
    else:
        flip(path)
    refused = curriculum(project, *VERIFY, check=False)
    assert refused.returncode == 2, refused.stdout
    assert refused.stderr.count("error: ") == 1, refused.stderr
    follow(project, curriculum, hint(refused))
    assert curriculum(project, *VERIFY).stderr == ""


def test_a_damaged_pin_is_written_again_by_a_run_of_what_is_finished(project: Path, curriculum: Curriculum) -> None:
    (project / "stages/inner.yaml").write_text(
        "about: leaves inside a stage\nfrom: trunk@5120\nstages:\n  - {name: rest, until: 6144, mixture: mixed}\n"
    )
    curriculum(project, "run", "inner", *FULL)
    pin = only(project, "runs/full/trunk/basic/pins/*/inner.json")
    sound = pin.read_bytes()
    pin.write_text('{"by": "another"}')
    refused = curriculum(project, "verify", "inner", *FULL, check=False)
    assert f"the pin `{pin}` is damaged" in words(refused)
    curriculum(project, *re.findall(r"`curriculum ([^`]+)`", hint(refused))[0].split())
    assert pin.read_bytes() == sound


def test_a_lost_plan_is_not_written_again_from_files_that_describe_another(
    project: Path, curriculum: Curriculum
) -> None:
    (project / COOLDOWN / "plan.json").unlink()
    stages = project / "stages/variant.yaml"
    stages.write_text(stages.read_text().replace("batch: 32 sequences", "batch: 16 sequences"))
    refused = curriculum(project, "run", "variant", *FULL, check=False)
    assert refused.returncode == 2
    assert "the plan of `variant/cooldown` is missing, and the files describe another" in words(refused)
    assert not (project / COOLDOWN / "plan.json").exists()

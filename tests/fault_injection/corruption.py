"""R3: flipped bits. R4: zeroed, swapped, cut, grown and doubled pages. R18: `curriculum verify` finds them all."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from curriculum import fs
from curriculum.artifacts import checkpoints, ledger
from curriculum.artifacts.evaluations import read_evaluations
from curriculum.artifacts.stage_folder import StageFolder
from curriculum.config.project import Project
from curriculum.data.dataset import Dataset
from curriculum.data.tokenizer import Tokenizer
from curriculum.errors import CurriculumError, DataError
from curriculum.plan.stage import StagePlan
from curriculum.runs.verify import verify
from tests.fault_injection import world
from tests.fault_injection.figures import Case, Tally, figure

PAGE = 4096
ALWAYS_FOUND = frozenset({"ledger", "tokenizer", "data .hashes", "data .json"})
"""Kinds that `verify` compares byte for byte, or that their reader here does not read."""


@dataclass(frozen=True)
class Artefact:
    """A stored file, and how its user reads it: CurriculumError, or a value that must not have changed."""

    kind: str
    path: Path
    read: Callable[[], Any]


def artefacts(root: Path) -> list[Artefact]:
    """Every file of a finished project that a later run continues from."""
    _, texts = world.compiled(root)
    tokenizer = texts.project.data
    found: list[Artefact] = []
    for dataset in texts.datasets():
        folder = texts.folder(dataset)
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                kind = "data " + (path.suffix if path.name != "manifest.json" else path.name)
                found.append(Artefact(kind, path, lambda folder=folder: _text(folder)))
    for path in sorted(tokenizer.glob("tokenizers/*/tokenizer.json")):
        found.append(Artefact("tokenizer", path, lambda path=path: Tokenizer.load(path).digest))
    for name, stage_name in world.STAGES:
        stage = world.stage(root, name, stage_name)
        for checkpoint in checkpoints.list_checkpoints(StageFolder(stage)):
            for path in sorted(checkpoint.path.iterdir()):
                read = lambda folder=checkpoint.path: _checkpoint(folder)  # noqa: E731
                found.append(Artefact(f"checkpoint {path.name}", path, read))
        found.append(
            Artefact("plan", stage / "plan.json", lambda stage=stage: StagePlan.load(stage / "plan.json").to_json())
        )
        found.append(Artefact("ledger", stage / "ledger.jsonl", lambda stage=stage: _ledger(stage)))
        for path in sorted((stage / "evaluations").iterdir()):
            found.append(Artefact("evaluation", path, lambda stage=stage: read_evaluations(StageFolder(stage))))
    return found


def _text(folder: Path) -> Any:
    values = []
    for split in ("train", "held-out"):
        opened = Dataset.open(folder, split=split, sequence_length=32)
        values.append(opened.read(np.arange(opened.windows)).tobytes())
        values.append([opened.documents(window) for window in range(0, opened.windows, 50)])
        values.append(opened.find_documents(values[-1][0][0].id))
    values.append(Dataset.open(folder, split="train", sequence_length=32).manifest)
    return values


def _ledger(stage: Path) -> Any:
    """Read, and held against the checkpoints: cut at a line's end it looks like an earlier one."""
    entries = ledger.read(StageFolder(stage))
    kept = {found.name for found in checkpoints.list_checkpoints(StageFolder(stage))}
    if kept - {entry.checkpoint for entry in entries}:
        raise DataError(f"`{StageFolder(stage).ledger}` was cut short", hint="`curriculum verify` says what it lacks")
    return entries


def _checkpoint(folder: Path) -> Any:
    checkpoints.verify(folder)
    return checkpoints.state(folder), {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "manifest.json"}


def flip(data: bytes, draw: random.Random) -> bytes:
    changed = bytearray(data)
    changed[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def zero(data: bytes, draw: random.Random) -> bytes:
    page = min(PAGE, max(1, len(data) // 2))
    at = draw.randrange(0, len(data) - page + 1)
    return data[:at] + b"\0" * page + data[at + page :]


def swap(data: bytes, draw: random.Random) -> bytes:
    page = min(PAGE, max(1, len(data) // 4))
    one = draw.randrange(0, len(data) // page)
    other = draw.randrange(0, len(data) // page)
    pages = [data[at : at + page] for at in range(0, len(data), page)]
    pages[one], pages[other] = pages[other], pages[one]
    return b"".join(pages)


def cut(data: bytes, draw: random.Random) -> bytes:
    return data[: draw.randrange(len(data))]


def grow(data: bytes, draw: random.Random) -> bytes:
    return data + draw.randbytes(draw.choice((1, 8, 32, PAGE)))


def double(data: bytes, draw: random.Random) -> bytes:
    page = min(PAGE, max(1, len(data) // 4))
    at = draw.randrange(0, len(data) - page + 1)
    return data[: at + page] + data[at : at + page] + data[at + page :]


PAGE_FAULTS = {"zeroed": zero, "swapped": swap, "cut": cut, "grown": grow, "doubled": double}


def _spoil(data: bytes, how: Callable[[bytes, random.Random], bytes], draw: random.Random) -> bytes | None:
    for _ in range(8):
        changed = how(data, draw)
        if changed != data:
            return changed
    return None


class Spoiler:
    """Spoils artefacts of a copy one at a time, asks their readers, and puts them back."""

    def __init__(self, case: Case) -> None:
        self.root = world.copy(case.folder / "project")
        self.kinds: dict[str, list[Artefact]] = {}
        for artefact in artefacts(self.root):
            if artefact.path.stat().st_size:
                self.kinds.setdefault(artefact.kind, []).append(artefact)
        self.right: dict[Path, Any] = {}

    def draw(self, draw: random.Random, number: int) -> Artefact:
        kinds = sorted(self.kinds)
        return draw.choice(self.kinds[kinds[number % len(kinds)]])

    def noticed(self, artefact: Artefact, how: Callable[[bytes, random.Random], bytes], draw: random.Random) -> str:
        """What is wrong with how a spoilt artefact is met; an empty string when it is noticed, or harmless."""
        if artefact.path not in self.right:
            self.right[artefact.path] = artefact.read()
        data = artefact.path.read_bytes()
        changed = _spoil(data, how, draw)
        if changed is None:
            return ""
        artefact.path.write_bytes(changed)
        try:
            value = artefact.read()
        except CurriculumError as error:
            screen = error.render()
            named = artefact.path.name in screen.replace("\n", "") or artefact.path.parent.name in screen
            return "" if named and error.hint else f"the message names neither file nor way out: {screen}"
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        finally:
            artefact.path.write_bytes(data)
        return (
            "" if value == self.right[artefact.path] and artefact.kind != "tokenizer" else self._late(artefact, value)
        )

    def _late(self, artefact: Artefact, value: Any) -> str:
        if artefact.kind == "tokenizer":  # its digest is what plans and prepared text are compared with
            return "" if value != self.right[artefact.path] else "the same digest for other bytes"
        return "other values were read without a word"


def _measure(case: Case, tally: Tally, trials: int, faults: dict[str, Callable[[bytes, random.Random], bytes]]) -> None:
    spoiler = Spoiler(case)
    for number in range(trials):
        draw = case.draw("corruption", number)
        name = sorted(faults)[number % len(faults)] if len(faults) > 1 else next(iter(faults))
        artefact = spoiler.draw(draw, number // len(faults))
        wrong = spoiler.noticed(artefact, faults[name], draw)
        tally.trial(f"{number}: {name} in {artefact.kind} ({artefact.path.name}): {wrong}", not wrong)
    tally.notes["kinds of file"] = len(spoiler.kinds)


@figure("R3", "one flipped bit in any stored file: noticed before use, file and way out named")
def flipped_bits(case: Case, tally: Tally) -> None:
    _measure(case, tally, case.count(80, 2000, 50_000), {"flipped": flip})


@figure("R4", "a page zeroed, swapped, cut off, added, doubled in any stored file: noticed before use")
def spoilt_pages(case: Case, tally: Tally) -> None:
    _measure(case, tally, case.count(60, 600, 20_000), PAGE_FAULTS)


@figure("R18", "`curriculum verify` finds every fault of R3 and R4 offline, names the command, and is fast enough")
def verified(case: Case, tally: Tally) -> None:
    spoiler = Spoiler(case)
    project = Project(spoiler.root)
    compiled, texts = world.compiled(spoiler.root)
    clean = verify(project, compiled, texts)
    tally.trial(f"a sound project is refused: {[str(e) for e in clean.wrong]}", not clean.wrong)
    faults = {"flipped": flip, **PAGE_FAULTS}
    for number in range(case.count(12, 60, 2000)):
        draw = case.draw("R18", number)
        artefact = spoiler.draw(draw, number // len(faults))
        name = sorted(faults)[number % len(faults)]
        data = artefact.path.read_bytes()
        changed = _spoil(data, faults[name], draw)
        if changed is None:
            continue
        artefact.path.write_bytes(changed)
        try:
            compiled, texts = world.compiled(spoiler.root)
            wrong = [error.render() for error in verify(Project(spoiler.root), compiled, texts).wrong]
        except CurriculumError as error:
            wrong = [error.render()]
        else:
            wrong += ["curriculum"] if artefact.kind not in ALWAYS_FOUND and _harmless(artefact, spoiler, data) else []
        finally:
            artefact.path.write_bytes(data)
        same = any("curriculum" in screen or "from a copy" in screen for screen in wrong)
        tally.trial(f"{number}: {name} in {artefact.kind} is not found, or without a command: {wrong}", same)
    rate = speed(case.folder / "large", case.count(32, 256, 2048) << 20)
    tally.notes["MiB/s of processor time"] = round(rate)
    tally.trial(f"verify reads {rate:.0f} MiB a second of processor time, 400 are wanted", rate >= 400)


def _harmless(artefact: Artefact, spoiler: Spoiler, data: bytes) -> bool:
    """Whether a reader meets the same values all the same, as with a blank more between two of them."""
    changed = artefact.path.read_bytes()
    try:
        value = artefact.read()
    except CurriculumError:
        return False
    artefact.path.write_bytes(data)
    same: bool = value == artefact.read()
    artefact.path.write_bytes(changed)
    return same


def speed(folder: Path, size: int) -> float:
    """MiB that `verify` reads in a second of one core's time."""
    folder.mkdir(parents=True)
    with (folder / "rank-00000.safetensors").open("wb") as file:
        block = random.Random(0).randbytes(1 << 20)
        for _ in range(size >> 20):
            file.write(block)
    fs.write_json(folder / checkpoints.STATE, {"position": 0})
    checkpoints.seal(folder)
    began = time.process_time()
    checkpoints.verify(folder)
    return (size >> 20) / (time.process_time() - began)

"""Every way in which something durable comes to be, changes or goes: how it begins, is done, and is read back."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curriculum import fs
from curriculum.artifacts import checkpoints, ledger
from curriculum.artifacts.jobs import ExportJob
from curriculum.artifacts.stage_folder import StageFolder, checkpoint_name
from curriculum.data.dataset import Dataset
from curriculum.data.requests import PrepareRequest
from curriculum.errors import CurriculumError
from curriculum.plan.stage import StagePlan
from curriculum.runs import accept_change
from tests.fault_injection import small

OLD, NEW = "old", "new"


@dataclass(frozen=True)
class Protocol:
    """`before` makes the folder as it was, `act` changes it, `read` says OLD or NEW, or what is wrong instead.

    `act` may be asked again after whatever happened; `kept` (default: only NEW) are answers allowed then.
    """

    name: str
    before: Callable[[Path], None]
    act: Callable[[Path], None]
    read: Callable[[Path], str]
    states: int = 24
    costly: bool = False


def _text(old: bytes | None, new: bytes) -> Callable[[Path], str]:
    def read(root: Path) -> str:
        path = root / "value"
        found = path.read_bytes() if path.exists() else None
        return OLD if found == old else NEW if found == new else f"holds {found!r}"

    return read


def _write_new(root: Path) -> None:
    if (root / "value").exists():
        fs.make_durable(root / "value")
    else:
        fs.write_bytes(root / "value", b"new and long enough to be cut")


def _write_over(root: Path) -> None:
    fs.write_bytes(root / "value", b"new and long enough to be cut", replace=True)


def _entry(position: int) -> ledger.Entry:
    return ledger.Entry(
        generation=0,
        position=position,
        step=position // 64,
        checkpoint=checkpoint_name(0, position),
        fingerprint="f" * 64,
        windows={"prose": position // 32},
    )


def _two_lines(root: Path) -> None:
    ledger.append(StageFolder(root), _entry(64))
    ledger.append(StageFolder(root), _entry(128))


def _third_line(root: Path) -> None:
    ledger.append(StageFolder(root), _entry(192))


def _lines(before: int) -> Callable[[Path], str]:
    def read(root: Path) -> str:
        positions = [entry.position for entry in ledger.read(StageFolder(root))]
        whole = [64, 128, 192][-before - 1 :] if before else [192]
        return OLD if positions == whole[:-1] else NEW if positions == whole else f"lines {positions}"

    return read


def _torn(root: Path) -> None:
    _two_lines(root)
    with (StageFolder(root).ledger).open("ab") as file:
        file.write(b'{"generation": 0, "posi')


def _build(root: Path) -> None:
    if (root / "deep/made").exists():
        fs.make_durable(root / "deep/made")
    else:
        with fs.build_directory(root / "deep/made") as folder:
            (folder / "inner").mkdir()
            (folder / "inner/a").write_bytes(b"a" * 40)
            (folder / "b").write_bytes(b"b" * 40)


def _built(root: Path) -> str:
    folder = root / "deep/made"
    if not folder.exists():
        return OLD
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return NEW if found == {"inner/a": b"a" * 40, "b": b"b" * 40} else f"holds {found}"


def _nothing(root: Path) -> None:
    root.mkdir(parents=True, exist_ok=True)


def _first_checkpoint(root: Path) -> None:
    small.save(root / "checkpoints" / checkpoint_name(0, 64), 64)


def _second_checkpoint(root: Path) -> None:
    checkpoints.sweep(StageFolder(root))
    folder = root / "checkpoints" / checkpoint_name(0, 128)
    if not folder.exists():
        small.save(folder, 128)


def _newest(root: Path) -> str:
    positions = []
    for found in checkpoints.list_checkpoints(StageFolder(root)):
        checkpoints.verify(found.path)
        small.load(found.path)
        positions.append(found.position)
    return OLD if positions == [64] else NEW if positions == [64, 128] else f"checkpoints at {positions}"


def _two_checkpoints(root: Path) -> None:
    for position in (64, 128):
        folder = root / "checkpoints" / f".new-{position}"
        fs.make_directory(folder)
        (folder / "rank-00000.safetensors").write_bytes(b"t" * 64)
        fs.write_json(folder / checkpoints.STATE, {"position": position})
        checkpoints.seal(folder)
        fs.publish(folder, root / "checkpoints" / checkpoint_name(0, position))


def _discard_first(root: Path) -> None:
    checkpoints.sweep(StageFolder(root))
    for found in checkpoints.list_checkpoints(StageFolder(root))[:-1]:
        checkpoints.discard(found)


def _discarded(root: Path) -> str:
    positions = []
    for found in checkpoints.list_checkpoints(StageFolder(root)):
        checkpoints.verify(found.path)
        positions.append(found.position)
    return OLD if positions == [64, 128] else NEW if positions == [128] else f"checkpoints at {positions}"


def _pin(root: Path) -> None:
    checkpoints.pin(StageFolder(root), 64, "mine")


def _pinned(root: Path) -> str:
    pins = checkpoints.pinned(StageFolder(root))
    return OLD if not pins else NEW if pins == {64: ("mine",)} else f"pins {pins}"


def _old_plan(root: Path) -> None:
    small.plan(mixture=(3, 1)).save(root / "plan.json")


def _new_plan(root: Path) -> None:
    wanted = small.plan(mixture=(1, 1))
    if StagePlan.load(root / "plan.json").fingerprint == wanted.fingerprint:
        fs.make_durable(root / "plan.json")
    else:
        accept_change._replace_plan(StageFolder(root), wanted)


def _plan(root: Path) -> str:
    found = StagePlan.load(root / "plan.json").fingerprint
    kept = [StagePlan.load(path).fingerprint for path in sorted(root.glob("plan-*.json"))]
    old, new = small.plan(mixture=(3, 1)).fingerprint, small.plan(mixture=(1, 1)).fingerprint
    if found == old and kept in ([], [old]):
        return OLD
    return NEW if found == new and kept == [old] else f"plan {found}, kept {kept}"


def _evaluate(root: Path) -> None:
    from curriculum.artifacts.evaluations import write_sets

    write_sets(StageFolder(root), 0, 64, 1, {"code": {"loss": 1.5}})


def _evaluated_before(root: Path) -> None:
    from curriculum.artifacts.evaluations import write_sets

    write_sets(StageFolder(root), 0, 64, 1, {"prose": {"loss": 2.5}})


def _evaluated(root: Path) -> str:
    from curriculum.artifacts.evaluations import read_sets

    found = read_sets(StageFolder(root), 0, 64)
    if found == {"prose": {"loss": 2.5}}:
        return OLD
    return NEW if found == {"prose": {"loss": 2.5}, "code": {"loss": 1.5}} else f"holds {found}"


def _to_export(root: Path) -> None:
    small.save(root / "checkpoint", 64)


def _export(root: Path) -> None:
    from runner.checkpoint import huggingface

    if (root / "out").exists():
        fs.make_durable(root / "out")
    else:
        huggingface.export(export_job(root))


def export_job(root: Path) -> ExportJob:
    return ExportJob(
        attempt_folder=str(root),
        checkpoint=str(root / "checkpoint"),
        output=str(root / "out"),
        model=small.MODEL,
        dtype="float32",
        texts={"config.json": "{}\n", "README.md": "# a card\n"},
        copies={"tokenizer.json": str(root / "checkpoint/state.json")},
    )


def _exported(root: Path) -> str:
    if not (root / "out").exists():
        return OLD
    found = files(root / "out")
    wanted = small.exported()
    return NEW if found == wanted else f"out holds {sorted(found)} with other bytes"


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _texts(root: Path) -> None:
    texts = root / "texts"
    texts.mkdir(parents=True)
    for number in range(4):
        (texts / f"{number}.txt").write_text(f"ships went slowly home {number} under rain " * 4)
    shutil.copy(small.tokenizer(), root / "tokenizer.json")


def prepare_request(root: Path) -> PrepareRequest:
    return PrepareRequest(
        dataset="prose",
        read={"folder": "texts"},
        tokenizer_file=str(root / "tokenizer.json"),
        output=str(root / "data/made"),
        progress=str(root / "data/made.progress.jsonl"),
        sequence_length=8,
        root=str(root),
        tasks=2,
    )


def _prepare(root: Path) -> None:
    from runner.prepare.job import prepare

    prepare(prepare_request(root))


def _prepared(root: Path) -> str:
    if not (root / "data/made").exists():
        return OLD
    opened = Dataset.open(root / "data/made", sequence_length=8)
    total = sum(size for _, size in opened.verify())
    return NEW if opened.digest == small.prepared_digest() and total else f"prepared {opened.digest}"


PROTOCOLS = (
    Protocol("a new file", _nothing, _write_new, _text(None, b"new and long enough to be cut")),
    Protocol(
        "a file replaced",
        lambda root: fs.write_bytes(root / "value", b"old"),
        _write_over,
        _text(b"old", b"new and long enough to be cut"),
    ),
    Protocol("the ledger's first line", _nothing, _third_line, _lines(0)),
    Protocol("a line of the ledger", _two_lines, _third_line, _lines(2)),
    Protocol("a line behind a torn one", _torn, _third_line, _lines(2)),
    Protocol("a folder built", _nothing, _build, _built),
    Protocol("a pin", _nothing, _pin, _pinned),
    Protocol("a plan replaced", _old_plan, _new_plan, _plan),
    Protocol("an evaluation added to", _evaluated_before, _evaluate, _evaluated),
    Protocol("a checkpoint discarded", _two_checkpoints, _discard_first, _discarded),
    Protocol("a checkpoint saved", _first_checkpoint, _second_checkpoint, _newest, 16, True),
    Protocol("an export", _to_export, _export, _exported, 10, True),
    Protocol("text prepared", _texts, _prepare, _prepared, 5, True),
)


def looked_at(protocol: Protocol, root: Path) -> str:
    """OLD, NEW, or what a reader meets instead."""
    try:
        return protocol.read(root)
    except CurriculumError as error:
        return f"refused: {error.what}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def acted(protocol: Protocol, root: Path) -> Any:
    """Do it; the exception when it failed."""
    try:
        protocol.act(root)
    except Exception as error:
        return error
    return None

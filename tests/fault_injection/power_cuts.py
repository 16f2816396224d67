"""R2: a power cut at every instant of every durable protocol. R5: every disk operation fails once, each in turn."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from curriculum.errors import CurriculumError, storage_error
from tests.fault_injection.disk import FAULTS, Disk, Killed, NthFails, NthIsShort, NthKills, put, states
from tests.fault_injection.figures import Case, Tally, figure, mutated
from tests.fault_injection.protocols import NEW, OLD, PROTOCOLS, Protocol, acted, looked_at

# What each mutant leaves out or turns round: (name, module, old text, new text, the protocol that must notice).
MUTANTS: tuple[tuple[str, str, str, str, str], ...] = (
    (
        "a file is not fsynced before its rename",
        "curriculum.fs.files",
        "            _write_all(descriptor, data)\n            os.fsync(descriptor)\n        finally:",
        "            _write_all(descriptor, data)\n        finally:",
        "a file replaced",
    ),
    (
        "the directory is not synced after a rename",
        "curriculum.fs.files",
        "            os.unlink(temporary)\n        raise\n    fsync(path.parent)",
        "            os.unlink(temporary)\n        raise",
        "a file replaced",
    ),
    (
        "the directory is not synced after a link",
        "curriculum.fs.files",
        "            os.unlink(temporary)\n        raise\n    fsync(path.parent)",
        "            os.unlink(temporary)\n        raise",
        "a new file",
    ),
    (
        "a file is overwritten in place",
        "curriculum.fs.files",
        '    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}.tmp")\n'
        "    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)",
        "    temporary = path\n    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)",
        "a file replaced",
    ),
    (
        "the rename comes before the fsync",
        "curriculum.fs.files",
        "            os.fsync(descriptor)\n        finally:\n            os.close(descriptor)\n        if replace:\n"
        "            os.rename(temporary, path)",
        "            os.rename(temporary, path)\n            os.fsync(descriptor)\n        finally:\n"
        "            os.close(descriptor)\n        if replace:\n            pass",
        "a file replaced",
    ),
    (
        "an appended line is not fsynced",
        "curriculum.fs.files",
        "            if sync:\n                os.fsync(descriptor)\n        except OSError:",
        "        except OSError:",
        "a line of the ledger",
    ),
    (
        "a torn line is not cut before the next",
        "curriculum.fs.files",
        "        end = _drop_truncated_line(descriptor)\n",
        "        end = os.fstat(descriptor).st_size\n",
        "a line behind a torn one",
    ),
    (
        "a new ledger's name is not synced",
        "curriculum.fs.files",
        "    if sync and end == 0:\n        fsync(path.parent)\n",
        "",
        "the ledger's first line",
    ),
    (
        "a folder is published without syncing what is in it",
        "curriculum.fs.publish",
        "    sync_tree(temporary)\n    os.rename(temporary, final)\n",
        "    os.rename(temporary, final)\n",
        "a folder built",
    ),
    (
        "a folder is renamed before it is synced",
        "curriculum.fs.publish",
        "    sync_tree(temporary)\n    os.rename(temporary, final)\n",
        "    os.rename(temporary, final)\n    sync_tree(final)\n",
        "a folder built",
    ),
    (
        "the parent is not synced after publishing",
        "curriculum.fs.publish",
        "    os.rename(temporary, final)\n    fsync(final.parent)\n",
        "    os.rename(temporary, final)\n",
        "a checkpoint saved",
    ),
    (
        "files are synced, but not the folders that name them",
        "curriculum.fs.files",
        "            fsync(Path(root, name))\n        fsync(Path(root))\n",
        "            fsync(Path(root, name))\n",
        "a folder built",
    ),
    (
        "a made folder is not synced in its parent",
        "curriculum.fs.files",
        "        folder.mkdir(exist_ok=True)\n        fsync(folder.parent)\n",
        "        folder.mkdir(exist_ok=True)\n",
        "a pin",
    ),
    (
        "a folder that a killed process made is not synced by the next",
        "curriculum.fs.files",
        "        fsync(existing.parent)  # the process that created `existing` may have been killed before this\n",
        "        pass\n",
        "a pin",
    ),
    (
        "a discarded checkpoint's new name is not synced before its files go",
        "curriculum.fs.publish",
        "    os.rename(folder, aside)\n    fsync(folder.parent)\n",
        "    os.rename(folder, aside)\n",
        "a checkpoint discarded",
    ),
    (
        "a checkpoint is deleted under its own name",
        "curriculum.artifacts.checkpoints",
        "    doomed = fs.set_aside(checkpoint.path)\n",
        "    doomed = checkpoint.path\n    fs.remove(doomed)\n    return True\n",
        "a checkpoint discarded",
    ),
    (
        "the checkpoint appears before its manifest",
        "runner.checkpoint.tensors",
        "checkpoints.seal(temporary, digests)\n                    sealed()\n"
        "                    fs.publish(temporary, folder)\n",
        "fs.publish(temporary, folder)\n                    checkpoints.seal(folder, digests)\n",
        "a checkpoint saved",
    ),
    (
        "the old plan goes before the new one is there",
        "curriculum.runs.accept_change",
        "    plan.save(folder.plan, replace=True)\n",
        "    folder.plan.unlink()\n    plan.save(folder.plan)\n",
        "a plan replaced",
    ),
    (
        "an export is written under its own name",
        "runner.checkpoint.huggingface",
        "        with fs.build_directory(output) as folder:\n            _write_weights",
        "        output.mkdir()\n        folder = output\n        if True:\n            _write_weights",
        "an export",
    ),
    (
        "prepared text is named without being synced",
        "runner.prepare.job",
        "        fs.publish(data, output)\n",
        "        os.rename(data, output)\n",
        "text prepared",
    ),
)


def cut(protocol: Protocol, case: Case, *, again: bool = True) -> Iterator[str]:
    """Every state a power cut may leave, of which yields what is wrong with it, or an empty string."""
    start, work = case.folder / "start", case.folder / "work"
    at = case.folder / "state"
    _copied(start, work)
    with Disk(work) as disk:
        protocol.act(work)
    draw = case.draw("R2", protocol.name)
    most = protocol.states * {"smoke": 1, "gate": 4, "long": 40}[case.size]
    for number, snapshot in enumerate(disk.snapshots):
        last = number == len(disk.snapshots) - 1
        for tree in states(snapshot, most, draw):
            _fresh(at)
            put(tree, at)
            found = looked_at(protocol, at)
            where = f"{protocol.name}, power cut after {snapshot.after}"
            if found not in (OLD, NEW):
                yield f"{where}: {found}"
            elif last and found == OLD:
                yield f"{protocol.name}: undone by a power cut after it had returned"
            elif again and (not protocol.costly or draw.random() < 0.04) and (wrong := _again(protocol, at)):
                yield f"{where}, then the same again: {wrong}"
            else:
                yield ""
    # Killed at a call, started again by the next process, and then the power cut.
    calls = range(1, disk.calls + 1)
    for number in calls if not protocol.costly else draw.sample(calls, min(len(calls), case.count(2, 12, 200))):
        _copied(start, work)
        kill = NthKills(number)
        with Disk(work, refuse=kill) as disk:
            try:
                protocol.act(work)
            except Killed:
                disk.dead = False
                disk.refuse = lambda n, call, path: None
                protocol.act(work)
        for tree in states(disk.snapshots[-1], protocol.states, draw):
            _fresh(at)
            put(tree, at)
            found = looked_at(protocol, at)
            yield (
                ""
                if found == NEW
                else (f"{protocol.name}, killed before call {number}, done again, then a power cut: {found}")
            )


def _start(protocol: Protocol, case: Case) -> None:
    _fresh(case.folder / "start")
    protocol.before(case.folder / "start")


def _again(protocol: Protocol, root: Path) -> str:
    error = acted(protocol, root)
    if error is not None:
        return f"{type(error).__name__}: {error}"
    found = looked_at(protocol, root)
    return "" if found == NEW else found


@figure("R2", "power cuts: every state they may leave of every durable protocol")
def power_cuts(case: Case, tally: Tally) -> None:
    for protocol in PROTOCOLS:
        if case.size == "smoke" and protocol.costly and protocol.name != "a checkpoint saved":
            continue
        _start(protocol, case)
        for wrong in cut(protocol, case):
            tally.trial(wrong, not wrong)
    tally.notes["protocols"] = len(PROTOCOLS)


@figure("R2m", "power cuts: mutants of the protocols that the states must tell from the right ones")
def mutants(case: Case, tally: Tally) -> None:
    by_name = {protocol.name: protocol for protocol in PROTOCOLS}
    for name, module, old, new, noticed_by in MUTANTS:
        protocol = by_name[noticed_by]
        if case.size == "smoke" and protocol.costly:
            continue
        if protocol.costly:
            looked_at(protocol, case.folder)  # what is remembered of the right one is made before the mutant
        _start(protocol, case)
        with mutated(module, (old, new)):
            caught = next((wrong for wrong in cut(protocol, case, again=False) if wrong), "")
        tally.trial(f"not noticed: {name}", bool(caught))


@figure("R5", "the N-th disk operation fails, for every N, of every durable protocol")
def nth_fails(case: Case, tally: Tally) -> None:
    faults = [*FAULTS.items(), ("short write", 0)][: 1 if case.size == "smoke" else 4]
    for protocol in PROTOCOLS:
        if case.size == "smoke" and protocol.costly:
            continue
        start, work = case.folder / "start", case.folder / "work"
        _fresh(start)
        protocol.before(start)
        for name, error in faults:
            number = 0
            while True:
                number += 1
                _copied(start, work)
                fault = NthIsShort(number) if name == "short write" else NthFails(number, error)
                with Disk(work, record=False, refuse=fault):
                    raised = acted(protocol, work)
                if not fault.fired:
                    break
                where = f"{protocol.name}, {name} at operation {number}"
                tally.trial(f"{where}: {(wrong := _after(protocol, work, raised))}", not wrong)


def _after(protocol: Protocol, root: Path, raised: Exception | None) -> str:
    """What is wrong after a failed operation; an empty string when nothing is."""
    found = looked_at(protocol, root)
    if found not in (OLD, NEW):
        return found
    if raised is None and found == OLD:
        return "nothing was said, and nothing was done"
    if isinstance(raised, OSError) and storage_error(raised) is None:
        return f"no clear message for {raised!r}"
    if raised is not None and not isinstance(raised, OSError | CurriculumError):
        return f"not a clear message: {raised!r}"
    return _again(protocol, root)


def _fresh(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _copied(source: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, symlinks=True)

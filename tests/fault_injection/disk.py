"""The one seam below everything durable: the calls that change a disk, recorded, refused, or cut off.

A `Disk` stands between the code and `os` for one folder. It keeps a model of what a power cut may leave: of every
file the bytes that were fsynced, of every folder the names that were. What other writers (safetensors, copyfile)
put there unseen is found by looking before every call, and counts as written and not yet synced.
"""

from __future__ import annotations

import errno
import itertools
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

WATCHED = ("open", "write", "fsync", "rename", "replace", "link", "unlink", "remove", "mkdir", "rmdir", "ftruncate")


SHORT = "short"


class Killed(BaseException):
    """SIGKILL came; from here on nothing reaches the disk."""


@dataclass(eq=False)
class File:
    now: bytes
    synced: bytes | None = None


@dataclass(eq=False)
class Folder:
    now: dict[str, File | Folder] = field(default_factory=dict)
    synced: dict[str, File | Folder] = field(default_factory=dict)


Node = File | Folder


@dataclass(eq=False)
class Change:
    """A change of names that is not yet durable: (folder, name, what it names afterwards) each, all or none."""

    parts: tuple[tuple[Folder, str, Node | None], ...]


@dataclass
class Snapshot:
    """What a power cut finds: the durable tree, the changes still under way, and unsynced files."""

    after: str
    root: Folder
    names: dict[Folder, dict[str, Node]]
    changes: list[Change]
    data: dict[File, tuple[bytes | None, bytes]]


class Disk:
    """Watches `root`; use as a context manager. `refuse(n, call, path)` may raise before the n-th call."""

    def __init__(
        self,
        root: Path,
        *,
        record: bool = True,
        refuse: Callable[[int, str, Path], str | None] = lambda n, call, path: None,
    ) -> None:
        self.root = root.resolve()
        self.refuse = refuse
        self.record = record
        self.calls = 0
        self.dead = False
        self.tree = Folder()
        self.changes: list[Change] = []
        self.snapshots: list[Snapshot] = []
        self._real: dict[str, Any] = {}
        if record:
            self._look(self.tree, self.root)
            self._settle(self.tree)
            self.changes.clear()

    # --- standing between -----------------------------------------------------------------------------------

    def __enter__(self) -> Disk:
        for name in WATCHED:
            self._real[name] = getattr(os, name)
            setattr(os, name, self._standing_in(name))
        return self

    def __exit__(self, *_: object) -> None:
        for name, real in self._real.items():
            setattr(os, name, real)
        if self.record and not self.dead:
            self._look(self.tree, self.root)
            self.snapshots.append(self._snapshot("its end"))

    def step(self, call: str, path: Path) -> str | None:
        """A call that changes the disk is about to be made."""
        if self.dead:
            raise Killed
        self.calls += 1
        if self.record:
            self._look(self.tree, self.root)
        try:
            return self.refuse(self.calls, call, path)
        except Killed:
            self.dead = True
            raise

    def _standing_in(self, name: str) -> Callable[..., Any]:
        real = self._real[name]

        def call(*args: Any, **kwargs: Any) -> Any:
            path = self._path(name, args, kwargs)
            if path is None or not (path == self.root or self.root in path.parents):
                return real(*args, **kwargs)
            if name == "open":
                if not args[1] & (os.O_CREAT | os.O_TRUNC):
                    return real(*args, **kwargs)
                self.step(name, path)
                return real(*args, **kwargs)
            if self.step(name, path) == SHORT:
                args = (args[0], bytes(args[1])[: len(args[1]) // 2])
            if not self.record:
                return real(*args, **kwargs)
            if name in ("rename", "replace", "link"):
                target = Path(os.path.abspath(os.fsdecode(args[1])))
                source_folder, target_folder = self._folder(path.parent), self._folder(target.parent)
                result = real(*args, **kwargs)
                node = source_folder.now[path.name]
                parts: list[tuple[Folder, str, Node | None]] = [(target_folder, target.name, node)]
                if name != "link":
                    parts.insert(0, (source_folder, path.name, None))
                self._change(*parts)
            elif name in ("unlink", "remove", "rmdir"):
                folder = self._folder(path.parent)
                result = real(*args, **kwargs)
                self._change((folder, path.name, None))
            elif name == "mkdir":
                folder = self._folder(path.parent)
                result = real(*args, **kwargs)
                self._change((folder, path.name, Folder()))
            else:
                result = real(*args, **kwargs)
                if name == "fsync":
                    self._synced(path)
            self._look(self.tree, self.root)
            self.snapshots.append(self._snapshot(f"{name} {path.relative_to(self.root)}"))
            return result

        return call

    def _path(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Path | None:
        if name in ("write", "fsync", "ftruncate"):
            return Path(os.readlink(f"/proc/self/fd/{args[0]}"))
        within = kwargs.get("dir_fd", kwargs.get("src_dir_fd"))
        given = os.fsdecode(args[0])
        if within is not None:
            return Path(os.readlink(f"/proc/self/fd/{within}"), given)
        return Path(os.path.abspath(given))

    # --- the model ------------------------------------------------------------------------------------------

    def _folder(self, path: Path) -> Folder:
        at: Node = self.tree
        for part in path.relative_to(self.root).parts:
            assert isinstance(at, Folder)
            at = at.now[part]
        assert isinstance(at, Folder)
        return at

    def _change(self, *parts: tuple[Folder, str, Node | None]) -> None:
        for folder, name, node in parts:
            if node is None:
                folder.now.pop(name, None)
            else:
                folder.now[name] = node
        self.changes.append(Change(parts))

    def _look(self, folder: Folder, path: Path) -> None:
        """Take in what was written unseen."""
        found = set()
        with os.scandir(path) as entries:
            for entry in entries:
                found.add(entry.name)
                node = folder.now.get(entry.name)
                if entry.is_dir(follow_symlinks=False):
                    if not isinstance(node, Folder):
                        node = Folder()
                        self._change((folder, entry.name, node))
                    self._look(node, Path(entry.path))
                else:
                    data = Path(entry.path).read_bytes()
                    if not isinstance(node, File):
                        self._change((folder, entry.name, File(data)))
                    elif node.now != data:
                        node.now = data
        for name in folder.now.keys() - found:
            self._change((folder, name, None))

    def _settle(self, folder: Folder) -> None:
        folder.synced = dict(folder.now)
        for node in folder.now.values():
            if isinstance(node, Folder):
                self._settle(node)
            else:
                node.synced = node.now

    def _synced(self, path: Path) -> None:
        at: Node = self.tree
        for part in path.relative_to(self.root).parts:
            assert isinstance(at, Folder)
            if part not in at.now:
                return  # renamed or removed since it was opened
            at = at.now[part]
        if isinstance(at, File):
            at.synced = at.now
            return
        for change in [c for c in self.changes if any(folder is at for folder, _, _ in c.parts)]:
            for folder, name, node in change.parts:
                _apply(folder.synced, name, node)
            self.changes.remove(change)

    def _snapshot(self, after: str) -> Snapshot:
        names: dict[Folder, dict[str, Node]] = {}
        data: dict[File, tuple[bytes | None, bytes]] = {}

        def visit(node: Node) -> None:
            if isinstance(node, File):
                data.setdefault(node, (node.synced, node.now))
            elif node not in names:
                names[node] = dict(node.synced)
                for below in (*node.synced.values(), *node.now.values()):
                    visit(below)

        visit(self.tree)
        for change in self.changes:
            for folder, _, node in change.parts:
                visit(folder)
                if node is not None:
                    visit(node)
        return Snapshot(after, self.tree, names, list(self.changes), data)


def _apply(names: dict[str, Node], name: str, node: Node | None) -> None:
    if node is None:
        names.pop(name, None)
    else:
        names[name] = node


# --- what a power cut may leave -------------------------------------------------------------------------------

Tree = dict[str, "bytes | None"]
"""Relative path to a file's bytes; None for a folder."""


def states(snapshot: Snapshot, most: int, draw: random.Random) -> Iterator[Tree]:
    """Every state that a power cut at `snapshot` may leave; above `most` combinations, that many chosen ones.

    Of the chosen ones the first are those with everything, with nothing, and with one thing more or less.
    """
    unsynced = [file for file, (synced, now) in snapshot.data.items() if synced != now]
    sizes = [2] * len(snapshot.changes) + [4] * len(unsynced)
    total = 1
    for size in sizes:
        total *= size
    seen = set()
    chosen: Iterator[tuple[int, ...]]
    if total <= most:
        chosen = itertools.product(*(range(size) for size in sizes))
    else:
        chosen = itertools.islice(_notable(sizes, draw), most)
    for choice in chosen:
        tree = _build(snapshot, choice, unsynced)
        key = hash(frozenset(tree.items()))
        if key not in seen:
            seen.add(key)
            yield tree


def _notable(sizes: list[int], draw: random.Random) -> Iterator[tuple[int, ...]]:
    nothing, everything = [0] * len(sizes), [size - 1 for size in sizes]
    yield tuple(everything)
    yield tuple(nothing)
    for at, size in enumerate(sizes):
        for value in range(size - 1):
            yield (*everything[:at], value, *everything[at + 1 :])
        yield (*nothing[:at], size - 1, *nothing[at + 1 :])
    while True:
        yield tuple(draw.randrange(size) for size in sizes)


def _build(snapshot: Snapshot, choice: tuple[int, ...], unsynced: list[File]) -> Tree:
    names = {folder: dict(entries) for folder, entries in snapshot.names.items()}
    for taken, change in zip(choice, snapshot.changes, strict=False):
        if taken:
            for folder, name, node in change.parts:
                _apply(names[folder], name, node)
    variant = dict(zip(unsynced, choice[len(snapshot.changes) :], strict=True))
    tree: Tree = {}

    def visit(folder: Folder, path: str) -> None:
        for name, node in names[folder].items():
            at = f"{path}{name}"
            if isinstance(node, Folder):
                tree[at] = None
                visit(node, f"{at}/")
            else:
                synced, now = snapshot.data[node]
                tree[at] = _content(synced, now, variant.get(node))

    visit(snapshot.root, "")
    return tree


def _content(synced: bytes | None, now: bytes, variant: int | None) -> bytes:
    if variant is None or variant == 3:
        return now
    if variant == 0:
        return synced if synced is not None else b""
    same = _same(synced or b"", now)
    if variant == 1:
        return now[: same + (len(now) - same) // 2]
    return now[:same] + b"\0" * (len(now) - same)


def _same(one: bytes, other: bytes) -> int:
    """How many bytes both begin with."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def put(tree: Tree, root: Path) -> None:
    """Write a state to an empty folder."""
    for name, data in sorted(tree.items()):
        path = root / name
        if data is None:
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


# --- faults -----------------------------------------------------------------------------------------------------

FAULTS = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO, "EDQUOT": errno.EDQUOT}
FAILING = ("open", "write", "fsync", "rename", "replace", "link", "mkdir", "ftruncate")


class NthFails:
    """Makes the n-th call that could run into it fail with an error; `fired` says whether it came so far."""

    def __init__(self, number: int, error: int) -> None:
        self.number = number
        self.error = error
        self.seen = 0
        self.fired = False

    def __call__(self, _: int, call: str, path: Path) -> None:
        if call in FAILING:
            self.seen += 1
            if self.seen == self.number:
                self.fired = True
                raise OSError(self.error, os.strerror(self.error), str(path))


class NthIsShort:
    """The n-th write takes half of what it is given, and the one after it finds the disk full."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.seen = 0
        self.fired = False

    def __call__(self, _: int, call: str, path: Path) -> str | None:
        if call == "write":
            self.seen += 1
            if self.seen == self.number:
                self.fired = True
                return SHORT
            if self.seen == self.number + 1:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return None


class NthKills:
    """SIGKILL just before the n-th call."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.fired = False

    def __call__(self, number: int, call: str, path: Path) -> None:
        if number == self.number:
            self.fired = True
            raise Killed

"""What must survive a crash does, whole; what must not be overwritten is not; locks die with their holders."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from curriculum import fs
from curriculum.errors import Busy

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


class Crash(BaseException):
    """The power goes off."""


# --- files --------------------------------------------------------------------------------------------------


@pytest.mark.promise("A write is complete or absent; a lock ends with its holder")
@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("at", ["write", "fsync", "rename", "link"])
def test_a_write_cut_short_leaves_the_old_file_or_none_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str, replace: bool
) -> None:
    if (at, replace) in {("rename", False), ("link", True)}:
        at = "fsync"  # not a step of this way of writing
    path = tmp_path / "value"
    if replace:
        path.write_bytes(b"old")

    def crash(*_: object) -> None:
        raise Crash

    monkeypatch.setattr(os, at, crash)
    with pytest.raises(Crash):
        fs.write_bytes(path, b"new and longer", replace=replace)
    monkeypatch.undo()
    assert (path.read_bytes() if path.exists() else None) == (b"old" if replace else None)
    assert [entry.name for entry in tmp_path.iterdir() if entry != path] == []


def test_a_name_is_given_only_to_bytes_that_are_on_the_disk_and_then_made_durable_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    names = {}
    real_open, real_fsync, real_rename = os.open, os.fsync, os.rename

    def opened(path: str | Path, flags: int, mode: int = 0o777) -> int:
        descriptor = real_open(path, flags, mode)
        names[descriptor] = "folder" if os.path.isdir(path) else "file"
        return descriptor

    def synced(descriptor: int) -> None:
        done.append(f"sync {names[descriptor]}")
        real_fsync(descriptor)

    def renamed(source: Path, target: Path) -> None:
        done.append("rename")
        real_rename(source, target)

    monkeypatch.setattr(os, "open", opened)
    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "rename", renamed)
    fs.write_bytes(tmp_path / "value", b"x", replace=True)
    assert done == ["sync file", "rename", "sync folder"]
    done.clear()
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "inside").write_bytes(b"x")
    fs.publish(tmp_path / "new", tmp_path / "published")
    assert done == ["sync file", "sync folder", "rename", "sync folder"]


def test_bytes_are_written_whole_when_the_system_takes_them_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, bytes(data[:3])))
    fs.write_bytes(tmp_path / "value", b"0123456789")
    assert (tmp_path / "value").read_bytes() == b"0123456789"


def test_an_existing_file_is_overwritten_only_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "value"
    fs.write_bytes(path, b"first")
    with pytest.raises(FileExistsError):
        fs.write_bytes(path, b"second")
    assert path.read_bytes() == b"first"
    fs.write_bytes(path, b"second", replace=True)
    assert path.read_bytes() == b"second"
    assert list(tmp_path.iterdir()) == [path]


def test_json_that_no_one_could_read_back_is_refused_before_a_file_exists(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        fs.write_json(tmp_path / "value.json", {"loss": float("nan")})
    assert list(tmp_path.iterdir()) == []


@given(JSON)
@settings(max_examples=60, deadline=None)
def test_canonical_json_comes_back_in_ascii_without_spaces_in_whatever_order_keys_were_given(value: object) -> None:
    text = fs.canonical_json(value)
    assert text.isascii()
    assert json.loads(text) == value
    if isinstance(value, dict):
        assert fs.digest(dict(reversed(value.items()))) == fs.digest(value)


def test_the_digest_of_a_value_never_changes() -> None:
    value = {"b": [1, 2.5, None], "a": "é"}
    assert fs.canonical_json(value) == b'{"a":"\\u00e9","b":[1,2.5,null]}'
    assert fs.digest(value) == "84afbf1d4853005f9dd0c81cb1819b53ce86978340764c062160f6e8356665de"


# --- lines --------------------------------------------------------------------------------------------------


def test_a_torn_last_line_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    assert fs.read_json_lines(path) == []
    for number in range(3):
        fs.append_json_line(path, {"n": number})
    whole = path.read_bytes()
    for cut in range(1, 8):
        path.write_bytes(whole[:-cut])
        assert fs.read_json_lines(path) == [{"n": 0}, {"n": 1}]


def test_a_line_is_appended_in_one_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: written.append(bytes(data)) or real(fd, data))
    fs.append_json_line(tmp_path / "lines", {"n": 1})
    assert written == [b'{"n":1}\n']


# --- folders ------------------------------------------------------------------------------------------------


def test_publishing_refuses_a_name_that_is_taken_and_touches_neither_folder(tmp_path: Path) -> None:
    for name in ("new", "published"):
        (tmp_path / name).mkdir()
    (tmp_path / "new" / "inside").write_bytes(b"new")
    with pytest.raises(FileExistsError, match="already published"):
        fs.publish(tmp_path / "new", tmp_path / "published")
    assert (tmp_path / "new" / "inside").read_bytes() == b"new"
    assert list((tmp_path / "published").iterdir()) == []


def test_a_folder_being_removed_has_lost_its_name_before_anything_in_it_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "inside").write_bytes(b"x")

    def crash(path: Path) -> None:
        raise Crash

    monkeypatch.setattr(shutil, "rmtree", crash)
    with pytest.raises(Crash):
        fs.remove_tree(folder)
    monkeypatch.undo()
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".removed-folder-")
    assert (left / "inside").exists()


def test_missing_parents_are_made_and_present_ones_left(tmp_path: Path) -> None:
    fs.make_directory(tmp_path / "a" / "b" / "c")
    (tmp_path / "a" / "b" / "c" / "inside").write_bytes(b"x")
    fs.make_directory(tmp_path / "a" / "b" / "c")
    assert (tmp_path / "a" / "b" / "c" / "inside").exists()


def test_blocks_are_the_file_cut_in_order(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")
    assert list(fs.read_blocks(tmp_path / "file", 4)) == [b"0123", b"4567", b"89"]


# --- locks --------------------------------------------------------------------------------------------------

HOLDER = """\
import sys, time
from pathlib import Path
from curriculum.fs import Lock
lock = Lock(Path(sys.argv[1]), "the stage folder")
lock.acquire()
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path) -> subprocess.Popen[str]:
    """Another process that holds `lock`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "lock")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


@pytest.mark.processes
def test_a_second_process_learns_which_process_holds_the_lock(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    with pytest.raises(Busy, match=rf"the stage folder is held by another process: pid {holder.pid} on ") as refusal:
        fs.Lock(tmp_path / "lock", "the stage folder").acquire()
    assert "no unlocking by hand" in (refusal.value.hint or "")
    owner = fs.lock_holder(tmp_path / "lock")
    assert owner is not None
    assert owner["pid"] == holder.pid


@pytest.mark.promise("A write is complete or absent; a lock ends with its holder")
@pytest.mark.processes
def test_the_lock_of_a_killed_process_is_free(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait(timeout=10)
    assert fs.lock_holder(tmp_path / "lock") is None
    lock = fs.Lock(tmp_path / "lock", "the stage folder")
    lock.acquire()
    owner = fs.lock_holder(tmp_path / "lock")
    assert owner is not None
    assert owner["pid"] == os.getpid()
    lock.release()


def test_waiting_gets_the_lock_once_it_is_let_go(tmp_path: Path) -> None:
    first, second = (fs.Lock(tmp_path / "lock", "it") for _ in range(2))
    first.acquire()
    with pytest.raises(Busy):
        second.acquire(wait_seconds=0.1)
    first.release()
    with second:
        assert fs.lock_holder(tmp_path / "lock") is not None
    assert fs.lock_holder(tmp_path / "lock") is None
    first.release()  # a second time: nothing happens


def test_no_process_holds_a_lock_that_was_never_made_and_asking_makes_none(tmp_path: Path) -> None:
    assert fs.lock_holder(tmp_path / "lock") is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.processes
def test_a_lock_is_not_inherited_by_the_processes_its_holder_starts(tmp_path: Path) -> None:
    lock = fs.Lock(tmp_path / "lock", "it")
    lock.acquire()
    sleeper = [sys.executable, "-c", "import time; print('here', flush=True); time.sleep(60)"]
    child = subprocess.Popen(sleeper, close_fds=False, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "here\n"  # the system closes what it must only while the program loads
        lock.release()
        assert fs.lock_holder(tmp_path / "lock") is None
    finally:
        child.kill()
        child.communicate()


@pytest.mark.promise("A write is complete or absent; a lock ends with its holder")
def test_what_is_built_appears_whole_under_its_name_or_not_at_all(tmp_path: Path) -> None:
    final = tmp_path / "deep" / "out"
    with fs.build_directory(final) as folder:
        (folder / "part").write_text("1")
        assert not final.exists()
    assert [path.name for path in final.parent.iterdir()] == ["out"]
    assert (final / "part").read_text() == "1"
    with pytest.raises(FileExistsError), fs.build_directory(final) as folder:
        (folder / "part").write_text("2")
    assert (final / "part").read_text() == "1"
    assert [path.name for path in final.parent.iterdir()] == ["out"]


@pytest.mark.promise("After a kill an export or import is absent or complete, and the next one removes the remains")
def test_what_a_killed_builder_left_is_emptied_by_the_next(tmp_path: Path) -> None:
    left = tmp_path / ".tmp-out"
    (left / "folder").mkdir(parents=True)
    (left / "folder/stale").write_text("old")
    (left / "link").symlink_to(tmp_path)
    with fs.build_directory(tmp_path / "out") as folder:
        assert list(folder.iterdir()) == []
    assert list((tmp_path / "out").iterdir()) == []
    assert tmp_path.exists()


def test_a_builder_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), fs.build_directory(tmp_path / "out") as folder:
        (folder / "part" / "of nothing").write_text("1")
    assert list(tmp_path.iterdir()) == []


def test_of_two_builders_one_learns_that_the_other_is_at_it(tmp_path: Path) -> None:
    with fs.build_directory(tmp_path / "out"):
        with pytest.raises(Busy, match="is being written by another process"), fs.build_directory(tmp_path / "out"):
            pass
        assert (tmp_path / ".tmp-out").exists()
    assert (tmp_path / "out").exists()


def test_a_builder_that_waited_for_a_folder_since_published_begins_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = fcntl.flock
    calls = []

    def published_meanwhile(descriptor: int, how: int) -> None:
        if not calls:
            os.rename(tmp_path / ".tmp-out", tmp_path / "elsewhere")
        calls.append(how)
        lock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", published_meanwhile)
    with fs.build_directory(tmp_path / "out") as folder:
        (folder / "part").write_text("1")
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert (tmp_path / "out/part").exists()

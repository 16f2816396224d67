"""Checkpoint folders: only whole ones are found, in the order of training, and any changed bit is noticed."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from curriculum import fs
from curriculum.artifacts import checkpoints
from curriculum.artifacts.stage_folder import StageFolder, checkpoint_name
from curriculum.errors import CheckpointError

FILES = {"rank-00000.safetensors": b"weights" * 9, "tensors.json": b"{}", "state.json": b'{"position": 64}'}


def make(folder: Path, generation: int = 0, position: int = 64, **changed: bytes) -> Path:
    """A published checkpoint of small files."""
    name = checkpoint_name(generation, position)
    temporary = folder / f".tmp-{name}"
    temporary.mkdir(parents=True)
    for file, data in {**FILES, **{key.replace("__", "."): value for key, value in changed.items()}}.items():
        (temporary / file).write_bytes(data)
    checkpoints.seal(temporary)
    fs.publish(temporary, folder / name)
    return folder / name


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 10**16 - 1)), min_size=2, unique=True))
def test_sorting_names_sorts_generations_and_positions(pairs: list[tuple[int, int]]) -> None:
    assert sorted(checkpoint_name(*pair) for pair in pairs) == [checkpoint_name(*p) for p in sorted(pairs)]


def test_checkpoints_are_found_by_generation_then_position(tmp_path: Path) -> None:
    made = [(0, 9_960_000), (0, 11_120_000), (1, 64), (10, 32), (2, 10**17)]
    for generation, position in random.Random(1).sample(made, len(made)):
        make(tmp_path / "checkpoints", generation, position)
    folder = StageFolder(tmp_path)
    assert [(c.generation, c.position) for c in checkpoints.list_checkpoints(folder)] == sorted(made)
    latest = checkpoints.latest(folder)
    assert latest is not None
    assert latest.name == "g10-0000000000000032"
    assert latest.path == folder.checkpoints / latest.name


def test_where_nothing_was_saved_nothing_is_found(tmp_path: Path) -> None:
    assert checkpoints.list_checkpoints(StageFolder(tmp_path)) == []
    assert checkpoints.latest(StageFolder(tmp_path)) is None
    checkpoints.sweep(StageFolder(tmp_path))


def test_a_half_written_a_half_removed_and_a_foreign_folder_are_not_checkpoints(tmp_path: Path) -> None:
    folder = StageFolder(tmp_path)
    whole = make(folder.checkpoints)
    for name in (".tmp-g0-0000000000000128", ".removed-g0-0000000000000032-ab", "g0-128", "notes"):
        (folder.checkpoints / name).mkdir()
        (folder.checkpoints / name / checkpoints.MANIFEST).write_bytes(b"{}")
    folder.checkpoint(0, 256).mkdir()  # a name, and no manifest
    assert [c.path for c in checkpoints.list_checkpoints(folder)] == [whole]


def test_sweeping_removes_what_was_cut_short_and_nothing_else(tmp_path: Path) -> None:
    folder = StageFolder(tmp_path)
    make(folder.checkpoints)
    for name in (".tmp-g0-0000000000000128", ".removed-g0-0000000000000032-ab", "notes"):
        (folder.checkpoints / name / "inside").mkdir(parents=True)
    checkpoints.sweep(folder)
    assert sorted(path.name for path in folder.checkpoints.iterdir()) == ["g0-0000000000000064", "notes"]
    checkpoints.verify(folder.checkpoint(0, 64))


@pytest.mark.parametrize("file", sorted(FILES))
def test_a_flipped_bit_in_any_file_is_noticed_and_the_file_named(tmp_path: Path, file: str) -> None:
    folder = make(tmp_path)
    checkpoints.verify(folder)
    for at in range(len(FILES[file])):
        data = bytearray(FILES[file])
        data[at] ^= 1 << at % 8
        (folder / file).write_bytes(data)
        with pytest.raises(CheckpointError, match=f"`{file}` holds other bytes than were saved"):
            checkpoints.verify(folder)


@pytest.mark.parametrize("file", sorted(FILES))
def test_a_missing_a_cut_and_a_grown_file_are_noticed(tmp_path: Path, file: str) -> None:
    folder = make(tmp_path)
    size = len(FILES[file])
    (folder / file).write_bytes(FILES[file][:-1])
    with pytest.raises(CheckpointError, match=f"`{file}` has {size - 1} bytes instead of {size}"):
        checkpoints.verify(folder)
    (folder / file).write_bytes(FILES[file] + b"\n")
    with pytest.raises(CheckpointError, match=f"`{file}` has {size + 1} bytes instead of {size}"):
        checkpoints.verify(folder)
    (folder / file).unlink()
    with pytest.raises(CheckpointError, match=f"`{file}` is missing"):
        checkpoints.verify(folder)


@pytest.mark.parametrize("manifest", [None, b"", b"{", b'{"format": 2, "files": {}}', b'{"files": {}}'])
def test_a_checkpoint_without_a_readable_manifest_cannot_be_used_and_the_way_out_is_named(
    tmp_path: Path, manifest: bytes | None
) -> None:
    folder = make(tmp_path)
    (folder / checkpoints.MANIFEST).unlink()
    if manifest is not None:
        (folder / checkpoints.MANIFEST).write_bytes(manifest)
    with pytest.raises(CheckpointError, match="checkpoint `g0-0000000000000064` cannot be used") as refusal:
        checkpoints.verify(folder)
    assert refusal.value.hint == (f"move {folder} away; training then continues from the checkpoint before it")


def test_the_manifest_lists_every_file_but_itself(tmp_path: Path) -> None:
    manifest = json.loads((make(tmp_path) / checkpoints.MANIFEST).read_bytes())
    assert sorted(manifest["files"]) == sorted(FILES)


@pytest.mark.promise("Checkpoints of earlier formats are verified and read")
def test_a_checkpoint_with_sha_256_digests_is_verified_and_its_weights_keep_their_digest(tmp_path: Path) -> None:
    folder = make(tmp_path)
    sums = {name: fs.sha256_file(folder / name) for name in FILES}
    entries = {name: {"bytes": (folder / name).stat().st_size, "sha256": sums[name]} for name in FILES}
    fs.write_json(folder / checkpoints.MANIFEST, fs.seal({"format": 1, "files": entries}), replace=True)
    checkpoints.verify(folder)
    assert checkpoints.state(folder) == {"position": 64}
    weights = {name: sums[name] for name in FILES if name.endswith(".safetensors")}
    assert checkpoints.weights_digest(folder) == fs.digest(weights)
    file = folder / next(iter(weights))
    file.write_bytes(file.read_bytes()[::-1])
    with pytest.raises(CheckpointError, match="other bytes"):
        checkpoints.verify(folder)


@pytest.mark.parametrize(
    "digests", [{}, {"crc32": "ab"}, {"blake3": "ab", "crc32": "ab"}], ids=["none", "other", "two"]
)
def test_a_manifest_whose_digests_are_of_no_known_algorithm_is_refused(tmp_path: Path, digests: dict[str, str]) -> None:
    folder = make(tmp_path)
    entries = {name: {"bytes": (folder / name).stat().st_size, **digests} for name in FILES}
    value = fs.seal({"format": checkpoints.FORMAT, "files": entries})
    fs.write_json(folder / checkpoints.MANIFEST, value, replace=True)
    with pytest.raises(CheckpointError, match=r"has no digest of `.*` that this version knows"):
        checkpoints.verify(folder)


def test_the_state_comes_back_and_an_unreadable_one_is_refused(tmp_path: Path) -> None:
    folder = make(tmp_path)
    assert checkpoints.state(folder) == {"position": 64}
    (folder / checkpoints.STATE).write_bytes(b"{")
    with pytest.raises(CheckpointError, match=r"`state\.json` has 1 bytes instead of"):
        checkpoints.state(folder)


def test_the_digest_of_weights_sees_the_tensors_and_nothing_else(tmp_path: Path) -> None:
    digest = checkpoints.weights_digest(make(tmp_path / "one"))
    assert checkpoints.weights_digest(make(tmp_path / "later", position=128, state__json=b"{}")) == digest
    other = {"rank-00000__safetensors": b"Weights" * 9}
    assert checkpoints.weights_digest(make(tmp_path / "other", **other)) != digest


def test_a_published_checkpoint_is_never_written_again(tmp_path: Path) -> None:
    make(tmp_path)
    with pytest.raises(FileExistsError):
        make(tmp_path, state__json=b"{}")
    assert checkpoints.state(tmp_path / "g0-0000000000000064") == {"position": 64}

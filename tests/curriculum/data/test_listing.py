"""Where text is read from: files as they are listed, the packages that bring them, and refusals."""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from curriculum.data import listing, provenance
from curriculum.errors import DataError


def test_an_absent_package_is_refused_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def requires(name: str) -> list[str]:
        return ["numpy>=2", 'Some_Corpus>=3; extra == "zh"', "other; extra == 'x'"]

    monkeypatch.setattr(metadata, "requires", requires)
    with pytest.raises(DataError, match="package `some-corpus`, which is not installed") as refusal:
        provenance.provenance({"installed": "some-corpus"})
    assert refusal.value.hint == 'python -m pip install "curriculum[zh]"'
    with pytest.raises(DataError) as refusal:
        listing.list_files({"installed": ["numpy", "no-such-package-here"], "files": "numpy/*.py"})
    assert refusal.value.hint == "python -m pip install no-such-package-here"


def test_version_and_licence_are_known_without_reading_a_file() -> None:
    where = provenance.provenance({"installed": ["sympy", "mpmath"], "files": "**/*.py"})
    versions = {name: metadata.version(name) for name in ("sympy", "mpmath")}
    assert where["packages"] == [
        {"name": name, "version": version, "licence": "BSD"} for name, version in versions.items()
    ]
    assert provenance.describe(where) == f"sympy {versions['sympy']} (BSD), mpmath {versions['mpmath']} (BSD)"
    assert "(PSF-2.0)" in provenance.describe(provenance.provenance({"stdlib": True}))


def test_the_standard_library_is_listed_without_tests_and_what_the_build_wrote() -> None:
    names = [file.name for file in listing.list_files({"stdlib": True, "exclude": "email/**"})]
    assert names == sorted(names)
    assert {"ast.py", "json/decoder.py"} <= set(names)
    banned = {"test", "tests", "idle_test", "site-packages", "email"}
    assert not [name for name in names if banned & set(name.split("/")) or name.startswith("_sysconfig")]
    assert (Path(sysconfig.get_path("stdlib")) / "email").is_dir()


@pytest.mark.parametrize(
    ("pattern", "inside", "outside"),
    [
        ("*.txt", "a.txt", "d/a.txt"),
        ("**/*.txt", "a.txt", "a.txt.gz"),
        ("**/*.txt", "d/e/a.txt", "a.text"),
        ("d/**", "d/e/a", "dd/a"),
        ("d?/a", "d1/a", "d/a"),
        ("a+b(1).txt", "a+b(1).txt", "aab1.txt"),
        (["x", "y"], "y", "z"),
    ],
)
def test_patterns_keep_to_one_name_unless_they_say_otherwise(pattern: Any, inside: str, outside: str) -> None:
    match = listing.matcher(pattern)
    assert match.fullmatch(inside)
    assert not match.fullmatch(outside)


def test_a_glance_at_a_folder_ends_at_the_first_file_that_matches_and_never_looks_at_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "corpus").mkdir()
    looked: list[str] = []

    def walk(folder: Path, *, skip: frozenset[str] = frozenset()) -> Iterator[tuple[str, str]]:
        for number in range(listing.QUICK_SCAN * 2):
            looked.append(f"{number}.{'txt' if number == 3 else 'png'}")
            yield looked[-1], looked[-1]

    monkeypatch.setattr(listing, "_walk", walk)
    listing.check_local({"folder": "corpus"}, str(tmp_path))
    assert looked[-1] == "3.txt"
    looked.clear()
    listing.check_local({"folder": "corpus", "files": "*.jsonl"}, str(tmp_path))  # reading it finds out
    assert len(looked) == listing.QUICK_SCAN + 1


def test_a_glance_looks_at_local_folders_alone(tmp_path: Path) -> None:
    for read in ({"hub": "a/b"}, {"stdlib": True}, {"folder": "s3://bucket/x"}, {"installed": "no-such-package"}):
        listing.check_local(read, str(tmp_path))
    with pytest.raises(DataError, match="the folder `absent` does not exist"):
        listing.check_local({"tokenised": "absent"}, str(tmp_path))


def test_a_file_of_tokens_is_listed_by_itself_and_only_where_it_can_be_mapped(tmp_path: Path) -> None:
    (tmp_path / "ids.bin").write_bytes(b"12345678")
    read = {"tokenised": "ids.bin"}
    assert listing.list_files(read, str(tmp_path)) == [listing.SourceFile("ids.bin", str(tmp_path / "ids.bin"), 8)]
    listing.check_local(read, str(tmp_path))
    with pytest.raises(DataError, match="must be a local folder"):
        listing.list_files({"tokenised": "s3://bucket/ids"}, str(tmp_path))


def test_files_of_a_package_are_named_by_their_path_inside_it() -> None:
    files = listing.list_files({"installed": ["numpy"], "files": "numpy/lib/*.py"})
    assert len(files) > 3
    assert all(file.name.startswith("numpy/lib/") and file.path.endswith(file.name) for file in files)


def test_a_folder_that_is_not_there_or_holds_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    with pytest.raises(DataError, match="does not exist") as refusal:
        listing.list_files({"folder": "corpsu"}, str(tmp_path))
    assert "did you mean `corpus`" in (refusal.value.hint or "")
    (tmp_path / "corpus" / "picture.png").write_bytes(b"")
    with pytest.raises(DataError, match="no file in `corpus` has a usual ending") as refusal:
        listing.list_files({"folder": "corpus"}, str(tmp_path))
    assert ".jsonl" in (refusal.value.hint or "")
    assert "**" not in (refusal.value.hint or "")
    with pytest.raises(DataError, match=r"no file matches `\*\.text`") as refusal:
        listing.list_files({"folder": "corpus", "files": "*.text"}, str(tmp_path))
    assert "`**/` stands for any folders" in (refusal.value.hint or "")
    for read, said in (({}, "no place to read from"), ({"folder": "a", "hub": "b"}, "names folder and hub")):
        with pytest.raises(DataError, match=said):
            listing.kind_of(read)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "saved" / "wiki").mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize("name", ["saved/wiki", "./saved/wiki", "csv", "OWNER/NAME", "squad", "hf://a/b/c"])
def test_a_folder_that_is_there_a_builder_and_a_name_of_the_hub_pass(folder: Path, name: str) -> None:
    listing.check_local({"dataset": name}, str(folder))


@pytest.mark.parametrize("name", ["./saved/wikis", "/nowhere/wiki", "~/no-such-folder", "a/b/c", "gone/"])
def test_what_is_written_like_a_path_is_no_name_of_the_hub(folder: Path, name: str) -> None:
    with pytest.raises(DataError, match=f"the folder `{name}` of a dataset does not exist"):
        listing.check_local({"dataset": name, "revision": "main"}, str(folder))


@pytest.mark.parametrize("name", ["saved/wikis", "savd"])
def test_a_name_that_is_almost_a_folder_needs_a_revision_to_be_one_of_the_hub(folder: Path, name: str) -> None:
    with pytest.raises(DataError) as refused:
        listing.check_local({"dataset": name}, str(folder))
    assert f"did you mean `{'wiki' if '/' in name else 'saved'}`?" in str(refused.value.hint)
    assert "state its `revision`" in str(refused.value.hint)
    listing.check_local({"dataset": name, "revision": "main"}, str(folder))

"""Which names of `dataset:` are folders that are not there, and which are of the hub or of a builder."""

from __future__ import annotations

from pathlib import Path

import pytest

from curriculum.data.listing import check_local
from curriculum.errors import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "saved" / "wiki").mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize("name", ["saved/wiki", "./saved/wiki", "csv", "OWNER/NAME", "squad", "hf://a/b/c"])
def test_a_folder_that_is_there_a_builder_and_a_name_of_the_hub_pass(folder: Path, name: str) -> None:
    check_local({"dataset": name}, str(folder))


@pytest.mark.parametrize("name", ["./saved/wikis", "/nowhere/wiki", "~/no-such-folder", "a/b/c", "gone/"])
def test_what_is_written_like_a_path_is_no_name_of_the_hub(folder: Path, name: str) -> None:
    with pytest.raises(DataError, match=f"the folder `{name}` of a dataset does not exist"):
        check_local({"dataset": name, "revision": "main"}, str(folder))


@pytest.mark.parametrize("name", ["saved/wikis", "savd"])
def test_a_name_that_is_almost_a_folder_needs_a_revision_to_be_one_of_the_hub(folder: Path, name: str) -> None:
    with pytest.raises(DataError) as refused:
        check_local({"dataset": name}, str(folder))
    assert f"did you mean `{'wiki' if '/' in name else 'saved'}`?" in str(refused.value.hint)
    assert "state its `revision`" in str(refused.value.hint)
    check_local({"dataset": name, "revision": "main"}, str(folder))

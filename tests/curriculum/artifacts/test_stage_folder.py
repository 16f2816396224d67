"""The layout of run folders, attempts and their timing."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from curriculum.artifacts import timing
from curriculum.artifacts.stage_folder import Attempt, StageFolder, new_attempt, next_attempt, stage_folders
from curriculum.errors import ConfigError

TIMING = timing.SaveTiming(step_seconds=1.0, save_seconds=2.0, every=1024, grace=60.0)


def test_attempts_are_numbered_on_and_two_at_a_time_get_numbers_of_their_own(tmp_path: Path) -> None:
    directory = tmp_path / "attempts"
    assert next_attempt(directory).name == "0001"
    with ThreadPoolExecutor(4) as pool:
        attempts = list(pool.map(lambda _: new_attempt(directory), range(12)))
    assert sorted(attempt.number for attempt in attempts) == list(range(1, 13))
    (directory / "10000").mkdir()
    assert new_attempt(directory).name == "10001"
    assert [attempt.number for attempt in Attempt(directory / "0003").previous()] == [2, 1]


def test_the_newest_attempt_and_the_stages_of_a_size_are_found_by_name(tmp_path: Path) -> None:
    folder = StageFolder(tmp_path / "full/trunk/basic")
    assert (folder.name, folder.newest_attempt()) == ("trunk/basic", None)
    attempt = new_attempt(folder.attempts)
    assert folder.newest_attempt() == attempt
    assert stage_folders(tmp_path / "full") == [folder]
    assert folder.checkpoint(0, 64).name == folder.evaluation(0, 64).stem == "g0-0000000000000064"


@pytest.mark.parametrize("link", ["full", "full/trunk", "full/trunk/basic", "full/trunk/basic/checkpoints"])
def test_a_link_that_leads_out_of_the_runs_is_refused(tmp_path: Path, link: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / link).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / link).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="symbolic link"):
        StageFolder.open(tmp_path / "full/trunk/basic")


def test_the_timing_of_an_attempt_is_read_under_its_former_name_too(tmp_path: Path) -> None:
    folder = StageFolder(tmp_path)
    former, newest = new_attempt(folder.attempts), new_attempt(folder.attempts)
    timing.write(former, TIMING)
    former.timing.rename(former.path / "pace.json")
    assert timing.newest_timing(folder) == TIMING
    newest.timing.write_text(json.dumps({"step_seconds": "fast"}))
    assert timing.newest_timing(folder) == TIMING

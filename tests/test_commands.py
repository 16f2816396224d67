"""Commands are forked in tests whatever other tests of the same process did before."""

from __future__ import annotations

import os

import commands
import pytest

from curriculum.artifacts.stage_folder import Attempt
from curriculum.stream.watchdog import Watchdog


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """What a stage that is trained in this process leaves of the variables that are read at the start."""
    Watchdog(Attempt(tmp_path_factory.mktemp("attempt")), 0, 60.0)
    return commands.differing(os.environ)


def test_commands_are_forked_after_a_stage_was_trained_in_the_process_of_the_tests(left: set[str]) -> None:
    assert "TORCH_FR_DUMP_TEMP_FILE" in left
    assert commands.can_fork(os.environ)

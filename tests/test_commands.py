"""Commands of tests are forked, whatever the tests before have trained in their own process."""

from __future__ import annotations

import os

import commands
import pytest

from curriculum.artifacts.stage_folder import Attempt
from curriculum.stage import flight_recorder


@pytest.fixture(scope="module", autouse=True)
def trained(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What every training sets for its process."""
    flight_recorder.configure(Attempt(tmp_path_factory.mktemp("attempt")))
    assert not commands.can_fork(os.environ)


def test_a_command_is_forked_also_after_a_training_in_the_process_of_the_tests() -> None:
    assert commands.can_fork(os.environ)

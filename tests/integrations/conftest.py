"""The small project that `python -m tests.integrations` prepared, and what of each trainer held."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import curriculum
from curriculum.stream import Stream


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "holds(sentence): what stands in the table where this test passes")


@pytest.fixture(scope="session")
def variant() -> Stream:
    """Three stages of 24, 12 and 3 steps: the second begins with a ramp, the third has four times the batch."""
    return curriculum.open(os.environ["INTEGRATIONS_PROJECT"]).stream("variant")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    marker = item.get_closest_marker("holds")
    if marker and report.when == "call" and "INTEGRATIONS_RESULTS" in os.environ:
        with Path(os.environ["INTEGRATIONS_RESULTS"]).open("a") as results:
            results.write(json.dumps({"sentence": marker.args[0], "outcome": report.outcome}) + "\n")
    return report

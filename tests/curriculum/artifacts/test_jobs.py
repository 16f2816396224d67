"""Job files: what a job is asked to do, and when something of it is due."""

from __future__ import annotations

import pytest

from curriculum.artifacts import jobs


@pytest.mark.parametrize(
    ("before", "now", "every", "expected"),
    [(0, 99, 100, False), (0, 100, 100, True), (100, 199, 100, False), (99, 301, 100, True), (0, 9, 0, False)],
)
def test_something_is_due_when_a_multiple_of_its_interval_was_passed(
    before: int, now: int, every: int, expected: bool
) -> None:
    assert jobs.due(before, now, every) is expected

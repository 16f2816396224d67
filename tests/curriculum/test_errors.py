"""A message shows the column that it is about, however long its line."""

from __future__ import annotations

import pytest
from hypothesis import example, given, strategies as st

from curriculum.errors import ConfigError, Place

WIDTH = 60
ROOM = WIDTH - len("  7 │ ")


def shown(text: str, column: int) -> tuple[str, int]:
    """The line as a message shows it, and the column of its caret, both from where the text begins."""
    lines = ConfigError("wrong", place=Place("a.yaml", 7, column, text)).render(WIDTH).splitlines()
    assert all(len(line) <= WIDTH for line in lines)
    line, caret = (line.partition("│ ")[2] for line in lines[-2:])
    return line, caret.index("^") + 1


@pytest.mark.promise("A refusal shows the place that it is about, also in a line too long for the screen")
@given(st.integers(1, 400), st.integers(0, 399))
@example(ROOM, ROOM - 1)
@example(ROOM + 1, ROOM - 1)
def test_the_caret_is_under_its_column_however_long_the_line(length: int, offset: int) -> None:
    text = "".join(chr(0x4E00 + number) for number in range(length))  # every character another
    line, at = shown(text, offset % length + 1)
    assert line[at - 1] == text[offset % length]


@pytest.mark.parametrize(("length", "column"), [(ROOM, ROOM), (ROOM + 1, ROOM), (ROOM + 1, ROOM + 1), (500, 300)])
def test_a_line_is_cut_no_more_than_the_screen_needs(length: int, column: int) -> None:
    text = "x" * (column - 1) + "!" + "y" * (length - column)
    line, at = shown(text, column)
    assert line[at - 1] == "!"
    assert len(line) == ROOM
    assert line.count("…") == (length > ROOM) + (length == 500)


def test_an_error_in_words_names_its_file() -> None:
    place = Place("stages/a.yaml", 7, 3, "until: 1T")
    assert str(ConfigError("`until` is before", place=place, hint="later")) == "`until` is before (stages/a.yaml:7:3)"
    assert str(ConfigError("nothing is there")) == "nothing is there"

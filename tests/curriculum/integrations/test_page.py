"""What docs/how-to/any-trainer.md shows of trainers that the gate does not install stands in their tests."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs/how-to/any-trainer.md").read_text()
BLOCKS = re.findall(r"^```py\n# (\S+)\n(.*?)^```$", PAGE, re.M | re.S)
RUN = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)


def unformatted(code: str) -> str:
    return re.sub(r"\s|,(?=\s*(?:[)\]}]|$))", "", code)


@pytest.mark.parametrize(("path", "body"), BLOCKS, ids=[path for path, _ in BLOCKS])
def test_every_line_shown_of_a_trainer_stands_in_its_test(path: str, body: str) -> None:
    tested = unformatted((ROOT / path).read_text())
    assert not [line for line in body.splitlines() if unformatted(line) not in tested]


def test_every_tested_trainer_is_shown() -> None:
    tested = {path.name for path in (ROOT / "tests/integrations").glob("test_*.py")} - {"test_torchdata.py"}
    assert {Path(path).name for path, _ in BLOCKS if not path.startswith("examples/")} == tested


def test_an_adapter_takes_at_most_fifteen_lines_of_the_user_s_code() -> None:
    for title, body in (*BLOCKS, *((code.splitlines()[0], code) for code in RUN)):
        code = [line for line in body.splitlines() if line.strip() and not line.startswith(("import ", "from "))]
        assert len(code) <= 15, (title, len(code))

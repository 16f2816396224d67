"""What the documentation says is what the program does: generated pages are fresh, and shown code runs."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import typer

from curriculum.cli import app
from curriculum.schema.entry import Entry

ROOT = Path(__file__).resolve().parents[1]
GENERATED: dict[str, str] = runpy.run_path(str(ROOT / "docs" / "generate.py"))["files"]()


@pytest.mark.parametrize("path", GENERATED)
def test_a_generated_page_is_what_the_code_says_now(path: str) -> None:
    assert (ROOT / path).read_text() == GENERATED[path], "run `make docs`"


def test_every_key_and_every_verb_is_in_the_reference() -> None:
    tables = "".join(text for path, text in GENERATED.items() if path.endswith(".md"))
    for model in Entry.__subclasses__():
        for name, field in model.model_fields.items():
            assert f"| `{field.alias or name}` | {(field.description or '')[:12]}" in tables, (
                f"{model}.{name}"
            )
    for verb in typer.main.get_command(app).commands:
        assert f"\n## {verb}\n" in tables

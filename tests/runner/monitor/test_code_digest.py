"""The digest of the training code: what changes it, what does not, and that it covers what computes a step."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from runner.monitor import code_digest

ROOT = Path(code_digest.__file__).parents[2]
CODE = b'"""A."""\nfrom runner.model.llama import Llama\n\ndef f(x):\n    """B."""\n    return Llama(x + 1)\n'


def test_comments_and_docstrings_are_no_other_training_code() -> None:
    reworded = b'"""C."""\nfrom runner.model.llama import Llama\ndef f(x):\n    # why\n    return Llama((x + 1))\n'
    assert code_digest.meaning(CODE) == code_digest.meaning(reworded)
    assert code_digest.meaning(CODE) != code_digest.meaning(CODE.replace(b"1", b"2"))


@pytest.mark.promise("Training code that was only moved or renamed is no change to a started run")
def test_a_module_that_moves_leaves_the_digest_of_its_readers() -> None:
    moved = CODE.replace(b"runner.model.llama", b"runner.model.llama.llama")
    inside = CODE.replace(b"from", b"if TYPE_CHECKING:\n    from")
    assert code_digest.meaning(CODE) == code_digest.meaning(moved)
    assert code_digest.meaning(inside) == code_digest.meaning(inside.replace(b"runner.model.llama", b"runner.other"))
    assert code_digest.meaning(CODE) != code_digest.meaning(CODE.replace(b"runner.model.llama", b"theirs.model"))


@pytest.mark.promise("Training code that was only moved or renamed is no change to a started run")
def test_this_version_is_listed_as_equivalent_to_what_began_runs_of_earlier_versions() -> None:
    assert code_digest.training_code() in code_digest.EQUIVALENT[-1], (
        "the training code was edited: where every bit of a step stays as it was, replace this version's digest in "
        f"EQUIVALENT by {code_digest.training_code()}; where a step computes otherwise, begin a new set with it"
    )


def test_an_unlisted_digest_is_equivalent_to_none() -> None:
    listed = next(iter(code_digest.EQUIVALENT[-1]))
    assert not code_digest.equivalent(listed, "edited")
    assert not code_digest.equivalent("edited", "another")


def test_every_module_that_computes_a_step_counts_as_training_code() -> None:
    listed = {ROOT / path for path in code_digest.TRAINING_CODE.values()}
    assert all(path.is_file() for path in listed)
    reached: set[Path] = set()
    left = [ROOT / code_digest.TRAINING_CODE[name] for name in ("train step", "model on devices", "train state")]
    while left:
        reached.add(path := left.pop())
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "runner":
                package = ROOT / (node.module or "").replace(".", "/")
                files = (
                    [package.with_suffix(".py")]
                    if package.with_suffix(".py").is_file()
                    else [package / f"{alias.name}.py" for alias in node.names]
                )
                left += [file for file in files if file not in reached]
    assert reached <= listed

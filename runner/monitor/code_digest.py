"""SHA-256 digests of the source code: of all of it, and of what computes a training step, by name and not by path.

A stage records the digest of the training code that it was trained with. Resuming with other training code needs
consent, since the bits may differ. `EQUIVALENT` lists the digests between which code was moved or renamed and nothing
that a step computes changed.
"""

from __future__ import annotations

import ast
import functools
from pathlib import Path

from curriculum import fs

TRAINING_CODE: dict[str, str] = {
    "mixing": "curriculum/plan/mixing.py",
    "permutation": "curriculum/plan/permutation.py",
    "source order": "curriculum/plan/source.py",
    "learning rate": "curriculum/plan/learning_rate.py",
    "learning rate forms": "curriculum/plan/rate_forms.py",
    "stage plan": "curriculum/plan/stage.py",
    "batch clock": "curriculum/plan/batch_clock.py",
    "model shapes": "curriculum/plan/model.py",
    "integer arrays": "curriculum/plan/arrays.py",
    "slots of a rank": "curriculum/plan/ranks.py",
    "lookup": "curriculum/plan/lookup.py",
    "dataset": "curriculum/data/dataset.py",
    "dataset manifest": "curriculum/data/manifest.py",
    "shard": "curriculum/data/shard.py",
    "token files": "curriculum/data/token_files.py",
    "dataloader": "curriculum/stream/reader.py",
    "batch": "curriculum/stream/batch.py",
    "stream": "curriculum/stream/stream.py",
    "stage": "curriculum/stream/stage.py",
    "model": "runner/model/transformer.py",
    "rotary positions": "runner/model/rotary.py",
    "model initialisation": "runner/model/init.py",
    "forward pass": "runner/model/forward.py",
    "attention": "runner/model/attention.py",
    "copies to the device": "runner/model/transfer.py",
    "loss": "runner/model/loss.py",
    "model on devices": "runner/parallel/build.py",
    "sharding": "runner/parallel/fsdp.py",
    "ranks": "runner/parallel/ranks.py",
    "sharded tensors": "runner/parallel/sharded.py",
    "canonical sums": "runner/parallel/canonical.py",
    "determinism": "runner/parallel/determinism.py",
    "checkpoint tensors": "runner/checkpoint/tensors.py",
    "Hugging Face weights": "runner/checkpoint/hf_weights.py",
    "rank file": "runner/checkpoint/rank_file.py",
    "optimizer": "runner/train/optimizer.py",
    "Muon": "runner/train/muon.py",
    "moving average": "runner/train/ema.py",
    "outlier steps": "runner/train/outliers.py",
    "train state": "runner/train/state.py",
    "train step": "runner/train/step.py",
    "train setup": "runner/train/setup.py",
    "train loop": "runner/train/loop.py",
}
"""What decides which bits a step computes, by names that outlive a move; other edits are only recorded."""

EQUIVALENT: tuple[frozenset[str], ...] = (
    frozenset(
        {
            "46b82d9bc82aaab681531b8603025944eb69bf3f0d2c99ad8459bf134641f853",  # 0.1.0 as of 64ec017, keyed by path
            "6aa09fff053d5c11dd2303a39c0cc95630c1fc356bd27e299246d1a03d78777e",
        }
    ),
)
"""Sets of training-code digests that compute the same bits; this version's own digest is in the last.

A change that moves or renames training code replaces this version's digest there. A change of what a step computes
begins a new set: a stage that was trained by the older code then asks for consent before it continues.
"""


def equivalent(one: str, other: str) -> bool:
    """Whether two training-code digests are listed as computing the same bits."""
    return any({one, other} <= digests for digests in EQUIVALENT)


@functools.cache
def all_code() -> str:
    """The digest of every source file of the two packages, as they were when this process first asked."""
    return fs.digest(
        {
            f"{name}/{path.relative_to(root)}": fs.sha256_file(path)
            for name, root in _roots().items()
            for path in sorted(root.rglob("*.py"))
        }
    )


@functools.cache
def training_code() -> str:
    """The digest of the code in the files of `TRAINING_CODE`, by their names there."""
    roots = _roots()
    files = {name: path.split("/", 1) for name, path in TRAINING_CODE.items()}
    return fs.digest({name: meaning((roots[package] / path).read_bytes()) for name, (package, path) in files.items()})


def meaning(source: bytes) -> str:
    """The digest of a module's code without comments, docstrings and the imports of our own packages.

    Those imports only say where a name is defined, so a module that moves leaves its readers' digests as they are.
    """
    tree = ast.parse(source)
    _reduce(tree)
    return fs.digest(ast.unparse(tree))


_BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")
"""The fields of a statement that hold statements: expressions, most of a tree, hold neither imports nor docstrings."""


def _reduce(node: ast.AST) -> None:
    """Take our imports and the docstrings out of a module or statement, in place."""
    for name in _BLOCKS:
        if block := getattr(node, name, None):
            block[:] = [each for each in block if not _is_our_import(each)]
            for each in block:
                _reduce(each)
    if isinstance(node, ast.If):
        node.body = node.body or [ast.Pass()]  # a block that held nothing but our imports
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
        node.body = node.body[1:] or [ast.Pass()]


def _is_our_import(node: ast.AST) -> bool:
    return isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in _PACKAGES


_PACKAGES = ("curriculum", "runner")


def _roots() -> dict[str, Path]:
    import curriculum
    import runner

    return {package.__name__: Path(package.__path__[0]) for package in (curriculum, runner)}

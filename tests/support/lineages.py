"""Small projects of arithmetic alone, written where the test says; nothing in them is ever trained."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from curriculum.compiler.lineage import parse_address
from curriculum.config.project import Project
from curriculum.runs.branch import Change, branch

LENGTH = 4

BASE: Mapping[str, str] = {
    "stages/root.yaml": """\
seed: 7
model: {hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 4, num_key_value_heads: 2,
        intermediate_size: 64, vocab_size: 300}
tokenizer: small
sequence_length: 4
optimizer: {name: adamw, weight_decay: 0.1}
learning_rate: {shape: cosine, max: 1e-2, min: 1e-3, warmup: 2 steps, horizon: 100k}
stages:
  - {name: first, until: 2000 tokens, mixture: plain, batch: 5 sequences}
""",
    "mixtures/plain.yaml": "weights: {a: 3, b: 1}\npasses: {a: 1000, b: 1000}\n",
    "mixtures/other.yaml": "weights: {a: 2, b: 3, c: 2}\npasses: {a: 1000, b: 1000, c: 1000}\n",
    "sources.yaml": """\
tokenizers:
  small: {train: [a], vocab_size: 300}
sources:
  a: {read: {folder: a}, held_out: 25%, tokens: 412}
  b: {read: {folder: b}, held_out: 25%, tokens: 148}
  c: {read: {folder: c}, held_out: 25%, tokens: 85, order: in-order}
""",
    "sizes.yaml": "full: {}\n",
    "machines.yaml": "local: {launcher: process, device: cpu}\n",
}


def project_of(files: Mapping[str, str], folder: Path | None = None) -> Project:
    """The base project with `files` over it, in `folder` or in one of its own."""
    root = folder or Path(tempfile.mkdtemp(prefix="lineages-"))
    for name, text in {**BASE, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Project(root)


def branched(project: Project, point: str, name: str, size: str = "full", **change: object) -> Project:
    """The project once `curriculum branch POINT NAME` has written its file."""
    branch(project, parse_address(point), name, Change(**change), size)  # type: ignore[arg-type]
    return Project(project.root)

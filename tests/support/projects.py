"""A small project of generated text: two sources, three stages, seconds to train."""

from __future__ import annotations

import functools
import random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from curriculum.artifacts import jobs
from curriculum.artifacts.jobs import TrainJob

TRUNK = """\
about: a trunk of three stages
seed: 7
model: {hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 4, num_key_value_heads: 2,
        intermediate_size: 64, vocab_size: 300}
tokenizer: small
sequence_length: 32
optimizer: {name: adamw, weight_decay: 0.1}
learning_rate: {shape: cosine, max: 1e-2, min: 1e-3, warmup: 2 steps, horizon: 12288}
every: {evaluate: 2048 tokens, checkpoint: 1024 tokens}
stages:
  - {name: basic, until: 6144, mixture: prose-only, batch: 8 sequences}
  - {name: continual, until: 9216}
  - {name: cooldown, until: 12288, batch: 32 sequences}
"""


VARIANT = """\
about: a variant that mixes code in
from: trunk/basic
stages:
  - {name: continual, until: 9216, mixture: mixed, ramp: 1536 tokens}
  - {name: cooldown, until: 12288, batch: 32 sequences}
"""


SOURCES = """\
tokenizers:
  small: {train: [prose, code], vocab_size: 300}
sources:
  prose: {read: {folder: texts/prose}, held_out: 25%}
  code: {read: {folder: texts/code}, held_out: 25%}
"""


MACHINES = """\
local: {launcher: process, device: cpu, threads: 1}
gpu: {launcher: process, gpus_per_node: 1, device: cuda, memory: 24GB}
"""


@functools.cache
def _sentences(words: tuple[str, ...], documents: int, seed: int) -> tuple[str, ...]:
    draw = random.Random(seed)
    return tuple(" ".join(draw.choice(words) for _ in range(400)) + "." for _ in range(documents))


def write_small_project(root: Path, *, texts: bool = True) -> Path:
    files = {
        "stages/trunk.yaml": TRUNK,
        "stages/variant.yaml": VARIANT,
        "mixtures/prose-only.yaml": "weights: {prose: 1}\n",
        "mixtures/mixed.yaml": "weights: {prose: 3, code: 1}\n",
        "sources.yaml": SOURCES,
        "sizes.yaml": "full: {at_most: {held_out_windows: 64}}\n",
        "machines.yaml": MACHINES,
    }
    prose = ("the", "sea", "was", "calm", "and", "grey", "ships", "went", "slowly", "home", "under", "rain")
    code = ("def", "return", "for", "in", "x", "y", "(", ")", "=", "+", "lambda", "yield", "\n    ")
    for folder, words, seed in (("prose", prose, 1), ("code", code, 2)) if texts else ():
        for number, text in enumerate(_sentences(words, 48, seed)):
            files[f"texts/{folder}/{number:03d}.txt"] = text
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def write_prepared_project(root: Path, finished: Path) -> Path:
    """The small project with its text as `finished` has prepared it."""
    write_small_project(root)
    shutil.copytree(finished / "data", root / "data")
    return root


BuiltOnce = Callable[[str, Callable[[Path], None]], Path]
InProcess = Callable[..., tuple[int, str, str]]


def with_files(finished: Path, project: Path, files: Mapping[str, str]) -> Path:
    """A copy of a finished project with more files, whose machine trains two lineages at a time."""
    shutil.copytree(finished, project)
    for name, text in files.items():
        (project / name).parent.mkdir(exist_ok=True)
        (project / name).write_text(text)
    machines = project / "machines.yaml"
    machines.write_text(machines.read_text().replace("threads: 1}", "threads: 1, workers: 2}"))
    return project


def job_of(finished: Path, folder: Path) -> TrainJob:
    """The finished trunk's first stage, to be trained again in `folder`."""
    old = finished / "runs/full/trunk/basic"
    job = jobs.load(old / "attempts/0001/job.json")
    assert isinstance(job, TrainJob)
    folder.mkdir()
    (folder / "attempt").mkdir()
    shutil.copy(old / "plan.json", folder)
    return replace(
        job, plan=str(folder / "plan.json"), stage_folder=str(folder), attempt_folder=str(folder / "attempt")
    )

"""Projects of arithmetic alone, at any declared length and with any number of sources; nothing in them is trained."""

from __future__ import annotations

import random
from pathlib import Path

LENGTH = 2048
V11_STEPS = 1_028_606
"""Of the shipped v1.1 at full size, 2T tokens."""


def project(folder: Path, *, sources: int, sequences: int) -> Path:
    """A trunk to half of `sequences`, then a variant with a ramp, with `sources` sources; all of 2,048 tokens."""
    tokens = sequences * LENGTH
    draw = random.Random(sources)
    names = [f"source-{number:03d}" for number in range(sources)]
    weights = {name: round(10 ** draw.uniform(0, 2), 3) for name in names}
    other = {name: round(10 ** draw.uniform(0, 2), 3) for name in names}
    ramp = min(sequences // 300, 1 << 30) * LENGTH
    batch = max(2, min(896, sequences // 1000))
    entries = "".join(
        f"  {name}: {{read: {{folder: texts}}, held_out: 5%, tokens: {max(2 * tokens // sources, 1 << 22)}}}\n"
        for name in names
    )

    def mixture(shares: dict[str, float]) -> str:
        return f"weights: {{{', '.join(f'{n}: {w}' for n, w in shares.items())}}}\n" + (
            f"passes: {{{', '.join(f'{n}: 100000' for n in shares)}}}\n"
        )

    files = {
        "stages/trunk.yaml": f"""\
seed: 3407
model: tinyllama-1.1b
tokenizer: words
sequence_length: {LENGTH}
optimizer: {{name: adamw, weight_decay: 0.1}}
learning_rate: {{shape: cosine, max: 4e-4, min: 4e-5, warmup: 2 steps, horizon: {tokens}}}
stages:
  - {{name: basic, until: {tokens // 2}, mixture: first, batch: {batch} sequences}}
""",
        "stages/variant.yaml": f"""\
from: trunk/basic
stages:
  - {{name: continual, until: {tokens - tokens // 10}, mixture: second, ramp: {ramp} tokens}}
  - {{name: cooldown, until: {tokens}, batch: {4 * batch} sequences}}
""",
        "mixtures/first.yaml": mixture(weights),
        "mixtures/second.yaml": mixture(other),
        "sources.yaml": "tokenizers:\n  words: {path: tokenizer.json}\nsources:\n" + entries,
        "sizes.yaml": "full: {}\n",
        "machines.yaml": "local: {launcher: process, device: cpu}\n",
    }
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder

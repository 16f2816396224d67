"""The smallest real things to inject faults into: a one-layer model, a plan of two sources, a tokenizer, some text."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curriculum.plan.learning_rate import LearningRate
from curriculum.plan.source import Segment, SourcePlan
from curriculum.plan.stage import MixturePhase, MixtureSegment, StagePlan

if TYPE_CHECKING:
    import torch

    from runner.model.transformer import Transformer

MODEL: dict[str, Any] = {
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 12,
    "vocab_size": 300,
    "max_position_embeddings": 32,
    "tie_word_embeddings": False,
}
NUMBERS = {"name": "adamw", "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.1, "decay": "all"}


def plan(mixture: tuple[int, int] = (3, 1), **more: Any) -> StagePlan:
    """A stage of 16 steps of 4 sequences of 8 tokens."""
    weights = {"code": mixture[1], "prose": mixture[0]}
    values: dict[str, Any] = {
        "seed": 7,
        "model": MODEL,
        "tokenizer": {"digest": None},
        "optimizer": {**NUMBERS, "clip_norm": 1.0},
        "learning_rate": LearningRate("constant", max=1e-2),
        "sequence_length": 8,
        "batch_sequences": 4,
        "first_step": 0,
        "steps": 16,
        "start": 0,
        "sources": {
            name: SourcePlan(dataset=name, segments=(Segment(first_item=0, pass_number=0, windows=40),))
            for name in weights
        },
        "blends": (MixturePhase(weights=weights, base={}),),
        "pieces": (MixtureSegment(first=0, blend=0, index=0),),
        "read_before": {},
    }
    return StagePlan(**{**values, **more})


@functools.cache
def _trained() -> tuple[Transformer, torch.optim.Optimizer]:
    import torch

    from curriculum.plan.model import ModelConfig
    from runner.model import attention
    from runner.model.init import initialise
    from runner.model.transformer import Transformer
    from runner.train.optimizer import adamw

    torch.set_num_threads(1)
    model = Transformer(ModelConfig.from_json(MODEL), attention.sdpa)
    initialise(model, 1)
    return model, adamw(model, NUMBERS)


def save(folder: Path, position: int) -> None:
    """A real checkpoint, as the runner writes it."""
    import torch

    from runner.checkpoint import tensors
    from runner.parallel.ranks import Ranks

    model, optimizer = _trained()
    state = {"position": position, "step": position // 32, "history": "h" * 64, "generation": 0, "windows": {}}
    tensors.save(folder, model, optimizer, state, Ranks(0, 1, 1, torch.device("cpu")))


@functools.cache
def warmed() -> None:
    """Take a step, save and load once, so that what these import lazily is there before a process is forked."""
    import torch

    from runner.model.loss import next_token_loss
    from runner.train.optimizer import clip_gradients, gradients_of, total_norm

    model, optimizer = _trained()
    tokens = torch.zeros((1, 9), dtype=torch.int64)
    total, _ = next_token_loss(model(tokens[:, :-1]), model.head.weight, tokens[:, 1:])
    torch.autograd.backward(total)
    clip_gradients(gradients_of(model.parameters()), 1.0, total_norm(gradients_of(model.parameters())))
    optimizer.zero_grad()
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder, "warm"), 64)
        load(Path(folder, "warm"))


def load(folder: Path) -> dict[str, Any]:
    from runner.checkpoint import tensors

    return tensors.load(folder, *_trained())


@functools.cache
def exported() -> dict[str, bytes]:
    """The files of an undisturbed export."""
    from runner.checkpoint import huggingface
    from tests.fault_injection import protocols

    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder, "checkpoint"), 64)
        huggingface.export(protocols.export_job(Path(folder)))
        return protocols.files(Path(folder, "out"))


@functools.cache
def prepared_digest() -> str:
    """The digest of an undisturbed preparation."""
    from curriculum.data.manifest import Manifest
    from tests.fault_injection import protocols

    with tempfile.TemporaryDirectory() as folder:
        protocols._texts(Path(folder))
        protocols._prepare(Path(folder))
        return Manifest.load(Path(folder, "data/made")).digest


@functools.cache
def tokenizer() -> Path:
    """A tokenizer of bytes alone, trained in a moment; the file stays for this process's life."""
    from curriculum.data.requests import TokenizerRequest
    from runner.prepare.tokenizer import train_tokenizer

    folder = tempfile.mkdtemp(prefix="fault-injection-tokenizer-")
    text = Path(folder, "texts")
    text.mkdir()
    (text / "0.txt").write_text("ships went slowly home under rain " * 40)
    output = Path(folder, "tokenizer.json")
    train_tokenizer(
        TokenizerRequest(reads={"prose": {"folder": "texts"}}, vocab_size=280, output=str(output), root=folder)
    )
    return output

"""LitGPT's `pretrain`: one `setup` a stage, which resumes from its own checkpoint; the rate is asked by micro-batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import litgpt.pretrain
import pytest
import torch
from litgpt import Config
from litgpt.args import EvalArgs, TrainArgs
from litgpt.data import DataModule
from litgpt.model import GPT
from torch.utils.data import DataLoader

from curriculum.integrations.torch import Batches, Loader, Samples, tokens
from curriculum.stream import Stream
from tests.integrations.witnessed import MICRO, Seen, require_plan


class Planned(DataModule):
    def __init__(self, stage: Stream) -> None:
        super().__init__()
        self.stage = stage

    def connect(self, tokenizer: Any = None, batch_size: int = 1, max_seq_length: int | None = None) -> None:
        self.micro = batch_size

    def train_dataloader(self) -> Loader:
        return Loader(Batches(self.stage, micro_batch=self.micro, shape=tokens))

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(Samples(self.stage), batch_size=self.micro)


class Interrupted(Exception):
    pass


def pretrain(monkeypatch: pytest.MonkeyPatch, stage: Stream, folder: Path, stop: int | None = None) -> Seen:
    """Train a stage from the newest checkpoint of `folder`; one is written every 2 steps, and `stop` interrupts."""
    seen, forward = Seen(), GPT.forward

    def rate(base: float, iteration: int, *_: Any) -> float:
        step = stage.step_of(iteration * MICRO)
        if step == stop:
            raise Interrupted
        seen.step, seen.lr = step, stage.lr(step)
        return stage.lr(step)

    def watched(network: GPT, inputs: torch.Tensor, *more: Any) -> torch.Tensor:
        if network.training and inputs.device.type == "cpu" and torch.is_grad_enabled():
            seen.read(seen.step, inputs, seen.lr)
        return forward(network, inputs, *more)

    with monkeypatch.context() as patch:
        patch.setattr("litgpt.pretrain.get_lr", rate)
        patch.setattr(GPT, "forward", watched)
        patch.setattr(torch, "compile", lambda network: network)
        patch.setattr("litgpt.pretrain.save_hyperparameters", lambda *_: None)  # it parses the command line
        litgpt.pretrain.setup(
            "planned",
            model_config=Config(
                block_size=stage.sequence_length,
                n_layer=1,
                n_head=2,
                n_embd=8,
                vocab_size=stage.vocab_size,
                padded_vocab_size=stage.vocab_size,
            ),
            out_dir=folder,
            precision="32-true",
            resume="auto",
            data=Planned(stage),
            train=TrainArgs(
                save_interval=2,
                global_batch_size=stage.batch_size(stage.first_step),
                micro_batch_size=MICRO,
                max_tokens=stage.last_sample * stage.sequence_length,
                max_norm=1.0,
                lr_warmup_steps=0,
            ),
            eval=EvalArgs(interval=1000, max_iters=1, final_validation=False),
            devices=1,
            logger_name="csv",
        )
    return seen


@pytest.mark.holds("a `setup` a stage, from the checkpoint of the stage before; interrupted and resumed within a stage")
def test_a_setup_a_stage_reads_the_plan(variant: Stream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    basic, continual, cooldown = (variant.stage(name) for name in ("basic", "continual", "cooldown"))
    parts = [pretrain(monkeypatch, basic, tmp_path)]
    stop = continual.first_step + 5
    lost: list[Seen] = []
    with pytest.raises(Interrupted):
        lost.append(pretrain(monkeypatch, continual, tmp_path, stop))
    parts.append(pretrain(monkeypatch, continual, tmp_path))
    assert min(parts[-1].witness) == stop - 1  # the newest checkpoint is that after an even number of steps
    parts.append(pretrain(monkeypatch, cooldown, tmp_path))
    steps = [step for step in range(variant.last_step) if not continual.first_step <= step < stop - 1]
    for step in steps:
        assert sum(part.witness.get(step, 0) for part in parts) == variant.witness(step)
    require_plan(variant, range(stop - 1, variant.last_step), *parts[1:])

"""What a trainer read: the witness and the learning rate of every step, on one rank or on several processes' ranks."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import socket
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from typing import Any

import torch

from curriculum import stream
from curriculum.stream import Stream

MICRO = 4
SECONDS, STACKS_SECONDS = 300, 120
"""What the ranks of one run may take, and after how long each prints where it is."""


class Seen:
    """The witness of the inputs that one rank read in every step, and the rate of the step's update."""

    def __init__(self) -> None:
        self.witness: dict[int, int] = {}
        self.rates: dict[int, float] = {}

    def read(self, step: int, inputs: torch.Tensor, lr: float | None = None) -> None:
        """One micro-batch `[n, L]` of `step`, whose update has the rate `lr`; it may be put into `rates` later."""
        self.witness[step] = (self.witness.get(step, 0) + stream.witness(inputs.numpy())) % 2**64
        if lr is not None:
            assert self.rates.setdefault(step, lr) == lr


def require_plan(plan: Stream, steps: range, *parts: Seen) -> None:
    """The ranks together, or one run after another, read exactly `steps`, at the plan's rates."""
    for part in parts:
        assert {step: plan.lr(step) for step in part.witness} == part.rates
    assert sorted({step for part in parts for step in part.witness}) == list(steps)
    for step in steps:
        assert sum(part.witness.get(step, 0) for part in parts) % 2**64 == plan.witness(step), step


def model(plan: Stream) -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Embedding(plan.vocab_size, 8), torch.nn.Linear(8, plan.vocab_size))


def loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def on_ranks(function: Callable[..., Any], *arguments: Any, world_size: int = 2) -> list[Any]:
    """What `function(*arguments)` returns on each rank, in processes that have torchrun's environment."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with ProcessPoolExecutor(world_size, multiprocessing.get_context("spawn")) as processes:
        ranks = [processes.submit(_as_rank, rank, world_size, port, function, arguments) for rank in range(world_size)]
        ended = wait(ranks, SECONDS, FIRST_EXCEPTION)
        failed = [rank for rank in ended.done if rank.exception() is not None]
        if failed or ended.not_done:  # the other ranks wait for one that failed, for ever
            for process in list(processes._processes.values()):
                process.kill()
        assert failed or not ended.not_done, f"the ranks have not ended in {SECONDS} seconds"
        return [rank.result() for rank in failed or ranks]


def _as_rank(rank: int, world_size: int, port: int, function: Callable[..., Any], arguments: Iterable[Any]) -> Any:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "NODE_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(1)
    faulthandler.dump_traceback_later(STACKS_SECONDS)  # where a rank hangs
    try:
        return function(*arguments)
    finally:
        faulthandler.cancel_dump_traceback_later()

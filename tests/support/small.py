"""A model of two layers and its steps, for tests in one process and, run as a script, as one rank of several.

python small.py FOLDER SHARDING      under torchrun's environment variables; see `main`
"""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import commands
import torch
from safetensors.torch import save_file
from torch.utils._python_dispatch import TorchDispatchMode

from curriculum.plan.model import ModelConfig
from runner.checkpoint import tensors as checkpoint_tensors
from runner.model import attention
from runner.model.init import initialise
from runner.model.loss import next_token_loss, next_token_losses
from runner.model.transformer import Transformer
from runner.parallel import fsdp
from runner.parallel.ranks import Ranks, join_ranks, leave_ranks, local_part
from runner.train.optimizer import adamw, clip_gradients, gradients_of, set_learning_rate, total_norm

CONFIG = ModelConfig(
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=52,
    vocab_size=67,  # odd, so that ranks hold different numbers of rows
    max_position_embeddings=24,
)
NUMBERS = {"betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.1, "decay": "all"}
ALONE = Ranks(0, 1, 1, torch.device("cpu"))
BATCH, LENGTH, RATE, CLIP = 8, 16, 1e-2, 0.5


def build(config: ModelConfig = CONFIG, seed: int = 1) -> Transformer:
    model = Transformer(config, attention.sdpa)
    initialise(model, seed)
    return model


def batch(step: int, config: ModelConfig = CONFIG) -> torch.Tensor:
    """The tokens of a step, `[BATCH, LENGTH + 1]`; a text in which each token says much about the next."""
    draw = torch.Generator().manual_seed(step)
    start = torch.randint(config.vocab_size, (BATCH, 1), generator=draw)
    stride = torch.randint(1, 4, (BATCH, 1), generator=draw)
    return (start + stride * torch.arange(LENGTH + 1)) % config.vocab_size


def take(
    model: Transformer, optimizer: torch.optim.Optimizer, step: int, ranks: Ranks = ALONE, micro: int = 2
) -> tuple[float, float]:
    """One update on this rank's share of a batch; returns the global mean loss and the gradient's norm."""
    share = batch(step, model.config).chunk(ranks.size)[ranks.rank]
    loss = torch.zeros((), dtype=torch.float64)
    for begin in range(0, len(share), micro):
        tokens = share[begin : begin + micro]
        with fsdp.micro_batch(model, last=begin + micro >= len(share)):
            total, _ = model.head(model(tokens[:, :-1]), tokens[:, 1:], next_token_loss)
            torch.autograd.backward(total / (BATCH * LENGTH))
        loss += total.detach().double()
    norm = total_norm(gradients_of(model.parameters()))
    clip_gradients(gradients_of(model.parameters()), CLIP, norm)
    set_learning_rate(optimizer, RATE)
    optimizer.step()
    optimizer.zero_grad()
    return float(ranks.add(loss)) / (BATCH * LENGTH), float(norm)


def evaluate(model: Transformer, step: int = 99) -> float:
    tokens = batch(step, model.config)
    with torch.no_grad():
        return float(model.head(model(tokens[:, :-1]), tokens[:, 1:], next_token_losses).mean())


def whole(model: Transformer) -> dict[str, torch.Tensor]:
    """Every parameter, gathered from all ranks."""
    fsdp.reshard(model)
    return {
        name: (p.full_tensor() if isinstance(p, torch.distributed.tensor.DTensor) else p).detach().clone()
        for name, p in model.named_parameters()
    }


class Exchanges(TorchDispatchMode):
    """Counts the collective operations that run inside it."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            self.counts[func.__name__] += 1
        return func(*args, **(kwargs or {}))


def exchanges(model: Transformer, optimizer: torch.optim.Optimizer, ranks: Ranks, micro: int) -> dict[str, int]:
    """How often a step's weights are gathered and its gradients reduced."""
    with Exchanges() as seen:
        take(model, optimizer, 5, ranks, micro)
    return dict(seen.counts)


def goes_on_while_saving(folder: Path, model: Transformer, optimizer: torch.optim.Optimizer, ranks: Ranks) -> list[str]:
    """Steps while the checkpoint `meanwhile` of the state before them is written; which threads spoke to peers."""
    threads = set()

    def watched(exchange: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            threads.add(threading.current_thread().name)
            return exchange(*arguments, **options)

        return call

    names = ("barrier", "all_gather_object", "broadcast_object_list", "all_reduce", "all_gather", "broadcast")
    kept = {name: getattr(torch.distributed, name) for name in names}
    for name, exchange in kept.items():
        setattr(torch.distributed, name, watched(exchange))
    saver = checkpoint_tensors.Saver(ranks)
    saver.begin(folder / "meanwhile", model, optimizer, {"step": 4})
    saver.wait_for_copy()
    for step in range(4, 8):
        take(model, optimizer, step, ranks)
    saver.wait()
    ranks.wait()
    for name, exchange in kept.items():
        setattr(torch.distributed, name, exchange)
    checkpoint_tensors.load(folder / "meanwhile", model, optimizer)
    return sorted(threads)


def launch(
    folder: Path, shard: str, ranks: int = 2, *, node: int | None = None, script: Path = Path(__file__)
) -> dict[str, Any]:
    """Run `script` in `ranks` forked processes, `node` of them a node, over the loopback device; rank 0's report."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    shared |= {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(node or ranks), "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryFile("w+") as output:
        started = [
            commands.start_python(
                *(str(script), str(folder), shard),
                folder=folder,
                environment={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                out=output.fileno(),
                err=output.fileno(),
            )
            for rank in range(ranks)
        ]
        try:
            codes = [process.wait(120) for process in started]
        finally:
            for process in started:
                process.kill()
        output.seek(0)
        assert codes == [0] * ranks, output.read()
    report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return report


def main(folder: Path, shard: str) -> None:
    """One rank: four steps, a save after two; back to that and on; then on from a lone process's save, `one`.

    Whole weights become `initial`, `first`, `second`, `from-one`.safetensors, checkpoints `two` and `four`.
    """
    torch.set_num_threads(1)
    ranks = join_ranks("cpu")
    model = build()
    fsdp.apply(model, ranks, sharding=shard, bf16=False, activation_checkpointing="none", compile_blocks=False)
    optimizer = adamw(model, NUMBERS)
    weights = {"initial": whole(model)}
    report: dict[str, Any] = {"steps": [], "evaluations": [], "own_rows": {}}
    for step in range(4):
        if step == 2:
            report["evaluations"].append(evaluate(model))  # leaves whole weights behind, as a real save finds them
            checkpoint_tensors.save(folder / "two", model, optimizer, {"step": step}, ranks)
        report["steps"].append(take(model, optimizer, step, ranks))
    report["evaluations"].append(evaluate(model))
    checkpoint_tensors.save(folder / "four", model, optimizer, {"step": 4}, ranks)
    weights["first"] = whole(model)
    report["own_rows"] = {name: len(local_part(p)) for name, p in model.named_parameters()}

    state = checkpoint_tensors.load(folder / "two", model, optimizer)
    again = [take(model, optimizer, step, ranks) for step in range(state["step"], 4)]
    report["again"] = again
    weights["second"] = whole(model)

    if (folder / "one").exists():
        state = checkpoint_tensors.load(folder / "one", model, optimizer)
        report["from_one"] = [take(model, optimizer, step, ranks) for step in range(state["step"], 4)]
        weights["from-one"] = whole(model)
    report["threads that exchanged"] = goes_on_while_saving(folder, model, optimizer, ranks)
    report["exchanges"] = [exchanges(model, optimizer, ranks, micro) for micro in (1, 2, 4)]
    report["any"] = [ranks.any(ranks.rank == 1), ranks.any(False)]
    report["agree"] = ranks.agree(f"rank {ranks.rank}")
    report["gather"] = ranks.gather(ranks.rank)
    if ranks.first:
        for name, tensors in weights.items():
            save_file(tensors, folder / f"{name}.safetensors")
        (folder / "report.json").write_text(json.dumps(report))
    leave_ranks(ranks)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])

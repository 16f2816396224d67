"""Steps of replicas whose networks add scalars up in different orders: one rank of four, as a script.

python replica_orders.py FOLDER SHARDING      under torchrun's environment variables, two nodes of two ranks
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed._functional_collectives as functional
from small import NUMBERS, build, take

from runner.parallel import fsdp, replica_check
from runner.parallel.ranks import join_ranks, leave_ranks, rows_of
from runner.train.optimizer import adamw

STEPS = 30


def main(folder: Path, sharding: str) -> None:
    torch.set_num_threads(1)
    ranks = join_ranks("cpu")
    assert (ranks.size, ranks.local_size) == (4, 2)
    model = build()
    fsdp.apply(model, ranks, sharding=sharding, bf16=False, activation_checkpointing="none", compile_blocks=False)
    optimizer = adamw(model, NUMBERS)
    order = rows_of(next(model.parameters()))[2]  # the number of the replica
    functional_sum, sum_in_place = functional.all_reduce, torch.distributed.all_reduce

    def rounded(sums: torch.Tensor) -> torch.Tensor:
        """What another order of addition may give: `order` units in the last place more."""
        for _ in range(order):
            sums = torch.nextafter(sums, torch.full_like(sums, torch.inf))
        return sums

    def add(*arguments: Any, **options: Any) -> torch.Tensor:
        return rounded(functional.wait_tensor(functional_sum(*arguments, **options)))

    def add_in_place(tensor: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        work = sum_in_place(tensor, *arguments, **options)
        if tensor.numel() == 1 and tensor.is_floating_point():  # gradients are added by rings that end in one result
            tensor.copy_(rounded(tensor))
        return work

    functional.all_reduce = add
    torch.distributed.all_reduce = add_in_place
    norms = [take(model, optimizer, step, ranks, micro=1)[1] for step in range(STEPS)]
    replica_check.check(model, optimizer, ranks, STEPS)
    gathered = ranks.gather(norms)
    if ranks.first:
        (folder / "report.json").write_text(json.dumps({"norms": gathered}))
    leave_ranks(ranks)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])

"""Muon for the matrices inside the blocks, AdamW for the rest: embedding, output weight, norms and biases.

Muon (Jordan et al. 2024) orthogonalises the momentum of whole matrices, so each rank must hold whole ones. Torch's own
class takes its steps, on the separate matrices of Hugging Face's names: fused ones are not orthogonalised together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from curriculum.errors import PlanError
from runner.model.transformer import Transformer
from runner.parallel.ranks import local_part, rows_of
from runner.train import ema
from runner.train.optimizer import AdamW, adamw

MOMENTUM = "momentum_buffer"


class Muon(AdamW):
    """An optimizer whose last group, `matrices`, torch's Muon steps; `rows` divides each into separate matrices.

    `options` are those of torch's class. `found_inf` holds for all.
    """

    matrices: Mapping[nn.Parameter, list[int]]
    options: Mapping[str, Any]

    def _init_group(self, group: dict[str, Any], *lists: list[torch.Tensor]) -> bool:
        return False if group.get("muon") else super()._init_group(group, *lists)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = super().step(closure)
        group = next(group for group in self.param_groups if group.get("muon"))
        if self.found_inf is not None and self.found_inf.device.type == "cpu" and bool(self.found_inf):
            return loss
        for parameter, rows in self.matrices.items():
            if parameter.grad is not None:
                self._step_of(parameter, rows, group)
                taken = self.state[parameter]["step"]
                taken += 1 if self.found_inf is None else 1 - self.found_inf
        return loss

    def _step_of(self, parameter: nn.Parameter, rows: list[int], group: Mapping[str, Any]) -> None:
        """Torch's step of the separate matrices of one parameter."""
        values = [local_part(t).detach() for t in (parameter, parameter.grad, self.state[parameter][MOMENTUM])]  # type: ignore[arg-type]
        parts = [nn.Parameter(weight) for weight in torch.split(values[0], rows)]
        steps = torch.optim.Muon(parts, lr=group["lr"], weight_decay=group["weight_decay"], **self.options)
        for part, gradient, momentum in zip(parts, *(torch.split(t, rows) for t in values[1:]), strict=True):
            part.grad = gradient
            steps.state[part][MOMENTUM] = momentum
        # on a GPU the CPU does not wait for `found_inf`: what the step changed is put back where it was not finite
        changed = (values[0], values[2]) if self.found_inf is not None and values[0].is_cuda else ()
        before = [t.clone() for t in changed]
        steps.step()  # type: ignore[no-untyped-call]
        for now, then in zip(changed, before, strict=True):
            now.copy_(torch.where(self.found_inf.bool(), then, now))  # type: ignore[union-attr]


def optimizer_of(model: Transformer, numbers: Mapping[str, Any]) -> AdamW:
    """The plan's optimizer, with the moving average of the weights if one is kept.

    PlanError where Muon's matrices are sharded, or torch has no Muon.
    """
    optimizer = muon(model, numbers) if numbers.get("name") == "muon" else adamw(model, numbers)
    if numbers.get("ema") is not None:
        ema.keep(optimizer, optimizer.parameters)
    return optimizer


def muon(model: Transformer, numbers: Mapping[str, Any]) -> Muon:
    """Muon with the plan's numbers; weight decay holds for its matrices whatever `decay` says of the others."""
    if not hasattr(torch.optim, "Muon"):
        raise PlanError(
            f"torch {torch.__version__} has no Muon", hint="install torch 2.9 or newer, or take `name: adamw`"
        )
    rows = {name: [shape[0] for shape in parts.values()] for name, parts in model.config.fused_tensors().items()}
    named = dict(model.named_parameters())
    inside = {name: p for name, p in named.items() if name.startswith("blocks.") and p.dim() == 2}
    for name, parameter in inside.items():
        first, last, _ = rows_of(parameter)
        if (first, last) != (0, sum(rows[name])):
            raise PlanError(
                "`optimizer: {name: muon}` needs whole matrices on each process, and they are sharded here",
                hint="say `sharding: none` for the machine in machines.yaml, or take `name: adamw`",
            )
    rest = adamw(model, numbers)
    groups = [
        {**group, "params": [p for p in group["params"] if not any(p is other for other in inside.values())]}
        for group in rest.param_groups
    ]
    groups = [group for group in groups if group["params"]]
    groups.append({"params": list(inside.values()), "weight_decay": numbers["weight_decay"], "muon": True})
    optimizer = Muon(groups, lr=0.0, betas=tuple(numbers["betas"]), eps=numbers["eps"], fused=True)
    optimizer.parameters, optimizer.narrow = rest.parameters, rest.narrow
    optimizer.matrices = {parameter: rows[name] for name, parameter in inside.items()}
    optimizer.options = {
        "momentum": numbers.get("momentum", 0.95),
        "adjust_lr_fn": numbers.get("adjust_rate", "match_rms_adamw"),
    }
    for parameter in named.values():
        optimizer.state[parameter] = rest.state[parameter]
        if parameter in optimizer.matrices:
            step = rest.state[parameter]["step"]
            optimizer.state[parameter] = {"step": step, MOMENTUM: torch.zeros_like(parameter)}
    return optimizer

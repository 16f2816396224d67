"""Whether a machine's attention and sharding can serve what a stage trains, before a process is started."""

from __future__ import annotations

from curriculum import config
from curriculum.config.yaml import Document
from curriculum.errors import PlanError
from curriculum.plan.kernels import attention_lacks
from curriculum.plan.memory import shards_of
from curriculum.plan.model import ModelConfig
from curriculum.plan.stage import StagePlan


def require_kernels(
    stage: str,
    plan: StagePlan,
    machine_name: str,
    machine: config.MachineEntry,
    document: Document,
    processes: int | None,
) -> None:
    """PlanError for an attention that cannot serve the stage's model, and for matrices of Muon that are sharded."""
    model = ModelConfig.from_json(plan.model)
    reason = attention_lacks(
        machine.attention,
        device=machine.device,
        head_dim=model.head_dim,
        masked=plan.mask_documents,
        windowed=bool(model.sliding_window),
        deterministic=machine.deterministic,
    )
    if reason is not None:
        raise PlanError(
            f"stage `{stage}`: attention `{machine.attention}` cannot serve: {reason}",
            place=document.place((machine_name, "attention")),
            hint="`attention: auto` takes the fastest that serves",
        )
    local = processes or machine.processes
    shards = shards_of(machine.sharding, ranks=machine.nodes * local, local_ranks=local)
    if plan.optimizer.get("name") == "muon" and shards > 1:
        path = (machine_name, "sharding")
        raise PlanError(
            f"stage `{stage}`: `optimizer: {{name: muon}}` needs whole matrices on each process, and `sharding: "
            f"{machine.sharding}` spreads them over {shards}",
            place=document.place(path if path in document else path[:1]),
            hint="say `sharding: none` for the machine, or take `name: adamw`",
        )

"""`deterministic: true` refuses what is not deterministic, and never switches it off silently.

Sources: torch's notes on reproducibility; Megatron-LM's deterministic mode, which also refuses rather than flips.
"""

from __future__ import annotations

import os

import torch

from curriculum.artifacts.jobs import Machine
from curriculum.errors import PlanError
from runner.parallel.ranks import Ranks

WORKSPACES = (":4096:8", ":16:8")  # of cuBLAS, the two that NVIDIA's documentation calls deterministic


def prepare(machine: Machine) -> None:
    """Set the environment variables that libraries read at their start; call it before a device is used."""
    if machine.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", WORKSPACES[0])
        os.environ.setdefault("NCCL_ALGO", "Ring")


def check(machine: Machine, ranks: Ranks) -> None:
    """PlanError for a machine file whose determinism this machine cannot provide."""
    cuda = ranks.device.type == "cuda"
    if machine.exactness == "canonical" and cuda and not machine.deterministic:
        raise PlanError(
            "`exactness: canonical` needs kernels that give the same bits every time",
            hint="add `deterministic: true` to the machine, or take `exactness: native`",
        )
    if not machine.deterministic:
        return
    if cuda and os.environ.get("CUBLAS_WORKSPACE_CONFIG") not in WORKSPACES:
        raise _refusal("CUBLAS_WORKSPACE_CONFIG", " or ".join(WORKSPACES))
    if cuda and ranks.size > 1 and os.environ.get("NCCL_ALGO", "").lower() != "ring":
        raise _refusal("NCCL_ALGO", "Ring")
    if os.environ.get("TORCHINDUCTOR_MAX_AUTOTUNE", "0") != "0":
        raise _refusal("TORCHINDUCTOR_MAX_AUTOTUNE", "0")
    if cuda and torch.backends.cudnn.benchmark:
        raise PlanError(
            "`deterministic: true` cannot be kept: cuDNN is set to choose kernels by their speed",
            hint="leave torch.backends.cudnn.benchmark as it is by default",
        )


def apply(machine: Machine, ranks: Ranks) -> None:
    """Apply the machine file: from now on an operation without a deterministic kernel raises instead of warning."""
    check(machine, ranks)
    if machine.deterministic:
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # costs time


def _refusal(variable: str, required: str) -> PlanError:
    return PlanError(
        f"`deterministic: true` cannot be kept: the environment says {variable}={os.environ.get(variable, '')}",
        hint=f"set it to {required}, or leave it unset",
    )

"""What FSDP2 has sharded: tensors and modules.

Torch's modules for it are imported by `fsdp.apply` alone, and only where it shards: they, with the compiler that they
import, take as long to load as the rest of torch.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TypeGuard

import torch

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor


def is_sharded(tensor: torch.Tensor) -> TypeGuard[DTensor]:
    """Whether a tensor is a DTensor, of which a rank holds a part."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def is_managed(module: object) -> TypeGuard[FSDPModule]:
    """Whether FSDP2 gathers a module's parameters and exchanges their gradients."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    return fsdp is not None and isinstance(module, fsdp.FSDPModule)

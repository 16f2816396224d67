"""The ranks of a job: process groups, devices and the mesh. A single process needs no process group."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from curriculum.errors import PlanError
from curriculum.stream import agreement
from runner.parallel.sharded import is_sharded

TIMEOUT = timedelta(minutes=10)

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among its peers. `saving` is a gloo group for flags and checkpoints only."""

    rank: int
    size: int
    local_size: int
    device: torch.device
    saving: dist.ProcessGroup | None = None

    @property
    def first(self) -> bool:
        return self.rank == 0

    def mesh(self, shard: int) -> DeviceMesh:
        """The (replicate, shard) mesh: the parameters are sharded over `shard` neighbouring ranks.

        A single process, which needs FSDP2 for its precision policy only, gets a process group of one.
        """
        if not dist.is_initialized():
            dist.init_process_group(_backend(self.device.type), store=HashStore(), rank=0, world_size=1)
        return init_device_mesh(self.device.type, (self.size // shard, shard), mesh_dim_names=("replicate", "shard"))

    def add(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over all ranks, on this rank's CPU or device, in place; the tensor itself with one rank."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def any(self, flag: bool) -> bool:
        """Whether the flag is true on any rank; the same result on all."""
        if self.size == 1:
            return flag
        value = torch.tensor(float(flag), device="cpu")
        dist.all_reduce(value, op=dist.ReduceOp.MAX, group=self.saving)
        return bool(value.item())

    def agree(self, value: Any) -> Any:
        """Rank 0's `value`, on every rank."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0, group=self.saving)
        return values[0]

    def gather(self, value: Any) -> list[Any]:
        """Every rank's `value`, by rank, on every rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self.saving)
        return values

    def wait(self) -> None:
        if self.size > 1:
            dist.barrier(group=self.saving)

    def wait_until(self, done: Callable[[], bool]) -> None:
        """Until it is done on every rank, however long it takes."""
        agreement.wait_until(done, self.any, alone=self.size == 1)

    def first_does(self, work: Callable[[], object]) -> None:
        """Have rank 0 do the work while the others wait, however long it takes; an error is raised on rank 0."""
        agreement.first_does(work, self.any, first=self.first, alone=self.size == 1)


def join_ranks(device: str, threads: int | None = None) -> Ranks:
    """Read torchrun's environment and join its process group when there is more than one process.

    PlanError when a GPU is requested and this process has none of its own.
    """
    if threads:
        torch.set_num_threads(threads)
    size = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    kind = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    own = torch.device(kind, local_rank) if kind == "cuda" else torch.device(kind)
    if kind == "cuda" and local_rank >= (devices := torch.cuda.device_count()):
        raise PlanError(
            f"process {local_rank} of this node needs a GPU of its own, and torch {torch.__version__} finds {devices}",
            hint="`curriculum doctor` shows what is there; or set `device: cpu`, or fewer processes",
        )
    if kind == "cuda":
        torch.cuda.set_device(own)
    else:
        keep_freed_memory()
    if size == 1:
        return Ranks(0, 1, 1, own)
    dist.init_process_group(_backend(kind), timeout=TIMEOUT)
    return Ranks(rank, size, local_size, own, dist.new_group(backend="gloo", timeout=TIMEOUT))


def leave_ranks(ranks: Ranks) -> None:
    """Leave together: ranks that leave at different times break each other's connections."""
    ranks.wait()
    if dist.is_initialized():
        dist.destroy_process_group()


def local_part(tensor: torch.Tensor) -> torch.Tensor:
    """The part of a tensor that this rank holds."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def rows_of(tensor: torch.Tensor) -> tuple[int, int, int]:
    """`(first, last, replica)`: the half-open range of rows that this rank holds, and the number of its replica.

    FSDP2 shards dimension 0, in chunks of equal size, over neighbouring ranks.
    """
    if is_sharded(tensor):
        mesh = tensor.device_mesh
        shards = mesh.size(mesh.ndim - 1)
        replica, at = divmod(dist.get_rank(), shards)
        chunk = -(-tensor.shape[0] // shards)
        first = min(at * chunk, tensor.shape[0])
        return first, first + len(tensor.to_local()), replica
    return 0, len(tensor), 0


def keep_freed_memory() -> None:
    """Have glibc keep freed memory instead of returning it to the system.

    Every step frees and allocates the same activations; returned memory costs tens of thousands of page faults, a
    fifth of a small model's step on a CPU. The process stays at its own peak, no higher.
    """
    if sys.platform != "linux":
        return
    allocator = ctypes.CDLL(None)
    # older glibc refuses more than 32 MiB; the trim threshold alone would freeze the other at 128 KiB
    if hasattr(allocator, "mallopt") and any(allocator.mallopt(_M_MMAP_THRESHOLD, 1 << n) for n in (30, 25)):
        allocator.mallopt(_M_TRIM_THRESHOLD, 1 << 30)


def _backend(kind: str) -> str:
    return "cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo"

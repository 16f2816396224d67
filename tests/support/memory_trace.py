"""The peak memory of a training step on a device, traced with the product's own model and FSDP2 on fake tensors.

Nothing is computed and no GPU is needed: tensors are fake, the process group has as many ranks as asked for and this
process alone in it, and every storage is counted from the operation that makes it to its end. Blocks and loss go
through the compiler up to the kernels: what is kept for the backward pass follows its min-cut partition, and the fp32
results and masks of elementwise operations, which its kernels fuse away, are not counted.
"""

from __future__ import annotations

import contextlib
import gc
import weakref
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from functorch.compile import min_cut_rematerialization_partition
from torch import nn
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.backends.debugging import boxed_nop
from torch._inductor import compile_fx
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp._fully_shard import _fsdp_param, _fsdp_param_group
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from curriculum.plan.model import ModelConfig
from runner.model import attention, loss
from runner.model.transformer import Transformer
from runner.parallel import fsdp
from runner.parallel.ranks import Ranks
from runner.train.muon import MOMENTUM, muon
from runner.train.optimizer import adamw

OPTIMIZER = {"decay": "all", "weight_decay": 0.1, "betas": (0.9, 0.95), "eps": 1e-8}


@dataclass
class Peak:
    """The most bytes alive at once, and what they were by the operation and the shape that made them."""

    bytes: int = 0
    by: Counter[str] = field(default_factory=Counter)


class _Live(TorchDispatchMode):
    """Counts the bytes of the storages that are alive."""

    supports_higher_order_operators = True  # recomputed attention is wrapped in one

    def __init__(self) -> None:
        super().__init__()
        self.peaks: dict[str, Peak] = {}
        self.phase = ""
        self.fused = False
        self._bytes = 0
        self._by: Counter[str] = Counter()
        self._sizes: dict[int, tuple[int, str, Any]] = {}

    @classmethod
    def is_infra_mode(cls) -> bool:
        return True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if DTensor in types:  # it calls the operations on its local part itself
            return NotImplemented
        out = func(*args, **(kwargs or {}))
        fused = self.fused and ("prims" in str(func) or torch.Tag.pointwise in getattr(func, "tags", ()))
        for value in tree_iter(out):
            if isinstance(value, torch.Tensor) and value.untyped_storage()._cdata not in self._sizes:
                made_by = f"{self.phase} {func} {value.dtype} {list(value.shape)}"
                self.count(value, made_by, free=fused and value.dtype in (torch.float32, torch.bool))
        return out

    def count(self, tensor: torch.Tensor, by: str, *, free: bool = False) -> None:
        """Count the tensor's storage at the size that it has now, or as nothing with `free`."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, 0 if free else storage.nbytes()
        if (known := self._sizes.get(key)) is None:
            reference = weakref.ref(storage, partial(self._end, key))
        else:
            was, by, reference = known
            self._add(-was, by)
        self._sizes[key] = (size, by, reference)
        self._add(size, by)

    def _end(self, key: int, _: Any) -> None:
        size, by, _ = self._sizes.pop(key)
        self._add(-size, by)

    def _add(self, size: int, by: str) -> None:
        self._bytes += size
        self._by[by] += size
        if self._bytes > self.peaks.setdefault(self.phase, Peak()).bytes:
            self.peaks[self.phase] = Peak(self._bytes, Counter(self._by))

    def backend(self, graph: torch.fx.GraphModule, inputs: Any) -> Any:
        """`aot_eager_decomp_partition` that says while it runs."""

        def compiler(part: torch.fx.GraphModule, values: Any) -> Any:
            run = boxed_nop(part, values)

            def fused(arguments: Any) -> Any:
                self.fused = True
                try:
                    return run(arguments)
                finally:
                    self.fused = False

            fused._boxed_call = True  # type: ignore[attr-defined]
            return fused

        partition = partial(min_cut_rematerialization_partition, compiler="inductor")
        return aot_autograd(
            fw_compiler=compiler,
            bw_compiler=compiler,
            decompositions=lambda: compile_fx.select_decomp_table(),
            partition_fn=partition,
        )(graph, inputs)


class FakeRanks(Ranks):
    """Ranks of a fake process group."""

    def mesh(self, shard: int) -> DeviceMesh:
        with unset_fake_temporarily():  # a mesh reads its own numbers
            return init_device_mesh("cpu", (self.size // shard, shard), mesh_dim_names=("replicate", "shard"))


def _flash(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, documents: Any = None, window: int | None = None
) -> torch.Tensor:
    """FlashAttention-2 as torch calls it on a GPU: its operation has shapes on every device."""
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    out: torch.Tensor = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, 0.0, True)[0]
    return out.transpose(1, 2)


@contextlib.contextmanager
def group(ranks: int, rank: int = 0) -> Iterator[None]:
    """A fake process group, in which this process is `rank`."""
    if dist.is_initialized():  # by a test of one process in bf16, which makes another when it needs one
        dist.destroy_process_group()
    dist.init_process_group("fake", rank=rank, world_size=ranks, store=FakeStore())
    try:
        yield
    finally:
        dist.destroy_process_group()


def update_of_muon(config: ModelConfig) -> int:
    """The most bytes that a step of one of Muon's matrices takes on a GPU beside what is kept anyway."""
    live = _Live()
    with torch.device("meta"):
        model = Transformer(config)
    with FakeTensorMode(allow_non_fake_inputs=True):
        for module in model.modules():
            for name, parameter in module.named_parameters(recurse=False):
                module.register_parameter(name, nn.Parameter(torch.empty(parameter.shape, device="cuda")))
        numbers = {**OPTIMIZER, "name": "muon", "decay": "matrices"}
        optimizer = muon(model, numbers)
        optimizer.found_inf = torch.zeros((), device="cuda")
        # a copy between fake tensors on a GPU wants a real one
        with mock.patch.object(torch.Tensor, "copy_", lambda tensor, _: tensor), live:
            for parameter, rows in optimizer.matrices.items():
                parameter.grad = torch.zeros_like(parameter)
                for kept in (parameter, parameter.grad, optimizer.state[parameter][MOMENTUM]):
                    live.count(kept, "kept", free=True)
                live.phase = "update"
                optimizer._step_of(parameter, rows, optimizer.param_groups[-1])
                live.phase = "between"
                parameter.grad = None
    return live.peaks["update"].bytes


def trace(
    config: ModelConfig,
    *,
    layers: Sequence[int],
    sequence_length: int,
    micro_batch: int,
    micro_batches: int,
    ranks: int,
    shards: int,
    checkpointing: str = "none",
    reshard: bool = False,
    exchange: bool = False,
    masked: bool = False,
    z_loss: float = 0.0,
) -> list[dict[str, Peak]]:
    """The peak of each phase of a step in bf16, on rank 0 of `ranks` GPUs of which `shards` are in a node; hybrid.

    For each number of `layers`; what a block compiles to is the same in all and is compiled once.
    """
    torch._dynamo.reset()
    live, found = _Live(), []
    compile_block = nn.Module.compile

    def compile_without_kernels(module: nn.Module, **options: Any) -> None:
        compile_block(module, backend=live.backend, **options)

    rows_without_kernels = torch.compile(loss._rows_to_fuse, fullgraph=True, dynamic=False, backend=live.backend)

    def resized(change: Any) -> Any:
        def changed(tensor: torch.Tensor, *arguments: Any) -> None:
            change(tensor, *arguments)
            live.count(tensor, f"alloc_storage {list(tensor.shape)}")

        return changed

    patches = [
        mock.patch.object(nn.Module, "compile", compile_without_kernels),
        mock.patch.dict(loss.CHUNK_BYTES, cpu=loss.CHUNK_BYTES["cuda"]),
        mock.patch.object(loss, "_compiled_rows", return_value=rows_without_kernels),
        mock.patch.object(_fsdp_param, "free_storage", resized(_fsdp_param.free_storage)),
        *(
            mock.patch.object(module, "alloc_storage", resized(module.alloc_storage))
            for module in (_fsdp_param, _fsdp_param_group)
        ),
    ]
    with contextlib.ExitStack() as stack:
        stack.enter_context(group(ranks))
        for patch in patches:
            stack.enter_context(patch)
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(live)
        gc.freeze()  # a collection below looks at what was made there
        stack.callback(gc.unfreeze)
        for number_of_layers in layers:
            live.phase = "build"
            model = Transformer(
                replace(config, num_hidden_layers=number_of_layers), attention.varlen if masked else _flash
            )
            fsdp.apply(
                model,
                FakeRanks(0, ranks, shards, torch.device("cpu")),
                sharding="hybrid",
                bf16=True,
                activation_checkpointing=checkpointing,
                compile_blocks=True,
                reshard=reshard,
                exchange_often=exchange,
            )
            optimizer = adamw(model, OPTIMIZER)
            live.peaks.clear()
            # A step of one micro-batch leaves what the whole step after it begins with.
            for number_of_micro_batches in (1, micro_batches):
                for number in range(number_of_micro_batches):
                    tokens = torch.zeros((micro_batch, sequence_length + 1), dtype=torch.long)
                    with fsdp.micro_batch(model, last=number + 1 == number_of_micro_batches):
                        live.phase = "forward"
                        ends = torch.arange(0, tokens[:, 1:].numel() + 1, 256, dtype=torch.int32) if masked else None
                        documents = attention.Documents(None, ends, sequence_length) if ends is not None else None
                        states = model(tokens[:, :-1], documents)
                        live.phase = "loss"
                        total, losses = model.head(
                            states, tokens[:, 1:], loss.next_token_loss, compiled=True, z_loss=z_loss
                        )
                        live.phase = "backward"
                        torch.autograd.backward(total)
                        del states, total, losses
                optimizer.zero_grad()  # the update itself, fused, allocates nothing on a GPU
            found.append(live.peaks)
            del model, optimizer
            gc.collect()  # what this model held is not to count in the next
            live.peaks = {}
    return found

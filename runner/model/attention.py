"""Attention kernels behind one small interface; which of them are usable here, and why the others are not.

`auto` takes the first usable one, in an order that depends on the GPU (`preferences`). A kernel requested by name that
is not usable is an error, never a silent fallback. Layout in and out: `[B, T, heads, head_dim]`; keys and values keep
their own, smaller number of heads.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch.nn.attention import SDPBackend, sdpa_kernel

from curriculum.plan.kernels import attention_lacks
from runner.model.transfer import to_device

# torch 2.11 shares key heads among query heads by default and has no such parameter; later versions need it.
_SHARED_HEADS = {} if torch.__version__.startswith("2.11.") else {"enable_gqa": True}


class Documents(NamedTuple):
    """Where documents begin inside the sequences of a batch, so that no token attends to another document.

    `number_BT` counts a sequence's documents from 0, for the kernels that read it (`NUMBERED`), None for others.
    `bounds` (int32) are 0 and the documents' ends in the flattened batch.
    """

    number_BT: torch.Tensor | None
    bounds: torch.Tensor
    longest: int

    def to(self, device: torch.device) -> Documents:
        number_BT = None if self.number_BT is None else to_device(self.number_BT, device)
        return Documents(number_BT, to_device(self.bounds, device), self.longest)


class Attend(Protocol):
    """A kernel: queries, keys and values, `[B, T, heads, head_dim]` each, to what each query reads, `[B, T, …]`.

    With `documents` no token attends to another document; with a `window` it attends to so many tokens, itself
    included.
    """

    def __call__(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        documents: Documents | None = None,
        window: int | None = None,
        /,
    ) -> torch.Tensor: ...


def documents(bounds: NDArray[np.int32], B: int, T: int, *, numbered: bool = True) -> Documents:
    """The documents of a batch `[B, T]` on the CPU, from their bounds in the flattened batch (`document_bounds`)."""
    starts = torch.from_numpy(bounds)
    if not numbered:
        return Documents(None, starts, T)
    begins = torch.zeros(B * T, dtype=torch.bool)
    begins[starts[:-1].long()] = True
    return Documents(begins.view(B, T).cumsum(dim=1, dtype=torch.int32) - 1, starts, T)


def sdpa(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, documents: Documents | None = None, window: int | None = None
) -> torch.Tensor:
    """Causal attention by torch's scaled_dot_product_attention, with the kernel that torch selects."""
    mask, length = None, q.shape[1]
    if window is not None and window < length:
        mask = torch.ones((length, length), dtype=torch.bool, device=q.device).tril().triu(1 - window)
    if documents is not None:
        number = documents.number_BT
        assert number is not None
        same = number[:, None, :, None] == number[:, None, None, :]
        if mask is None:
            mask = torch.ones((length, length), dtype=torch.bool, device=q.device).tril()
        mask = same & mask
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=True)
    return out.transpose(1, 2)


def sdpa_flash(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, documents: Documents | None = None, window: int | None = None
) -> torch.Tensor:
    """torch's own FlashAttention-2 only: else torch prefers cuDNN on Hopper."""
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return sdpa(q, k, v, documents, window)


def sdpa_cudnn(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, documents: Documents | None = None, window: int | None = None
) -> torch.Tensor:
    """cuDNN's attention only."""
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        return sdpa(q, k, v, documents, window)


def varlen(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, documents: Documents | None = None, window: int | None = None
) -> torch.Tensor:
    """torch's FlashAttention-2 over concatenated documents; without documents, over sequences."""
    from torch.nn.attention.varlen import varlen_attn  # imports the compiler, a second of every start

    bounds, longest = _bounds(q, documents)
    flat = [x.flatten(0, 1) for x in (q, k, v)]
    kernel = cast(Callable[..., torch.Tensor], varlen_attn)
    out = kernel(*flat, bounds, bounds, longest, longest, window_size=_left(window), **_SHARED_HEADS)
    return out.view(q.shape)


def flash_attn(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, documents: Documents | None = None, window: int | None = None
) -> torch.Tensor:
    """The flash-attn package's FlashAttention-2."""
    from flash_attn import flash_attn_func, flash_attn_varlen_func

    strict = torch.are_deterministic_algorithms_enabled()
    near = {} if window is None else {"window_size": _left(window)}
    out: torch.Tensor
    if documents is None:
        out = flash_attn_func(q, k, v, causal=True, deterministic=strict, **near)
        return out
    bounds, longest = _bounds(q, documents)
    flat = (x.flatten(0, 1) for x in (q, k, v))
    out = flash_attn_varlen_func(*flat, bounds, bounds, longest, longest, causal=True, deterministic=strict, **near)
    return out.view(q.shape)


def flash_attn_3(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, documents: Documents | None = None, window: int | None = None
) -> torch.Tensor:
    """FlashAttention-3, which computes torch's own operators once `activate` has put it there."""
    return sdpa_flash(q, k, v) if documents is None and window is None else varlen(q, k, v, documents, window)


NUMBERED: frozenset[Attend] = frozenset({sdpa})
"""The kernels that read `Documents.number_BT`."""


def operators(attend: Attend) -> tuple[Any, ...]:
    """The operators by which a kernel computes attention; they cost most to compute again."""
    if attend in (varlen, flash_attn_3):
        importlib.import_module("torch.nn.attention.varlen")  # registers it
        dense = () if attend is varlen else (torch.ops.aten._scaled_dot_product_flash_attention.default,)
        return (torch.ops.torch_attn._varlen_attn.default, *dense)
    if attend is flash_attn:
        importlib.import_module("flash_attn")  # registers them
        return (
            torch.ops.flash_attn._flash_attn_forward.default,
            torch.ops.flash_attn._flash_attn_varlen_forward.default,
        )
    return (
        torch.ops.aten._scaled_dot_product_flash_attention.default,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
        torch.ops.aten._scaled_dot_product_efficient_attention.default,
        torch.ops.aten._scaled_dot_product_cudnn_attention.default,
    )


def _left(window: int | None) -> tuple[int, int]:
    """How many tokens before and after itself a token attends to, as FlashAttention counts them; -1 is all."""
    return (-1, 0) if window is None else (window - 1, 0)


def _bounds(q: torch.Tensor, documents: Documents | None) -> tuple[torch.Tensor, int]:
    if documents is not None:
        return documents.bounds, documents.longest
    B, T = q.shape[:2]
    return torch.arange(0, B * T + 1, T, dtype=torch.int32, device=q.device), T


@dataclass(frozen=True, slots=True)
class Request:
    """What attention is needed for; `masked` when no token may attend to another document, `windowed` when some layers
    attend to a sliding window.

    `capability` is the GPU's compute capability, (9, 0) of Hopper; None where it is not known.
    """

    device: str
    dtype: torch.dtype
    head_dim: int
    deterministic: bool
    masked: bool = False
    capability: tuple[int, int] | None = None
    windowed: bool = False


def request_of(
    device: torch.device,
    *,
    bf16: bool,
    head_dim: int,
    deterministic: bool,
    masked: bool = False,
    windowed: bool = False,
) -> Request:
    """The request of a model on `device`."""
    return Request(
        device.type,
        torch.bfloat16 if bf16 else torch.float32,
        head_dim,
        deterministic,
        masked,
        torch.cuda.get_device_capability(device) if device.type == "cuda" and torch.cuda.is_available() else None,
        windowed,
    )


def _flash_refusal(kernel: str, request: Request) -> str | None:
    """Why a kernel of FlashAttention or cuDNN cannot serve, whatever is installed."""
    reason = attention_lacks(
        kernel,
        device=request.device,
        head_dim=request.head_dim,
        masked=request.masked,
        windowed=request.windowed,
        deterministic=request.deterministic,
    )
    half = request.dtype in (torch.bfloat16, torch.float16)
    return reason or (None if half else "it computes in bf16 or fp16 only")


def _flash_attn_refusal(request: Request) -> str | None:
    try:  # a broken installation is found by name and fails only here
        from flash_attn import flash_attn_func  # noqa: F401
    except Exception as error:  # also what a library built for another torch raises
        return f"the package flash-attn does not import: {error}"
    return _flash_refusal("flash-attn", request)


def _flash_attn_3_refusal(request: Request) -> str | None:
    if (reason := _flash_refusal("flash-attn-3", request)) is not None:
        return reason
    if request.capability != (9, 0):
        return "it is written for Hopper, compute capability 9.0"
    try:
        importlib.import_module("flash_attn_interface")
    except Exception as error:
        return f"the package of FlashAttention-3 does not import: {error}"
    return None


BACKENDS: dict[str, tuple[Attend, Callable[[Request], str | None]]] = {
    "flash-attn-3": (flash_attn_3, _flash_attn_3_refusal),
    "flash-attn": (flash_attn, _flash_attn_refusal),
    "sdpa-flash": (sdpa_flash, partial(_flash_refusal, "sdpa-flash")),
    "sdpa-cudnn": (sdpa_cudnn, partial(_flash_refusal, "sdpa-cudnn")),
    "varlen": (varlen, partial(_flash_refusal, "varlen")),
    "sdpa": (sdpa, lambda request: None),
}


def preferences(request: Request) -> dict[str, str]:
    """The kernels in the order in which `auto` tries them, each with the reason for its place."""
    newest = request.capability is not None and (9, 0) <= request.capability < (12, 0)
    kernels = {"flash-attn-3": "the fastest on Hopper"}
    if newest:
        kernels["sdpa-cudnn"] = "faster than FlashAttention-2 on Hopper and Blackwell"
    return kernels | {
        "flash-attn": "FlashAttention-2 by its package",
        "sdpa-flash": "FlashAttention-2 by torch",
        "varlen": "FlashAttention-2 by torch, which keeps documents apart",
        "sdpa": "it serves everywhere",
    }


def explain(request: Request) -> dict[str, str | None]:
    """Every backend with the reason it is not usable for `request`, None when it is."""
    return {name: refusal(request) for name, (_, refusal) in BACKENDS.items()}


def choose(name: str, request: Request) -> tuple[str, Attend]:
    """The backend called `name`, or for `auto` the first usable one; ValueError says why one is not."""
    if name == "auto":
        name = next(candidate for candidate in preferences(request) if BACKENDS[candidate][1](request) is None)
    if name not in BACKENDS:
        raise ValueError(f"there is no attention called `{name}`; there are: auto, {', '.join(BACKENDS)}")
    reason = BACKENDS[name][1](request)
    if reason is not None:
        raise ValueError(f"attention `{name}` cannot serve here: {reason}")
    return name, BACKENDS[name][0]


def activate(attend: Attend) -> None:
    """Prepare this process for a kernel that was chosen: FlashAttention-3 takes the place of torch's own kernels."""
    if attend is flash_attn_3:
        from torch.nn.attention import activate_flash_attention_impl

        activate_flash_attention_impl("FA3")

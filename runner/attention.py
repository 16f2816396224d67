"""Attention kernels behind one small interface; which of them can serve here, and why the others cannot.

`auto` takes the first that serves. A kernel asked for by name that cannot serve is an error, never a silent
fallback. Layout in and out: `[B, T, heads, head_dim]`; keys and values keep their own, smaller number of heads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def sdpa(q_BTHd: torch.Tensor, k_BTKd: torch.Tensor, v_BTKd: torch.Tensor) -> torch.Tensor:
    """Causal attention by torch's scaled_dot_product_attention, whichever kernel torch prefers."""
    out = F.scaled_dot_product_attention(
        q_BTHd.transpose(1, 2),
        k_BTKd.transpose(1, 2),
        v_BTKd.transpose(1, 2),
        is_causal=True,
        enable_gqa=True,
    )
    return out.transpose(1, 2)


def sdpa_flash(q_BTHd: torch.Tensor, k_BTKd: torch.Tensor, v_BTKd: torch.Tensor) -> torch.Tensor:
    """torch's own FlashAttention-2, and nothing else: torch prefers cuDNN on Hopper unless told."""
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return sdpa(q_BTHd, k_BTKd, v_BTKd)


def sdpa_cudnn(q_BTHd: torch.Tensor, k_BTKd: torch.Tensor, v_BTKd: torch.Tensor) -> torch.Tensor:
    """cuDNN's attention, and nothing else."""
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        return sdpa(q_BTHd, k_BTKd, v_BTKd)


def flash_attn(q_BTHd: torch.Tensor, k_BTKd: torch.Tensor, v_BTKd: torch.Tensor) -> torch.Tensor:
    """The flash-attn package's FlashAttention-2."""
    from flash_attn import flash_attn_func

    out: torch.Tensor = flash_attn_func(q_BTHd, k_BTKd, v_BTKd, causal=True)
    return out


@dataclass(frozen=True, slots=True)
class Request:
    """What attention is needed for."""

    device: str
    dtype: torch.dtype
    head_dim: int
    deterministic: bool


def _needs_cuda_half(request: Request) -> str | None:
    if request.device != "cuda":
        return "it runs on CUDA devices only"
    if request.dtype not in (torch.bfloat16, torch.float16):
        return "it computes in bf16 or fp16 only"
    return "it serves head sizes up to 256" if request.head_dim > 256 else None


def _flash_attn_refusal(request: Request) -> str | None:
    try:  # a hollow installation is found by name and fails only here
        from flash_attn import flash_attn_func  # noqa: F401
    except ImportError as error:
        return f"the package flash-attn does not import: {error}"
    return _needs_cuda_half(request)


def _cudnn_refusal(request: Request) -> str | None:
    return "it is not deterministic" if request.deterministic else _needs_cuda_half(request)


BACKENDS: dict[str, tuple[Attend, Callable[[Request], str | None]]] = {
    "flash-attn": (flash_attn, _flash_attn_refusal),
    "sdpa-flash": (sdpa_flash, _needs_cuda_half),
    "sdpa-cudnn": (sdpa_cudnn, _cudnn_refusal),
    "sdpa": (sdpa, lambda request: None),
}
AUTO = ("flash-attn", "sdpa-flash", "sdpa")


def explain(request: Request) -> dict[str, str | None]:
    """Every backend with the reason it cannot serve `request`, None when it can."""
    return {name: refusal(request) for name, (_, refusal) in BACKENDS.items()}


def choose(name: str, request: Request) -> tuple[str, Attend]:
    """The backend called `name`, or for `auto` the first that serves; ValueError says why one cannot."""
    if name == "auto":
        name = next(candidate for candidate in AUTO if BACKENDS[candidate][1](request) is None)
    if name not in BACKENDS:
        raise ValueError(f"there is no attention called `{name}`; there are: auto, {', '.join(BACKENDS)}")
    reason = BACKENDS[name][1](request)
    if reason is not None:
        raise ValueError(f"attention `{name}` cannot serve here: {reason}")
    return name, BACKENDS[name][0]

"""What the kernels of attention cannot do for a model, as far as no device has to be asked."""

from __future__ import annotations

DENSE = ("sdpa-flash", "sdpa-cudnn")
"""Kernels, by the words of a machine's `attention`, that let every token attend to all before it."""


def attention_lacks(
    kernel: str, *, device: str, head_dim: int, masked: bool, windowed: bool, deterministic: bool
) -> str | None:
    """Why the kernel cannot serve, None where nothing speaks against it; `device` is `cpu`, `cuda` or `auto`.

    `masked` when no token may attend to another document, `windowed` when some layers attend to a sliding window.
    """
    if kernel == "sdpa-cudnn" and deterministic:
        return "it is not deterministic"
    if kernel in DENSE and (masked or windowed):
        return "it cannot keep documents apart" if masked else "it has no sliding windows"
    if kernel in ("auto", "sdpa"):
        return None
    if device not in ("auto", "cuda"):
        return "it runs on CUDA devices only"
    if head_dim % 8:
        return f"it serves head sizes that are multiples of 8, not {head_dim}"
    return f"it serves head sizes up to 256, not {head_dim}" if head_dim > 256 else None

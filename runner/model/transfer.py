"""Copies between the CPU and the device of a model."""

from __future__ import annotations

from collections.abc import Callable

import torch


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """`tensor`, which is on the CPU, on `device`: to a GPU through pinned memory, without waiting for the copy."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def to_host(tensor: torch.Tensor) -> Callable[[], torch.Tensor]:
    """Begin to copy `tensor` to the CPU without waiting for it; what is returned waits, and gives the copy."""
    copy = tensor.detach().to("cpu", non_blocking=True)  # of a GPU's tensor, into pinned memory
    if tensor.device.type != "cuda":
        return lambda: copy
    copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
    copied.record()

    def wait() -> torch.Tensor:
        copied.synchronize()
        return copy

    return wait

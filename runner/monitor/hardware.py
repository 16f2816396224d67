"""What the hardware calls itself and can do: peak FLOP/s by the device's name, instruction sets, bf16 units."""

from __future__ import annotations

import re

import torch

from curriculum.artifacts.jobs import Machine
from runner.parallel.ranks import Ranks

# Dense bf16 with fp32 accumulation, FLOP/s, as in each maker's data sheet (halved where it counts sparsity).
PEAKS: tuple[tuple[str, float], ...] = (
    ("B200", 2250e12),  # NVIDIA HGX B200
    ("GH200", 989.5e12),  # NVIDIA GH200
    ("H200 NVL", 835.5e12),  # NVIDIA H200, NVL column
    ("H200", 989.5e12),  # NVIDIA H200, SXM column
    ("H100 NVL", 835.5e12),  # NVIDIA H100, NVL column
    ("H100 PCIe", 756.5e12),  # NVIDIA H100 PCIe
    ("H100", 989.5e12),  # NVIDIA H100, SXM column
    ("A100", 312e12),  # NVIDIA A100
    ("A40", 149.7e12),  # NVIDIA A40
    ("A10", 125e12),  # NVIDIA A10
    ("L40S", 362e12),  # NVIDIA L40S
    ("L4", 121e12),  # NVIDIA L4
    ("RTX 4090", 165.2e12),  # NVIDIA Ada architecture paper, fp32 accumulation
)


def device_name(device: torch.device) -> str:
    """The device's own name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return processor()[0]


def peak_of(name: str) -> float | None:
    """Dense bf16 FLOP/s of a device by its name; None for one that is not listed, and for processors."""
    for device, flops in PEAKS:
        if re.search(rf"\b{device}\b", name):
            return flops
    return None


def peak_flops(machine: Machine, ranks: Ranks) -> float | None:
    """Peak FLOP/s of one device: the machine file's, else its data sheet's; None where neither gives one."""
    if machine.peak_flops or ranks.device.type == "cpu":
        return machine.peak_flops
    return peak_of(device_name(ranks.device))


def processor() -> tuple[str, frozenset[str]]:
    """The processor's name and its instruction sets, from /proc/cpuinfo."""
    name, flags = "cpu", frozenset[str]()
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                key, _, value = line.partition(":")
                if key.strip() == "model name":
                    name = value.strip()
                if key.strip() in ("flags", "Features"):
                    flags = frozenset(value.split())
                    break
    except OSError:
        return name, flags
    return name, flags


def computes_bf16(device: torch.device) -> str | None:
    """Why bf16 is no faster than fp32 on this device; None where it has units for it."""
    if device.type == "cuda":
        return None if torch.cuda.is_bf16_supported(including_emulation=False) else "the GPU has no bf16 units"
    units = processor()[1] & {"amx_bf16", "avx512_bf16", "bf16"}
    return None if units else "the processor has neither AMX-BF16 nor AVX512-BF16: bf16 is converted back and forth"

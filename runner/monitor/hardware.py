"""What the hardware calls itself and can do: peak FLOP/s by the device's name, instruction sets, bf16 units."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

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


def host_memory() -> tuple[int, int]:
    """Bytes of memory that this process may use, and those of them that are free: the system's or a control group's."""
    with open("/proc/meminfo") as file:
        amounts = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in file}
    return within((amounts["MemTotal"], amounts["MemAvailable"]), _groups())


def within(system: tuple[int, int], groups: Iterable[Path]) -> tuple[int, int]:
    """What is left of the `system`'s memory and of what is free there, in bytes, inside control groups."""
    memory, free = system
    for group in groups:
        limit = _amount(group, "memory.max", "memory.limit_in_bytes")
        if limit is None:
            continue
        used = _amount(group, "memory.current", "memory.usage_in_bytes") or 0
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        cached = int(stat.get("total_inactive_file", stat.get("inactive_file", 0)))
        memory, free = min(memory, limit), min(free, limit - used + cached)
    return memory, max(0, free)


def _groups(groups: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> Iterator[Path]:
    """The control groups that may limit this process's memory, of either version, from the inner to the outer."""
    for line in groups.read_text().splitlines() if groups.exists() else ():
        number, controllers, path = line.split(":", 2)
        if number == "0" or "memory" in controllers.split(","):
            top = root if number == "0" else root / "memory"
            group = top / path.lstrip("/")
            yield from (folder for folder in (group, *group.parents) if folder == top or top in folder.parents)


def _amount(group: Path, *names: str) -> int | None:
    """The number in the first of the files that there is; None for `max` and where there is none."""
    for name in names:
        with contextlib.suppress(OSError, ValueError):
            return int((group / name).read_text())
    return None


def computes_bf16(device: torch.device) -> str | None:
    """Why bf16 is no faster than fp32 on this device; None where it has units for it."""
    if device.type == "cuda":
        return None if torch.cuda.is_bf16_supported(including_emulation=False) else "the GPU has no bf16 units"
    units = processor()[1] & {"amx_bf16", "avx512_bf16", "bf16"}
    return None if units else "the processor has neither AMX-BF16 nor AVX512-BF16: bf16 is converted back and forth"

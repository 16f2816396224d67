"""The `doctor` job: what hardware and libraries a machine has, and whether its machine file can be served."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sysconfig
from pathlib import Path
from typing import Any

import torch

from curriculum import fs
from curriculum.artifacts.jobs import DoctorJob, Machine
from curriculum.artifacts.stage_folder import Attempt
from curriculum.errors import CurriculumError
from curriculum.plan.model import FLOPS_CONVENTION
from runner.model import attention
from runner.monitor import hardware
from runner.parallel import determinism
from runner.parallel.build import compiles, uses_bf16
from runner.parallel.ranks import Ranks

HEAD_DIM = 64  # of TinyLlama; a model's own is checked again when a job begins
PACKAGES = ("torch", "numpy", "safetensors", "triton", "flash-attn")


def doctor(job: DoctorJob, ranks: Ranks, problem: CurriculumError | None = None) -> None:
    """Write `doctor.json`; every rank calls it, since a sum over all ranks is one of the checks.

    `problem` is why these ranks are not on the requested device.
    """
    counted = int(ranks.add(torch.ones((), dtype=torch.int64, device=ranks.device)))
    if not ranks.first:
        return
    report = examine(job.machine, ranks)
    if problem is not None:
        clauses = (problem.hint or "").split("; ")
        hint = "; ".join(clause for clause in clauses if "`curriculum doctor`" not in clause).removeprefix("or ")
        report["problems"].insert(0, _problem(problem.what, hint))
    report["processes"] = {"asked": ranks.size, "counted": counted}
    if counted != ranks.size:
        report["problems"].append(
            _problem(f"{ranks.size} processes counted themselves as {counted}", "look at the network between them")
        )
    fs.write_json(Attempt(Path(job.attempt_folder)).doctor_report, report)


def examine(machine: Machine, ranks: Ranks) -> dict[str, Any]:
    """The report on this process's machine; `problems` is empty when `machine` can be served."""
    device, problems = ranks.device, []
    bf16 = uses_bf16(machine, device)
    kernels, chosen = {}, {}
    for masked in (False, True):
        request = attention.request_of(
            device, bf16=bf16, head_dim=HEAD_DIM, deterministic=machine.deterministic, masked=masked
        )
        kind = "document mask" if masked else "dense"
        kernels[kind] = attention.explain(request)
        try:
            name = attention.choose(machine.attention, request)[0]
            why = "asked for by name" if machine.attention != "auto" else attention.preferences(request)[name]
            chosen[kind] = {"kernel": name, "why": why}
        except ValueError as error:
            if not masked:
                problems.append(_problem(str(error), "choose another `attention`, or `auto`"))
    compiler = why_no_compiler(device)
    if compiles(machine, device) and compiler is not None:
        problems.append(_problem(f"blocks are to be compiled, and {compiler}", "install one, or say `compile: false`"))
    try:
        determinism.check(machine, ranks)
    except CurriculumError as error:
        problems.append(_problem(error.what, error.hint or ""))
    slow = hardware.computes_bf16(device)
    return {
        "versions": {"python": platform.python_version(), **_versions()},
        "device": device.type,
        "devices": _devices(device),
        "attention": {"asked": machine.attention, "chosen": chosen, "kernels": kernels},
        "precision": {
            "asked": machine.precision,
            "chosen": "bf16" if bf16 else "fp32",
            "bf16": "has units of its own" if slow is None else slow,
        },
        "compile": {
            "asked": "auto" if machine.compile is None else machine.compile,
            "chosen": compiles(machine, device),
            "toolchain": compiler or "can compile",
        },
        "memory": _memory(device),
        "exactness": {"asked": machine.exactness, "deterministic": machine.deterministic},
        "peak": _peak(machine, device),
        "problems": problems,
    }


def why_no_compiler(device: torch.device) -> str | None:
    """Why torch.compile cannot work on this device; None when it can."""
    if device.type == "cuda":
        try:
            importlib.metadata.version("triton")
        except importlib.metadata.PackageNotFoundError:
            return "the package triton is not installed"
    compiler = os.environ.get("CXX")
    if not any(shutil.which(command) for command in ([compiler] if compiler else ["g++", "clang++", "c++"])):
        return (
            f"`CXX={compiler}` is not a command"
            if compiler
            else "no C++ compiler is on the PATH (set `CXX` to name one)"
        )
    if device.type == "cpu" and not Path(sysconfig.get_paths()["include"], "Python.h").exists():
        return "Python's headers (Python.h) are not installed"
    return None


def _versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {**versions, "torch": str(torch.__version__), "cuda": torch.version.cuda}  # torch with its build


def _devices(device: torch.device) -> list[dict[str, Any]]:
    name, flags = hardware.processor()
    instructions = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "sve", "bf16")
    devices: list[dict[str, Any]] = [
        {
            "name": name,
            "cores": fs.processors(),
            "threads": torch.get_num_threads(),
            "can": [name for name in instructions if name in flags],
        }
    ]
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(number)
        devices.append(
            {
                "name": properties.name,
                "bytes": properties.total_memory,
                "capability": f"{properties.major}.{properties.minor}",
            }
        )
    return devices


def _memory(device: torch.device) -> dict[str, int]:
    memory = {"bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")}
    if hasattr(os, "sysconf_names") and "SC_AVPHYS_PAGES" in os.sysconf_names:
        memory["free_bytes"] = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        memory |= {"device_bytes": total, "device_free_bytes": free}
    return memory


def _peak(machine: Machine, device: torch.device) -> dict[str, Any]:
    stated = machine.peak_flops
    published = hardware.peak_of(hardware.device_name(device)) if device.type == "cuda" else None
    return {
        "flops": stated or published,
        "from": "the machine file" if stated else "the data sheet" if published else "not known: no MFU is shown",
        "convention": FLOPS_CONVENTION,
    }


def _problem(what: str, hint: str) -> dict[str, str]:
    return {"what": what, "hint": hint}

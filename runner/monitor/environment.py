"""What the bits of an attempt depend on beside the plan: on record, and refused where it changed unasked."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from curriculum import fs
from curriculum.artifacts.environment import describe_changes
from curriculum.artifacts.jobs import Machine, TrainJob
from curriculum.artifacts.stage_folder import Attempt, StageFolder
from curriculum.errors import RunFailed
from runner.monitor import code_digest, hardware
from runner.parallel.ranks import Ranks

ASKED = {"torch", "numpy", "processor", "device", "training_code"}


def compare(job: TrainJob, ranks: Ranks, *, begun: bool) -> dict[str, Any]:
    """This attempt's environment with what of it changed since the previous attempt; the same on every rank.

    RunFailed where a stage that has `begun` would go on with other bits and nobody accepted that.
    """
    told: dict[str, Any] = {}
    if ranks.first:
        told = environment(job.machine, ranks)
        told["changed"] = changed(Attempt(Path(job.attempt_folder)), told)
    told = ranks.agree(told)
    device, folder = ranks.device.type, StageFolder(Path(job.stage_folder))
    asked = check(
        folder.name,
        told["changed"] if begun else {},
        device,
        accept=job.accept_environment,
    )
    return told | {"accepted": asked}


def write(attempt: Attempt, told: Mapping[str, Any]) -> None:
    fs.write_json(attempt.environment, told)


def environment(machine: Machine, ranks: Ranks) -> dict[str, Any]:
    """Versions and hardware that the bits of an attempt depend on."""
    return {
        "code": code_digest.of_everything(),
        "training_code": code_digest.of_training(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "processor": hardware.processor()[0],
        "device": hardware.device_name(ranks.device),
        "threads": torch.get_num_threads(),
        "ranks": ranks.size,
        "exactness": machine.exactness,
        "deterministic": machine.deterministic,
        "precision": machine.precision,
        "sharding": machine.sharding,
        "attention": machine.attention,
        "compile": machine.compile,
    }


def check(stage: str, differing: Mapping[str, list[Any]], device: str, *, accept: bool) -> list[str]:
    """The names of what differs and may change the bits that follow; RunFailed unless that is accepted.

    Number of ranks, threads, precision and the like are what the machine file says on purpose: they are told.
    """
    asked = sorted(ASKED.intersection(differing) - ({"processor"} if device != "cpu" else set()))
    if asked and not accept:
        raise RunFailed(
            f"`{stage}` would resume in another environment than it was trained in: "
            f"{describe_changes({name: differing[name] for name in asked})}; "
            "the steps that follow may come out otherwise",
            hint="restore the environment, or resume with `--accept-environment`, which is kept on record "
            "(`environment: any` in machines.yaml always resumes)",
        )
    return asked


def changed(attempt: Attempt, told: Mapping[str, Any]) -> dict[str, list[Any]]:
    """What of an environment changed since the previous attempt that recorded one: `{name: [then, now]}`."""
    records = (other.environment for other in attempt.previous())
    path = next((path for path in records if path.exists()), None)
    if path is None:
        return {}
    try:
        known = json.loads(fs.read_bytes(path))
    except ValueError:
        return {}
    differing = {
        key: [known[key], value] for key, value in told.items() if key in known and known[key] != value
    }
    if code_digest.equivalent(*differing.get("training_code", ["", ""])):
        del differing["training_code"]
    return differing

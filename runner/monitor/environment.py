"""The environment of an attempt, on which its bits depend besides the plan: recorded, and compared on resuming."""

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

CONSENT = {"torch", "numpy", "processor", "device", "training_code"}
"""What may change the bits of the following steps, so that a change of it needs consent."""


def compare(job: TrainJob, ranks: Ranks, *, resumed: bool) -> dict[str, Any]:
    """This attempt's environment with its changes since the previous attempt; the same on every rank.

    RunFailed where a resumed stage would continue with other bits without consent.
    """
    record: dict[str, Any] = {}
    if ranks.first:
        record = environment(job.machine, ranks)
        record["changed"] = changes(Attempt(Path(job.attempt_folder)), record)
    record = ranks.agree(record)
    stage, changed = StageFolder(Path(job.stage_folder)).name, record["changed"] if resumed else {}
    accepted = check(stage, changed, ranks.device.type, accept=job.accept_environment)
    return record | {"accepted": accepted}


def write(attempt: Attempt, record: Mapping[str, Any]) -> None:
    fs.write_json(attempt.environment, record)


def environment(machine: Machine, ranks: Ranks) -> dict[str, Any]:
    """Versions and hardware that the bits of an attempt depend on."""
    return {
        "code": code_digest.all_code(),
        "training_code": code_digest.training_code(),
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


def check(stage: str, changed: Mapping[str, list[Any]], device: str, *, accept: bool) -> list[str]:
    """The names of changes that may change the following bits; RunFailed unless these are accepted.

    The number of ranks, threads, precision and the like are set on purpose in the machine file: they are reported only.
    """
    names = sorted(CONSENT.intersection(changed) - ({"processor"} if device != "cpu" else set()))
    if names and not accept:
        raise RunFailed(
            f"`{stage}` would resume in another environment than it was trained in: "
            f"{describe_changes({name: changed[name] for name in names})}; "
            "the steps that follow may come out differently",
            hint="restore the environment, or resume with `--accept-environment`, which is kept on record "
            "(`environment: any` in machines.yaml always resumes)",
        )
    return names


def changes(attempt: Attempt, record: Mapping[str, Any]) -> dict[str, list[Any]]:
    """What of an environment changed since the previous attempt that recorded one: `{name: [then, now]}`."""
    paths = (other.environment for other in attempt.previous())
    path = next((path for path in paths if path.exists()), None)
    if path is None:
        return {}
    try:
        earlier = json.loads(fs.read_bytes(path))
    except ValueError:
        return {}
    changed = {key: [earlier[key], value] for key, value in record.items() if key in earlier and earlier[key] != value}
    if code_digest.equivalent(*changed.get("training_code", ["", ""])):
        del changed["training_code"]
    return changed

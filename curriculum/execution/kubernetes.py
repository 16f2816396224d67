"""A run on Kubernetes, rendered: the JobSet whose pods are the nodes that run the same command."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import yaml

from curriculum import fs
from curriculum.errors import PlanError
from curriculum.execution.request import RunRequest
from curriculum.launchers import kubernetes


def manifest(request: RunRequest) -> str:
    """The JobSet as YAML; PlanError where Kubernetes does not allow its name."""
    machine, document = request.machine_entry, request.project.machines_document
    try:
        name = kubernetes.name(machine, request.curriculum, request.size)
    except PlanError as error:
        paths = [(request.machine, "kubernetes", "name"), (request.machine, "kubernetes")]
        place = document.place(next(path for path in paths if path in document))
        raise PlanError(error.what, place=place, hint=error.hint) from None
    jobset = kubernetes.manifest(name, _command(request, request.address or kubernetes.first_node(name)), machine)
    return yaml.safe_dump(jobset, sort_keys=False).rstrip()


def write(request: RunRequest, path: Path) -> None:
    """Write the JobSet to `path`, in place of what is there."""
    fs.write_bytes(path, f"{manifest(request)}\n".encode(), replace=True)


def outline(request: RunRequest) -> Iterator[str]:
    """The JobSet that `write` would write, as lines."""
    yield f"one JobSet of {request.machine_entry.nodes} pods, which `--render FILE` writes:"
    yield from (f"  {line}" for line in manifest(request).splitlines())


def require_launcher(request: RunRequest) -> None:
    """PlanError unless the machine is one whose runs are rendered."""
    if request.is_rendered:
        return
    launcher = request.machine_entry.launcher
    hint = "without `--render`, `curriculum run` starts it; a JobSet is written with `launcher: kubernetes`"
    if launcher == "kubernetes":
        what, hint = "`--render` is of all nodes, and `--node-rank` is that of one", "leave one of the two out"
        raise PlanError(what, hint=hint)
    document = request.project.machines_document
    path = (request.machine, "launcher")
    place = document.place(path if path in document else (request.machine,))
    raise PlanError(f"`--render` is of Kubernetes, and `launcher` is {launcher}", place=place, hint=hint)


def not_started_here(request: RunRequest) -> PlanError:
    """The refusal of a run that only pods can do."""
    command = f"curriculum run {request.curriculum}{request.project.options(request.size, request.machine)}"
    return PlanError(
        f"machine `{request.machine}` is a cluster of Kubernetes, and this command starts nothing there",
        place=request.project.machines_document.place((request.machine, "launcher")),
        hint=f"`{command} --render jobset.yaml`, then `kubectl apply -f jobset.yaml`",
    )


def _command(request: RunRequest, first_node: str) -> list[str]:
    """The command of a run on several nodes, with the options of this one."""
    options = {"size": request.size, "machine": request.machine, "nproc-per-node": request.processes}
    if request.profile:
        first = request.profile["from_step"]
        options["profile-steps"] = f"{first}:{first + request.profile['steps']}"
    options |= {"node-rank": f"$({kubernetes.NODE_RANK})", "master-addr": first_node}
    words = ["curriculum", "run", request.curriculum]
    for name, value in options.items():
        words += [f"--{name}", str(value)] if value is not None else []
    flags = {"--accept-change": request.accept_change, "--accept-environment": request.accept_environment}
    return words + [flag for flag, is_set in flags.items() if is_set]

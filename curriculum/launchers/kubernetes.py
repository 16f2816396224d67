"""The JobSet of Kubernetes that runs one command in a pod for each node of a machine.

It is rendered, never sent: one indexed Job, whose pods find the first by its DNS name. In each pod the command starts
torchrun as on nodes without a scheduler. The API: https://jobset.sigs.k8s.io, version v1alpha2.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from curriculum.config import MachineEntry
from curriculum.config.fields import LONGEST_LABEL
from curriculum.errors import PlanError

NODE = "node"
NODE_RANK = "NODE_RANK"
INDEX = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
RANDOM_SUFFIX = "-abcde"  # of that length Kubernetes adds one to the name of a pod


def name(machine: MachineEntry, curriculum: str, size: str) -> str:
    """The JobSet's name: as the machine states it, else of the curriculum and the size.

    PlanError where it is no label of RFC 1035, or the names of its pods would be too long.
    """
    assert machine.kubernetes is not None
    chosen = machine.kubernetes.name or re.sub("[^a-z0-9]+", "-", f"{curriculum}-{size}").strip("-")
    most = LONGEST_LABEL - len(f"-{NODE}-0-{machine.nodes - 1}{RANDOM_SUFFIX}")
    if not chosen[0].isalpha() or len(chosen) > most:
        raise PlanError(
            f"`{chosen}` cannot be the name of a JobSet of {machine.nodes} pods",
            hint=f"`kubernetes: {{name: …}}` of at most {most} characters, the first a letter: the names of its pods "
            f"are longer, and have {LONGEST_LABEL} characters at most",
        )
    return chosen


def first_node(jobset: str) -> str:
    """Where the pods of a JobSet find the first of them."""
    return f"{jobset}-{NODE}-0-0.{jobset}"


def manifest(jobset: str, command: Sequence[str], machine: MachineEntry) -> dict[str, Any]:
    """The JobSet named `jobset`, its `command` the same in every pod: `$(NODE_RANK)` in it is the pod's number."""
    entry = machine.kubernetes
    assert entry is not None
    resources = dict(entry.resources)
    if machine.gpus_per_node:
        resources[entry.gpu] = str(machine.gpus_per_node)
    container = {
        "name": NODE,
        "image": entry.image,
        "command": list(command),
        "workingDir": entry.folder,
        "env": [{"name": NODE_RANK, "valueFrom": {"fieldRef": {"fieldPath": INDEX}}}],
        "resources": {"limits": resources},  # what is asked for is the same unless it is stated
        "volumeMounts": [
            {"name": "project", "mountPath": entry.folder},
            {"name": "shared-memory", "mountPath": "/dev/shm"},  # noqa: S108
        ],
    }
    pod = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": machine.grace,
        "containers": [container],
        "volumes": [
            {"name": "project", "persistentVolumeClaim": {"claimName": entry.volume}},
            # 64 MB, the default, are too few for what processes of one node exchange
            {"name": "shared-memory", "emptyDir": {"medium": "Memory"}},
        ],
    }
    job = {
        "completionMode": "Indexed",
        "completions": machine.nodes,
        "parallelism": machine.nodes,
        "backoffLimit": 0,  # a pod that is lost fails the Job, and the JobSet starts all of them again
        "template": {"spec": pod},
    }
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {"name": jobset, **({"namespace": entry.namespace} if entry.namespace else {})},
        "spec": {
            "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True},
            "failurePolicy": {"maxRestarts": entry.max_restarts},
            "replicatedJobs": [{"name": NODE, "replicas": 1, "template": {"spec": job}}],
        },
    }

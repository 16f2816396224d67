"""torchrun across nodes, started by hand on each: the first node leads, the others join what it announces.

The rendezvous is static: an address, a port, a number for each node. The first node announces each launch in
the attempt's folder, which all nodes see; a node that joined an attempt leaves it when a newer one is announced.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from curriculum import fs
from curriculum.artifacts.stage_folder import Attempt
from curriculum.errors import PlanError, RunFailed
from curriculum.launchers.process import Launcher, torchrun_words

PORT = 29_500
TORCHRUN_WAITS_LONGER = 120


@dataclass(frozen=True, kw_only=True)
class TorchrunLauncher(Launcher):
    """torchrun on one of several nodes; `join_limit` in seconds."""

    nodes: int
    node_rank: int
    address: str
    join_limit: int = 600

    def __post_init__(self) -> None:
        if not 0 <= self.node_rank < self.nodes:
            raise PlanError(
                f"there is no node {self.node_rank} among {self.nodes}",
                hint=f"`--node-rank` counts from 0 to {self.nodes - 1}",
            )

    def command(self, job: Path) -> list[str]:
        host, port = host_and_port(self.address)
        return [
            sys.executable,
            "-m",
            "torch.distributed.run",
            f"--nnodes={self.nodes}",
            f"--node-rank={self.node_rank}",
            f"--master-addr={host}",
            f"--master-port={port}",
            f"--nproc-per-node={self.processes}",
            # longer than our own limit, whose message says more
            f"--rdzv-conf=timeout={self.join_limit + TORCHRUN_WAITS_LONGER}",
            "--max-restarts=0",
            *torchrun_words(self.trainer, job),
        ]

    def announce(self, attempt: Attempt) -> None:
        fs.write_json(attempt.announcement, {"nodes": self.nodes, "address": self.address})

    def check(self, attempt: Attempt, seconds: float) -> None:
        absent = [number for number in range(1, self.nodes) if not attempt.node_log(number).exists()]
        if not absent or seconds < self.join_limit:
            return
        host, port = host_and_port(self.address)
        nodes = f"node {absent[0]} has" if len(absent) == 1 else f"nodes {', '.join(map(str, absent))} have"
        raise RunFailed(
            f"{nodes} not joined within {seconds:.0f} seconds: {self.nodes} nodes meet at {host}:{port}",
            hint="run the same command there with its own `--node-rank`, or set fewer `nodes:` in machines.yaml "
            "(`join_limit:` is how long the first node waits); nothing is lost: the same command resumes",
        )


def host_and_port(address: str) -> tuple[str, int]:
    """`host` or `host:port` as both; PlanError for anything else."""
    host, colon, port = address.partition(":")
    if not host or (colon and not (port.isdecimal() and 0 < int(port) < 65536)):
        raise PlanError(f"`{address}` is not the address of a node", hint="as in `node001` or `10.0.0.1:29500`")
    return host, int(port) if colon else PORT

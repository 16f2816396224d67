"""torchrun across nodes, started by hand on each: two of them, both this machine, and one loses its process."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from pathlib import Path

import commands
import pytest
from projects import TRUNK
from slurm_cluster import free_ports, wait_for

pytestmark = pytest.mark.processes

MACHINES = """\
boxes: {launcher: torchrun, nodes: 2, device: cpu, threads: 1}
"""
STAGES = (
    "every: {evaluate: 51200 tokens, checkpoint: 5120 tokens}\n"
    "stages:\n  - {name: basic, until: 51200, mixture: prose-only, batch: 8 sequences}\n"
)


def begin(root: Path, *words: str, log: Path, fresh: bool = False) -> commands.Started:
    with log.open("ab") as file:
        return commands.start(
            *("run", "trunk", "--size", "full", *words),
            folder=root,
            environment={**os.environ, "OMP_NUM_THREADS": "1"},
            out=file.fileno(),
            err=file.fileno(),
            fresh=fresh,
        )


def process_of_rank(number: int, root: Path) -> int | None:
    """Of a node that was started fresh."""
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (path / "cmdline").read_bytes().split(b"\0")
            mine = b"runner" in words and any(str(root).encode() in word for word in words)
            if mine and f"RANK={number}".encode() in (path / "environ").read_bytes().split(b"\0"):
                return int(path.name)
    return None


@pytest.mark.promise("Nodes started by hand join the same launches and survive the loss of one")
def test_two_nodes_started_by_hand_join_the_same_launches_and_survive_the_loss_of_one(
    tmp_path: Path, finished: Path
) -> None:
    far = Path(shutil.copytree(finished, tmp_path / "far", ignore=shutil.ignore_patterns("runs")))
    (far / "stages" / "trunk.yaml").write_text(
        TRUNK.partition("every:")[0].replace("horizon: 12288", "horizon: 51200") + STAGES
    )
    (far / "stages" / "variant.yaml").unlink()
    (far / "mixtures" / "prose-only.yaml").write_text("weights: {prose: 1}\npasses: {prose: 100}\n")
    (far / "machines.yaml").write_text(MACHINES)
    boxes = ("--machine", "boxes", "--master-addr", f"127.0.0.1:{free_ports(1)[0]}")
    logs = [tmp_path / f"node{number}.log" for number in range(2)]
    # the node that is lost is started as a person does, the one that leads is forked
    nodes = [
        begin(far, *boxes, "--node-rank", str(number), log=log, fresh=number == 1) for number, log in enumerate(logs)
    ]
    stage = far / "runs" / "full" / "trunk" / "basic"
    try:
        wait_for("a checkpoint", lambda: list(stage.glob("checkpoints/g0-*/manifest.json")), 120)
        lost = process_of_rank(1, far)
        assert lost is not None
        os.kill(lost, signal.SIGKILL)
        second = begin(far, *boxes, "--node-rank", "0", log=tmp_path / "second.log")
        assert [node.wait(240) for node in nodes] == [0, 0], "".join(log.read_text() for log in logs)
        assert second.wait(60) == 2
    finally:
        for node in nodes:
            node.kill()
    assert "leading trunk on several nodes is held by another process" in (tmp_path / "second.log").read_text()
    assert len(list(stage.glob("attempts/*/nodes.json"))) == 2, "one launch before the loss, one after it"
    assert (stage / "DONE").exists()


@pytest.mark.promise("A node that never joins is named")
def test_a_node_that_never_comes_is_named_with_the_address_and_how_long_it_was_waited_for(
    tmp_path: Path, finished: Path
) -> None:
    far = Path(shutil.copytree(finished, tmp_path / "far", ignore=shutil.ignore_patterns("runs")))
    (far / "machines.yaml").write_text(MACHINES.replace("nodes: 2", "nodes: 4, join_limit: 3"))
    port = free_ports(1)[0]
    log = tmp_path / "log"
    words = ("--machine", "boxes", "--master-addr", f"127.0.0.1:{port}", "--node-rank", "0")
    assert begin(far, *words, log=log, fresh=True).wait(120) == 1
    said = " ".join(log.read_text().split())
    assert "nodes 1, 2, 3 have not joined within 3 seconds: 4 nodes meet at" in said
    assert f"127.0.0.1:{port}" in said
    assert "the same command resumes" in said
    assert "Traceback" not in said
    assert process_of_rank(0, far) is None

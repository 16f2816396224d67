"""The rehearsal's stages, shortened, as chains of jobs on a real Slurm: killed, queued again, on two nodes, on one.

What comes out is compared, bit by bit, with the same stages trained here by the same number of processes.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_cluster import ask, begin_again, both_idle, bring_back, lose, queue, wait_for
from slurm_runs import HEAD, Here, done

STAGES = {
    "trunk": HEAD
    + "every: {evaluate: 61440 tokens, checkpoint: 5120 tokens}\n"
    + "stages:\n"
    + "  - {name: basic, until: 56320, mixture: prose-only, batch: 8 sequences}\n",
    "variant": "about: on two nodes\nfrom: trunk/basic\n"
    "stages:\n  - {name: continual, until: 97280, mixture: mixed, ramp: 1536 tokens}\n",
    "last": "about: started on two nodes, ended on one\nfrom: variant/continual\n"
    "stages:\n  - {name: cooldown, until: 209920, batch: 16 sequences}\n",
}
MACHINES = """\
local: {launcher: process, device: cpu, threads: 1}
pair: {launcher: torchrun, processes: 2, device: cpu, threads: 1, sharding: full}
exact: {launcher: process, device: cpu, threads: 1, exactness: canonical, micro_batch: 8}
one: {launcher: slurm, device: cpu, threads: 1}
two: {launcher: slurm, nodes: 2, device: cpu, threads: 1, sharding: full, address: 127.0.0.1,
      slurm: {partition: main}}
two-exact: {launcher: slurm, nodes: 2, device: cpu, threads: 1, address: 127.0.0.1,
            exactness: canonical, micro_batch: 8}
one-exact: {launcher: slurm, device: cpu, threads: 1, exactness: canonical, micro_batch: 8}
nowhere: {launcher: slurm, device: cpu, threads: 1, slurm: {partition: gpu}}
"""


@pytest.fixture(scope="module")
def both(slurm: Path, finished: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Here, Here]:
    """The same project twice, with text that is prepared: one trained on Slurm, one here."""
    root = tmp_path_factory.mktemp("both") / "far"
    shutil.copytree(finished, root, ignore=shutil.ignore_patterns("runs"))
    for path in (root / "stages").iterdir():
        path.unlink()
    for name, text in STAGES.items():
        (root / "stages" / f"{name}.yaml").write_text(text)
    for name in ("prose-only", "mixed"):
        with (root / "mixtures" / f"{name}.yaml").open("a") as file:
            file.write("passes: {prose: 100, code: 100}\n" if name == "mixed" else "passes: {prose: 100}\n")
    (root / "machines.yaml").write_text(MACHINES)
    far = Here(root)
    near = Here(root.parent / "near")
    shutil.copytree(far.root, near.root)
    return far, near


@pytest.mark.promise(
    "A stop cancels queued jobs; an unknown partition is refused before anything is prepared; nothing is queued twice"
)
def test_a_partition_that_does_not_exist_is_refused_with_those_that_do_and_nothing_is_queued(
    both: tuple[Here, Here],
) -> None:
    far, _ = both
    said = far.run("trunk", "nowhere", refused=True)
    assert "Slurm has no partition `gpu`" in said
    assert "machines.yaml:10:" in said
    assert "there are: main" in said
    assert not (far.root / "runs").exists()


@pytest.mark.promise(
    "A Slurm chain survives a killed rank, a requeue and a lost node, with the local run's weights (on a "
    "real one-machine Slurm)"
)
def test_a_chain_of_jobs_survives_a_kill_a_requeue_and_a_lost_node_and_gives_the_same_weights(
    both: tuple[Here, Here],
) -> None:
    far, near = both
    meanwhile = near.begin("run", "variant", "--size", "full", "--machine", "pair")
    # One command queues both stages, the second behind the first; saying it again queues nothing more.
    said = far.run("variant", "two")
    basic, continual = far.job("trunk/basic"), far.job("variant/continual")
    assert f"trunk/basic  Slurm job {basic}\nvariant/continual  Slurm job {continual}, after job {basic}\n" in said
    assert far.run("variant", "two").count("left as it is") == 2
    assert far.state("variant/continual") == ("queued", f"Slurm job {continual} waits: Dependency")

    # A rank is killed: the job begins a fresh attempt by itself.
    wait_for("a checkpoint", lambda: far.saved("trunk/basic"))
    os.kill(int(json.loads((far.stage("trunk/basic") / "lock").read_bytes())["pid"]), signal.SIGKILL)
    wait_for("a second attempt", lambda: far.attempts("trunk/basic") == 2)

    # Another launcher on the same run is refused, with the reason.
    said = far.run("trunk", "local", refused=True)
    assert f"`trunk/basic` is not free: Slurm job {basic} on n[1-2]" in said

    # Slurm warns the job, as before a time limit: it saves, queues itself again, and continues from there.
    before = far.newest("trunk/basic")
    wait_for("the second attempt to save", lambda: far.newest("trunk/basic") > before)
    ask("scancel", "--signal=USR1", "--batch", basic)
    begin_again(basic)
    assert "saved; asks to be queued again" in far.logs()
    outcome = json.loads((far.stage("trunk/basic") / "attempts" / "0002" / "outcome.json").read_bytes())
    assert outcome["outcome"] == "stopped"
    done(far, "trunk/basic")
    assert far.attempts("trunk/basic") == 3

    # A node is lost in the middle of a stage.
    wait_for("both nodes to begin", lambda: far.attempts("variant/continual"))
    assert far.state("variant/continual") == ("running", f"Slurm job {continual} on n[1-2]")
    wait_for("both nodes to save", lambda: far.saved("variant/continual"))
    lose("n2", continual)
    assert not (far.stage("variant/continual") / "DONE").exists()
    begin_again(continual)
    done(far, "variant/continual")
    assert far.attempts("variant/continual") == 2

    assert meanwhile.wait(120) == 0
    for name in ("trunk/basic", "variant/continual"):
        assert far.weights(name) == near.weights(name), name


def test_a_job_that_is_stopped_saves_and_the_same_command_goes_on_with_another_number_of_nodes(
    both: tuple[Here, Here],
) -> None:
    far, near = both
    meanwhile = near.begin("run", "last", "--size", "full", "--machine", "exact")
    far.run("last", "two-exact")
    first = far.job("last/cooldown")
    wait_for("a checkpoint", lambda: far.saved("last/cooldown"))
    assert f"asked Slurm job {first} to save and end" in far.say("stop", "last", "--size", "full")
    wait_for("the job to end", lambda: queue(first) == "FAILED")
    assert far.state("last/cooldown") == ("started", f"Slurm job {first} saved and ended")
    position = far.newest("last/cooldown")
    assert 97280 < position < 209920

    far.run("last", "one-exact")
    assert far.job("last/cooldown") != first
    done(far, "last/cooldown")
    assert far.state("last/cooldown") == ("done", "")
    assert far.at("last/cooldown") == 209920

    assert meanwhile.wait(120) == 0
    assert far.weights("last/cooldown") == near.weights("last/cooldown")


@pytest.mark.promise(
    "A stop cancels queued jobs; an unknown partition is refused before anything is prepared; nothing is queued twice"
)
def test_what_waits_leaves_the_queue_when_stopped_and_a_run_in_another_place_is_not_disturbed(
    both: tuple[Here, Here],
) -> None:
    far, _ = both
    wait_for("two idle nodes", both_idle)
    shutil.rmtree(far.stage("last"))
    for node in ("n1", "n2"):
        ask("scontrol", "update", f"NodeName={node}", "State=DRAIN", "Reason=test")
    far.run("last", "two")
    state, words = far.state("last/cooldown")
    assert (state, "waits" in words) == ("queued", True)
    job = far.job("last/cooldown")
    # The files are edited meanwhile: what is queued would no longer be what they say.
    stage = far.root / "stages" / "last.yaml"
    text = stage.read_text()
    stage.write_text(text.replace("16 sequences", "32 sequences"))
    assert "another plan" in far.run("last", "two", refused=True)
    stage.write_text(text)
    assert f"took Slurm job {job} out of the queue" in far.say("stop", "last", "--size", "full")
    assert queue(job) == "CANCELLED"
    assert far.state("last/cooldown") == ("started", "")
    bring_back("n1", "n2")


@pytest.fixture(autouse=True)
def no_job_is_left(slurm: Path) -> Iterator[None]:
    """A job of a test that failed would hold the nodes of the next."""
    yield
    subprocess.run(["scancel", "--user=root"], check=False)

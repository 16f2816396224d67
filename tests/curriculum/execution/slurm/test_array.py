"""Several curricula on a real Slurm: a job for what they share, one array for the rest, the same weights."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from slurm_cluster import ask, begin_again, queue, wait_for
from slurm_runs import HEAD, Here, done

STAGE = "  - {name: continual, until: 81920, mixture: mixed, ramp: 1536 tokens%s}\n"
STAGES = {
    "trunk": HEAD
    + "every: {evaluate: 61440 tokens, checkpoint: 5120 tokens}\n"
    + "stages:\n"
    + "  - {name: basic, until: 40960, mixture: prose-only, batch: 8 sequences}\n",
    "one": "from: trunk/basic\nstages:\n" + STAGE % "" + "  - {name: cooldown, until: 102400, batch: 16 sequences}\n",
    "two": "from: trunk/basic\nstages:\n" + STAGE % ", data_seed: 2",
    "three": "from: trunk/basic\nstages:\n" + STAGE.replace("81920", "163840") % ", data_seed: 3",
}
MACHINES = """\
local: {launcher: process, device: cpu, threads: 1, workers: 2}
far: {launcher: slurm, device: cpu, threads: 1, workers: 3}
"""
NAMES = ("one", "two", "three")
STUDY = """\
from: trunk/basic
tokens: 1024
learning_rate: {to: 0}
vary: {add: {sources: [code], share: 30%}}
goal: {lower: {code: 1}}
controls: [kept]
replicates: 1
drop: at 50%
"""


@pytest.mark.promise("On Slurm `run A B C` is a job for what they share and one array, with the local run's weights")
def test_an_array_behind_the_shared_job_survives_a_requeue_and_a_stop_and_gives_the_same_weights(
    slurm: Path, finished: Path, tmp_path: Path
) -> None:
    far, near = Here(tmp_path / "far"), Here(tmp_path / "near")
    shutil.copytree(finished, far.root, ignore=shutil.ignore_patterns("runs"))
    for path in (far.root / "stages").iterdir():
        path.unlink()
    for name, text in STAGES.items():
        (far.root / "stages" / f"{name}.yaml").write_text(text)
    for name in ("prose-only", "mixed"):
        with (far.root / "mixtures" / f"{name}.yaml").open("a") as file:
            file.write("passes: {prose: 100, code: 100}\n" if name == "mixed" else "passes: {prose: 100}\n")
    (far.root / "machines.yaml").write_text(MACHINES)
    shutil.copytree(far.root, near.root)

    command = ("run", *NAMES, "--size", "full", "--machine", "far")
    outline = far.say(*command, "--dry-run")
    assert "#SBATCH --array=0-2%3" in outline
    said = far.say(*command)
    basic, array = far.job("trunk/basic"), far.job("one/continual").partition("_")[0]
    assert f"trunk/basic  Slurm job {basic}\n" in said
    assert f"one/cooldown  Slurm job {array}_0, after job {basic}\n" in said
    assert f"three/continual  Slurm job {array}_2, after job {basic}\n" in said
    state, words = far.state("two/continual")
    assert (state, words.partition(":")[0]) == ("queued", f"Slurm job {array}_1 waits")
    assert far.say(*command).count("left as it is") == 5
    done(far, "trunk/basic")

    # one element is warned, as before a time limit: it saves and queues itself again; another is stopped by its name
    wait_for("a checkpoint of three", lambda: far.saved("three/continual"))
    ask("scancel", "--signal=USR1", "--batch", f"{array}_2")
    begin_again(f"{array}_2")
    done(far, "two/continual")
    wait_for("a second attempt", lambda: far.attempts("three/continual") == 2)
    wait_for("it to save", lambda: far.newest("three/continual") > 0)
    assert f"asked Slurm job {array}_2 to save and end" in far.say("stop", "three", "--size", "full")
    wait_for("the element to end", lambda: queue(f"{array}_2") in ("FAILED", ""))
    done(far, "one/cooldown")
    assert not (far.stage("three/continual") / "DONE").exists()
    said = far.say(*command)
    assert far.job("three/continual").partition("_")[0] != array
    done(far, "three/continual")
    wait_for("its job to leave the queue", lambda: queue(far.job("three/continual")) in ("COMPLETED", ""))
    assert "every stage of one, two, three is done" in far.say(*command)

    near.say("run", *NAMES, "--size", "full")
    for name in ("trunk/basic", "one/continual", "one/cooldown", "two/continual", "three/continual"):
        assert far.weights(name) == near.weights(name), name

    # behind the arms of a study a job submits what follows them: of arms that may be dropped, those that go on
    (far.root / "studies").mkdir()
    (far.root / "studies/new.yaml").write_text(STUDY)
    command = ("run", "new", "--size", "full", "--machine", "far")
    assert "--dependency=afterany:JOBS-OF-ARMS" in far.say(*command, "--dry-run")
    said = far.say(*command)
    array = far.job("new/annealed.kept").partition("_")[0]
    assert f"what follows in new  Slurm job {far.job('new')}, once job {array} has ended\n" in said
    assert f"what follows: Slurm job {far.job('new')} waits" in far.say("status", "new", "--size", "full")
    done(far, "new/kept")
    done(far, "new/add-code")
    assert far.job("new/kept").partition("_")[0] not in (array, far.job("new"))

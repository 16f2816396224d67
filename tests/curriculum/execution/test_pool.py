"""Several curricula by one command: what they share is trained once, and each ends as it does alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import commands
import pytest
from projects import TRUNK, VARIANT, BuiltOnce, with_files

from curriculum.artifacts import checkpoints
from curriculum.artifacts.stage_folder import StageFolder, attempts_in

FULL = ("--size", "full")
PAIR = ("twin", "second")
NAMES = ("trunk", "twin", "second")
REPLICATE = VARIANT.partition("  - {name: cooldown")[0].replace("1536 tokens", "1536 tokens, data_seed: 2")
OWN = ("trunk/continual", "trunk/cooldown", "twin/continual", "twin/cooldown", "second/continual")
Curriculum = Callable[..., "subprocess.CompletedProcess[str]"]

pytestmark = pytest.mark.promise(
    "`run A B C` trains what they share once, each with the bits of a run alone; one that fails is set aside"
)


def with_variants(finished: Path, project: Path) -> Path:
    """`finished`, where trunk/basic and variant are trained, with two more variants."""
    return with_files(finished, project, {"stages/twin.yaml": VARIANT, "stages/second.yaml": REPLICATE})


@pytest.fixture(scope="session")
def pooled(built_once: BuiltOnce, finished: Path) -> Path:
    """trunk, twin and second by one command, beside `finished`; read only."""

    def build(project: Path) -> None:
        with_variants(finished, project)
        done = commands.run("run", *NAMES, *FULL, folder=project, check=True)
        (project / "said.txt").write_text(done.stdout)

    return built_once("pooled", build)


def folder(project: Path, stage: str) -> StageFolder:
    return StageFolder(project / "runs/full" / stage)


def weights(project: Path, stage: str) -> dict[str, bytes]:
    """The bytes of a stage's last checkpoint by file, without what names the stage."""
    last = checkpoints.latest(folder(project, stage))
    assert last is not None
    return {path.name: path.read_bytes() for path in last.path.glob("*.safetensors")}


def test_what_is_shared_is_trained_once_and_each_ends_with_the_bits_of_a_run_alone(pooled: Path) -> None:
    assert [path.name for path in sorted((pooled / "runs/full/trunk/basic/attempts").iterdir())] == ["0001"]
    for name in OWN:
        assert folder(pooled, name).done.exists(), name
    for stage in ("continual", "cooldown"):
        assert weights(pooled, f"twin/{stage}") == weights(pooled, f"variant/{stage}")
    assert weights(pooled, "second/continual") != weights(pooled, "variant/continual")


def test_short_stages_are_trained_by_one_process_with_a_log_and_an_outcome_each(pooled: Path) -> None:
    lists = [path.read_text().split() for path in pooled.rglob("attempts/*/each.txt")]
    assert max(map(len, lists)) == 2
    for line in (line for each in lists for line in each):
        attempt = pooled / "runs" / line.partition("/runs/")[2].rpartition("/")[0]
        assert json.loads((attempt / "outcome.json").read_bytes())["outcome"] == "done"
        assert (attempt / "rank0.log").exists()


def test_one_table_shows_how_each_ended(pooled: Path) -> None:
    table = (pooled / "said.txt").read_text().split("last held-out loss")[1]
    for name in NAMES:
        row = next(line for line in table.splitlines() if line.startswith(name))
        end = "9,216" if name == "second" else "12,288"
        assert row.split()[:4] == [name, "done", end, end]


def test_the_same_command_again_starts_nothing(pooled: Path, curriculum: Curriculum) -> None:
    before = sorted(pooled.rglob("attempts/*"))
    curriculum(pooled, "run", *NAMES, *FULL)
    assert sorted(pooled.rglob("attempts/*")) == before


def test_a_dry_run_says_what_is_shared_and_what_each_worker_has(pooled: Path, curriculum: Curriculum) -> None:
    said = curriculum(pooled, "run", *NAMES, "variant", *FULL, "--dry-run").stdout.splitlines()
    assert said[0] == "trunk/basic is done at 6,144 tokens, once for trunk, twin, second, variant"
    assert said[1] == "then 2 at a time, each with 1 thread:"
    assert said[-1].startswith("  variant: variant/continual is done at 9,216 tokens; variant/cooldown is done")


def test_a_curriculum_that_fails_is_set_aside_and_the_same_command_goes_on_once_that_is_mended(
    finished: Path, tmp_path: Path, curriculum: Curriculum
) -> None:
    project = with_variants(finished, tmp_path / "project")
    (shard,) = project.glob("data/code/*/train/*.ds")
    kept = shard.read_bytes()
    shard.write_bytes(kept[:-64])
    failed = curriculum(project, "run", "twin", "trunk", *FULL, check=False)
    assert failed.returncode == 1
    (listed,) = project.glob("runs/full/twin/continual/attempts/*/each.txt")
    assert len(listed.read_text().split()) == 2  # the one that fails comes first, in the same process
    assert "twin: set aside, the others go on: " in failed.stdout
    assert "twin was set aside:\nerror: " in failed.stderr
    assert folder(project, "trunk/cooldown").done.exists()
    assert not folder(project, "twin/continual").done.exists()
    shard.write_bytes(kept)
    curriculum(project, "run", "twin", "trunk", *FULL)
    assert weights(project, "twin/cooldown") == weights(project, "variant/cooldown")


def with_two_trunks(finished: Path, project: Path) -> Path:
    """`finished` with twin and second of its trained trunk, and far and near of one under another seed."""
    far = VARIANT.replace("trunk/basic", "other/basic")
    near = REPLICATE.replace("trunk/basic", "other/basic")
    files = {
        "other": TRUNK.replace("seed: 7", "seed: 8"),
        "far": far,
        "near": near,
        "twin": VARIANT,
        "second": REPLICATE,
    }
    return with_files(finished, project, {f"stages/{name}.yaml": text for name, text in files.items()})


@pytest.mark.promise("A stage that some of several curricula share is trained beside those that do not wait for it")
def test_what_some_share_is_trained_once_beside_those_that_do_not_go_through_it(
    finished: Path, tmp_path: Path, curriculum: Curriculum
) -> None:
    project = with_two_trunks(finished, tmp_path / "project")
    names = ("far", "near", *PAIR)
    said = curriculum(project, "run", *names, *FULL, "--dry-run").stdout.splitlines()
    assert said[0] == "then 2 at a time, each with 1 thread:"
    assert "  other/basic 0 -> 6,144 tokens, once for far, near" in said
    curriculum(project, "run", *names, *FULL)
    assert [path.name for path in (project / "runs/full/other/basic/attempts").iterdir()] == ["0001"]
    trunk_done = folder(project, "other/basic").done.stat().st_mtime
    jobs = {name: attempts_in(folder(project, f"{name}/continual").attempts)[0].job.stat().st_mtime for name in names}
    assert min(jobs[name] for name in PAIR) < trunk_done, "they wait for nothing"
    assert min(jobs["far"], jobs["near"]) >= trunk_done
    assert weights(project, "twin/cooldown") == weights(project, "variant/cooldown")
    for name in ("far/cooldown", "near/continual"):
        assert folder(project, name).done.exists(), name


def test_a_stage_that_some_share_and_that_fails_sets_these_aside_and_the_others_end(
    finished: Path, tmp_path: Path, curriculum: Curriculum
) -> None:
    project = with_two_trunks(finished, tmp_path / "project")
    (project / "runs/full/other/basic").mkdir(parents=True)
    (project / "runs/full/other/basic/evaluations").write_text("in the way of the folder")
    failed = curriculum(project, "run", "far", "near", *PAIR, *FULL, check=False)
    assert failed.returncode == 1
    for name in ("far", "near"):
        assert f"{name}: set aside, the others go on: " in failed.stdout
        assert not folder(project, f"{name}/continual").metrics.exists()
    assert folder(project, "twin/cooldown").done.exists()
    assert folder(project, "second/continual").done.exists()


def test_an_average_waits_for_the_checkpoints_that_others_train_and_trains_those_that_none_does(
    finished: Path, tmp_path: Path, curriculum: Curriculum
) -> None:
    project = with_variants(finished, tmp_path / "project")
    for seed, name in enumerate(("left", "right", "other")):
        own = f"{{name: own, until: 6656, data_seed: {seed}}}"
        (project / f"stages/{name}.yaml").write_text(f"from: trunk/basic\nstages: [{own}]\n")
    (project / "stages/soup.yaml").write_text("from: {average: [left, right, other]}\n")
    said = curriculum(project, "run", "soup", "left", "right", *FULL).stdout
    assert "set aside" not in said
    for stage in ("left/own", "right/own", "other/own", "soup/average"):
        assert folder(project, stage).done.exists(), stage


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["SIGINT", "SIGKILL"])
def test_stopped_or_killed_while_several_train_the_same_command_ends_with_the_same_bits(
    finished: Path, tmp_path: Path, number: signal.Signals, pooled: Path
) -> None:
    project = with_variants(finished, tmp_path / "project")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (tmp_path / "said.txt").open("w") as out:
        process = commands.start(
            *("run", *PAIR, *FULL), folder=project, environment=environment, out=out.fileno(), err=out.fileno()
        )
    until = time.monotonic() + 120
    while not any(folder(project, name).metrics.exists() for name in OWN) and time.monotonic() < until:
        time.sleep(0.002)
    process.send_signal(number)
    code, said = process.wait(timeout=60), (tmp_path / "said.txt").read_text()
    if number == signal.SIGINT:
        assert code == 130, said
        assert f"stopped and saved; resume with: curriculum run {' '.join(PAIR)}" in said
        started = [name for name in OWN if folder(project, name).metrics.exists()]
        assert started
        assert all(checkpoints.latest(folder(project, name)) is not None for name in started)
    commands.run("run", *PAIR, *FULL, folder=project, check=True)
    for name in ("twin/continual", "twin/cooldown", "second/continual"):
        assert weights(project, name) == weights(pooled, name), name

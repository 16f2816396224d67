"""Saves of whole stages: without a second copy where memory is short, and slower than every timeout."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import small
import torch
from projects import job_of
from small import ALONE

from curriculum.artifacts import checkpoints, jobs
from curriculum.artifacts.job_process import StopFlag
from curriculum.artifacts.stage_folder import Attempt, StageFolder
from curriculum.artifacts.timing import of_attempt
from curriculum.execution.notices import AttemptNotices
from curriculum.stream import Stage
from curriculum.stream.resume import with_resume
from runner.checkpoint.rank_file import Staging
from runner.monitor import hardware
from runner.train import loop, saves
from runner.train.setup import set_up


@pytest.mark.promise("A save without a second copy of the state, where memory is short, has the bits of one with it")
def test_a_stage_in_short_memory_waits_for_its_saves_says_so_and_ends_in_the_same_bits(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = job_of(finished, tmp_path / "basic")
    job = replace(job, machine=replace(job.machine, host_memory=1 << 20))
    assert loop.train(job, ALONE, StopFlag())["outcome"] == jobs.DONE
    folder = Path(job.stage_folder)
    assert (folder / "DONE").read_bytes() == (finished / "runs/full/trunk/basic/DONE").read_bytes()
    said = capsys.readouterr().err
    assert said.count("saves copy nothing, and training waits for them") == 1
    noted: list[str] = []
    notices = AttemptNotices(StageFolder(folder), None, noted.append)
    notices.attempt = Attempt(folder / "attempt")
    notices.check()
    assert [note for note in noted if "training waits" in note], noted
    timing = of_attempt(notices.attempt)
    assert timing is not None
    assert not timing.copied


@pytest.mark.promise(
    "A checkpoint written asynchronously has the bits of the step it names; a failing write stops the run"
)
def test_the_copy_of_a_save_is_made_beside_the_next_step_and_complete_before_its_update(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = with_resume(replace(job_of(finished, tmp_path / "at-once"), checkpoint_every=256, stop_at=1024))
    loop.train(job, ALONE, StopFlag())
    late = replace(
        job, stage_folder=str(tmp_path / "late"), attempt_folder=str(tmp_path / "late/attempt"), generation=0
    )
    (tmp_path / "late/attempt").mkdir(parents=True)
    copy, forward_backward, events = Staging.copy, loop.forward_backward, []

    def slow(staging: Staging, tensors: dict[str, torch.Tensor]) -> Callable[[], dict[str, torch.Tensor]]:
        copied = copy(staging, tensors)

        def later() -> dict[str, torch.Tensor]:
            time.sleep(0.1)
            events.append("copied")
            return copied()

        return later

    def watched(*arguments: Any, **options: Any) -> torch.Tensor:
        losses = forward_backward(*arguments, **options)
        events.append("gradients")
        return losses

    monkeypatch.setattr(Staging, "copy", slow)
    monkeypatch.setattr(loop, "forward_backward", watched)
    loop.train(late, ALONE, StopFlag())
    assert events[:5] == ["gradients", "gradients", "copied", "gradients", "copied"], "training went on meanwhile"
    saved = sorted(
        path.relative_to(tmp_path / "late") for path in (tmp_path / "late").glob("checkpoints/*/*.safetensors")
    )
    assert saved
    for path in saved:
        assert (tmp_path / "late" / path).read_bytes() == (tmp_path / "at-once" / path).read_bytes()


@pytest.mark.parametrize(
    ("memory", "free", "copies"), [(1 << 40, 1 << 40, True), (1024, 1 << 40, False), (1 << 40, 1024, False)]
)
def test_a_save_copies_the_state_only_where_the_node_has_the_memory_and_it_is_free(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: int, free: int, copies: bool
) -> None:
    monkeypatch.setattr(hardware, "host_memory", lambda: (memory, free))
    job = job_of(finished, tmp_path / "basic")
    setup = set_up(Stage(job, StopFlag(), agree=bool, rank=0, world_size=1), ALONE)
    assert saves.Saves(setup, None)._room_for_copies() is copies  # type: ignore[arg-type]


def test_every_rank_empties_its_stopwatch_at_every_step(finished: Path, tmp_path: Path) -> None:
    job = job_of(finished, tmp_path / "basic")
    with Stage(job, StopFlag(), agree=bool, rank=0, world_size=1) as stage:
        trainer = loop.Trainer(set_up(stage, ALONE), StopFlag())
        trainer.records._metrics = None  # as on every rank but the first
        batches = stage.batches()
        trainer.step(batches)
        batches.close()
        stage.stopping = True
    assert trainer.stopwatch.lap().phases() == {}


@pytest.mark.processes
@pytest.mark.promise("A save slower than every timeout of the ranks that wait for it is no failure")
def test_a_publish_longer_than_every_timeout_passes(finished: Path, tmp_path: Path) -> None:
    job = job_of(finished, tmp_path / "basic")
    job = replace(job, stop_at=2048, checkpoint_every=1 << 40, evaluate_every=0, keep=())
    jobs.save(job, tmp_path / "job.json")
    (tmp_path / "second").mkdir()
    outcomes = small.launch(tmp_path, "", script=Path(__file__).parents[2] / "support/slow_publish.py")
    assert [outcome["outcome"] for outcome in outcomes] == [jobs.DONE, jobs.DONE]
    saved = checkpoints.list_checkpoints(StageFolder(Path(job.stage_folder)))
    assert [checkpoint.position for checkpoint in saved] == [2048, 6144]
    assert (Path(job.stage_folder) / "DONE").exists()


def test_memory_is_that_of_the_control_group_where_that_has_less(tmp_path: Path) -> None:
    def group(name: str, **files: str) -> None:
        folder = tmp_path / "cgroup" / name
        folder.mkdir(parents=True)
        for file, text in files.items():
            (folder / file.replace("__", ".")).write_text(text)

    group(
        "memory/job",
        memory__limit_in_bytes="4096\n",
        memory__usage_in_bytes="3000\n",
        memory__stat="total_inactive_file 1000\n",
    )
    group("job/step", memory__max="max\n")
    (tmp_path / "self").write_text("4:memory:/job\n1:cpu:/job\n0::/job/step\n")
    groups = list(hardware._groups(tmp_path / "self", tmp_path / "cgroup"))
    assert [str(path.relative_to(tmp_path)) for path in groups] == [
        "cgroup/memory/job",
        "cgroup/memory",
        "cgroup/job/step",
        "cgroup/job",
        "cgroup",
    ]
    assert hardware.within((10_000, 8_000), groups) == (4096, 2096)
    assert hardware.within((10_000, 500), groups) == (4096, 500)

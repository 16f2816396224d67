"""Whole stages of a small project: canonical sums, what is measured on the way, and steps that go wrong."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import commands
import pytest
import torch
from projects import BuiltOnce, job_of, write_prepared_project
from safetensors import safe_open

from curriculum import fs
from curriculum.artifacts import checkpoints, evaluations, jobs, ledger
from curriculum.artifacts.job_process import StopFlag
from curriculum.artifacts.stage_folder import StageFolder
from curriculum.errors import RunFailed
from curriculum.plan.stage import StagePlan
from curriculum.stream import Stage
from curriculum.stream.resume import with_resume
from runner.parallel.ranks import Ranks
from runner.train import loop, state, step
from runner.train.setup import set_up

Curriculum = Callable[..., "subprocess.CompletedProcess[str]"]

FULL = ("--size", "full")
ALONE = Ranks(0, 1, 1, torch.device("cpu"))


def done(project: Path, curriculum: str, stage: str) -> dict[str, object]:
    return json.loads((project / "runs/full" / curriculum / stage / "DONE").read_bytes())


def stage(project: Path, curriculum: str, name: str) -> Path:
    return project / "runs/full" / curriculum / name


CANONICAL = "{device: cpu, threads: 1, exactness: canonical, micro_batch: 2"


@pytest.fixture(scope="session")
def canonical(built_once: BuiltOnce, finished: Path) -> Path:
    """The trunk trained canonically by one process, two of its steps traced; read only."""

    def build(project: Path) -> None:
        write_prepared_project(project, finished)
        (project / "machines.yaml").write_text(
            f"local: {CANONICAL}, peak: 0.1 TFLOP/s}}\ntwo: {CANONICAL}, launcher: torchrun, processes: 2}}\n"
        )
        commands.run("run", "trunk", *FULL, "--profile-steps", "2:4", folder=project, check=True)

    return built_once("canonical", build)


@pytest.mark.promise("Canonical exactness: the same bits on 1, 2 and 4 ranks and any mesh")
def test_a_canonical_run_has_the_same_weights_on_one_process_and_on_two(
    canonical: Path, curriculum: Curriculum, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(canonical, other)
    shutil.rmtree(stage(other, "trunk", "cooldown"))  # the stage whose batch is another
    curriculum(other, "run", "trunk", *FULL, "--machine", "two")
    assert done(canonical, "trunk", "cooldown") == done(other, "trunk", "cooldown")
    two = stage(other, "trunk", "cooldown")
    files = {len(list(path.glob("*.safetensors"))) for path in two.glob("checkpoints/g0-*")}
    assert files == {2}, "two ranks held the parameters between them"


GROWN = """\
from: trunk/basic
stages:
  - {name: grown, until: 9216, batch: {from: 8 sequences, to: 32 sequences, over: 2048 tokens, in: 2}}
"""
ROW = """\
from: trunk/basic
stages:
  - {name: one, until: 7168, batch: 8 sequences}
  - {name: two, until: 8192, batch: 20 sequences}
  - {name: three, until: 9216, batch: 32 sequences}
"""


@pytest.mark.promise("A batch grows inside a stage, at exact positions; every slot equals a brute-force replay's")
@pytest.mark.promise("Canonical exactness: the same bits on 1, 2 and 4 ranks and any mesh")
def test_a_batch_that_grows_in_a_stage_trains_as_a_row_of_stages_on_one_process_on_two_and_after_a_stop(
    canonical: Path, curriculum: Curriculum, tmp_path: Path
) -> None:
    project = tmp_path / "project"
    shutil.copytree(canonical, project)
    (project / "stages/grown.yaml").write_text(GROWN)
    (project / "stages/row.yaml").write_text(ROW)
    curriculum(project, "run", "grown", *FULL)
    curriculum(project, "run", "row", *FULL)
    grown, row = stage(project, "grown", "grown"), stage(project, "row", "three")
    last, same = (checkpoints.latest(StageFolder(folder)) for folder in (grown, row))
    assert last is not None
    assert same is not None
    assert last.position == same.position
    assert checkpoints.tensors_digest(last.path) == checkpoints.tensors_digest(same.path)
    lines = fs.read_json_lines(StageFolder(grown).metrics)
    assert list(dict.fromkeys(line["batch_sequences"] for line in lines)) == [8, 20, 32]
    assert [line["position"] for line in lines if line["step"] == lines[-1]["step"]] == [last.position]
    before = done(project, "grown", "grown")
    saved = checkpoints.list_checkpoints(StageFolder(grown))
    assert len(saved) > 1
    checkpoints.discard(saved[-1])
    (grown / "DONE").unlink()
    curriculum(project, "run", "grown", *FULL, "--machine", "two")
    assert done(project, "grown", "grown") == before


SOUP = """\
from: {average: [trunk, trunk/continual, side], weights: [1, 2, 4]}
stages:
  - {name: more, until: 13312}
"""


def weights_of(project: Path, curriculum: str, name: str) -> dict[str, torch.Tensor]:
    saved = checkpoints.latest(StageFolder(stage(project, curriculum, name)))
    assert saved is not None
    return tensors_in(saved.path)


def tensors_in(checkpoint: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for path in sorted(checkpoint.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 - it is no mapping
                found[key] = torch.cat([found[key], file.get_tensor(key)]) if key in found else file.get_tensor(key)
    return found


@pytest.mark.promise("An average of checkpoints is a stage of its own, the same bits on any number of ranks")
def test_an_average_is_the_weighted_mean_in_double_precision_on_one_process_and_on_two(
    canonical: Path, curriculum: Curriculum, tmp_path: Path
) -> None:
    project = tmp_path / "project"
    shutil.copytree(canonical, project)
    (project / "stages/soup.yaml").write_text(SOUP)
    (project / "stages/side.yaml").write_text("from: trunk/basic\nstages:\n  - {name: own, until: 7168}\n")
    curriculum(project, "run", "soup", *FULL)  # which trains `side` first
    soup = weights_of(project, "soup", "average")
    members = [weights_of(project, "trunk", name) for name in ("cooldown", "continual")]
    members.append(weights_of(project, "side", "own"))
    for key, value in soup.items():
        if key.startswith("model."):
            mean = sum(w * member[key].double() for w, member in zip((1, 2, 4), members, strict=True)) / 7
            assert torch.equal(value, mean.float()), key
        else:
            assert not value.any(), f"{key} is of an optimizer that took no step"
    folder = StageFolder(stage(project, "soup", "average"))
    assert [line["step"] for line in fs.read_json_lines(StageFolder(stage(project, "soup", "more")).metrics)] == [39]
    assert len(list(folder.evaluation_files())) == 1
    carried, own = (
        evaluations.read_evaluations(StageFolder(stage(project, *of)))
        for of in (("trunk", "cooldown"), ("soup", "average"))
    )
    for name, entry in own[12288].items():
        assert entry["loss"] != carried[12288][name]["loss"], "an average is measured by itself"
    before = done(project, "soup", "average"), done(project, "soup", "more")
    shutil.rmtree(project / "runs/full/soup")
    curriculum(project, "run", "soup", *FULL, "--machine", "two")
    assert (done(project, "soup", "average"), done(project, "soup", "more")) == before
    (project / "stages/other.yaml").write_text("from: {average: [trunk, trunk@2k]}\n")
    pruned = curriculum(project, "run", "other", *FULL, check=False)
    assert pruned.returncode == 2
    assert "was pruned since" in " ".join(pruned.stderr.split())


PLAIN = """\
from: trunk/basic
optimizer: {name: adamw, weight_decay: 0.1}
stages:
  - {name: own, until: 7168}
"""
KEPT = PLAIN.replace("0.1}", "0.1, ema: 3 steps}\nevery: {checkpoint: 256 tokens, keep: 256 tokens}")


@pytest.mark.promise(
    "A moving average of the weights has the same bits on any number of ranks and after a resume, and trains nothing"
)
def test_a_moving_average_is_kept_on_one_process_on_two_and_after_a_stop_and_becomes_a_stage(
    canonical: Path, curriculum: Curriculum, tmp_path: Path
) -> None:
    project = tmp_path / "project"
    shutil.copytree(canonical, project)
    for name, text in {"plain": PLAIN, "kept": KEPT, "smooth": "from: {ema: kept@6912}\n"}.items():
        (project / f"stages/{name}.yaml").write_text(text)
    curriculum(project, "run", "plain", *FULL)
    curriculum(project, "run", "smooth", *FULL)  # which trains `kept` up to there
    curriculum(project, "run", "kept", *FULL)
    kept = StageFolder(stage(project, "kept", "own"))
    plan = StagePlan.load(kept.plan)
    decay = plan.average_decay(plan.first_step)
    assert (plan.optimizer["ema"], decay) == (3 * 256, 0.5 ** (1 / 3))

    average = weights_of(project, "trunk", "basic")
    smooth = weights_of(project, "smooth", "average")
    saved = checkpoints.list_checkpoints(kept)
    assert [one.position for one in saved] == [6400, 6656, 6912, 7168]
    for one in saved:
        found = tensors_in(one.path)
        for key in [key for key in average if key.startswith("model.")]:
            average[key] += (found[key] - average[key]) * (1 - decay)
            assert torch.equal(found[key.replace("model.", "ema.", 1)], average[key]), (one.position, key)
            assert one.position != 6912 or torch.equal(smooth[key], average[key])
    for key, value in weights_of(project, "plain", "own").items():
        assert torch.equal(value, found[key]), f"{key}: the average is to train nothing"

    digest = checkpoints.tensors_digest(saved[-1].path)
    assert checkpoints.discard(saved[-1])
    kept.done.unlink()
    curriculum(project, "run", "kept", *FULL, "--machine", "two")
    again = checkpoints.latest(kept)
    assert again is not None
    assert checkpoints.tensors_digest(again.path) == digest
    assert len(list(again.path.glob("*.safetensors"))) == 2


def test_a_line_of_metrics_says_where_a_step_s_time_went(canonical: Path) -> None:
    folder = stage(canonical, "trunk", "basic")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    environment = json.loads((folder / "attempts/0001/environment.json").read_bytes())
    for line in lines:
        parts = [line[f"{phase}_seconds"] for phase in ("data", "forward_backward", "optimizer", "communication")]
        assert min(parts) >= 0
        assert sum(parts) + line.get("checkpoint_seconds", 0) <= line["seconds"] + 1e-3
        assert line["memory_bytes"] > 1 << 26
        expected = line["tokens_per_second"] * environment["flops_per_token"] / 0.1e12
        assert line["mfu"] == pytest.approx(expected)
    assert environment["peak_flops"] == 0.1e12
    assert environment["flops_convention"].startswith("full: ")
    saved = [line["step"] for line in lines if "checkpoint_seconds" in line]
    assert saved, "the stall of a save is in the line after it"
    assert all((step * 256) % 1024 == 0 for step in saved)
    evaluated = {line["position"]: line["evaluation_seconds"] for line in lines if "evaluation_seconds" in line}
    assert evaluated.keys() == {256, 2048 + 256, 4096 + 256}, "an evaluation is in the line after it"
    assert min(evaluated.values()) > 0


def test_a_trace_of_the_steps_asked_for_is_in_the_attempt_s_folder(canonical: Path) -> None:
    (trace,) = canonical.rglob("trace-*.json")
    assert trace.parent == stage(canonical, "trunk", "basic") / "attempts/0001"
    assert trace.name == "trace-2-4-rank0.json"
    events = json.loads(trace.read_bytes())["traceEvents"]
    steps = [event for event in events if event.get("name", "").startswith("Optimizer.step")]
    assert len([event for event in steps if event.get("ph") == "X"]) == 2


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def gradients_not_finite(
    monkeypatch: pytest.MonkeyPatch, bad: Callable[[int], bool], factor: float = math.nan, first: int = 0
) -> None:
    norm_of, number = step.total_norm, iter(range(first, 1000))

    def broken(gradients: list[torch.Tensor]) -> torch.Tensor:
        norm = norm_of(gradients)
        return norm * factor if bad(next(number)) else norm

    monkeypatch.setattr(step, "total_norm", broken)


@pytest.mark.promise(
    "NaN, Inf and loss spikes are reported with steps and documents, and a non-finite state never becomes a checkpoint"
)
def test_a_gradient_that_is_not_finite_makes_no_update_and_the_clock_goes_on(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gradients_not_finite(monkeypatch, lambda step: step in (5, 6))
    job = job_of(finished, tmp_path / "basic")
    outcome = loop.train(job, ALONE, StopFlag())
    assert outcome["outcome"] == jobs.DONE
    folder = Path(job.stage_folder)
    last = checkpoints.latest(StageFolder(folder))
    assert last is not None
    state = checkpoints.state(last.path)
    assert (state["nonfinite_steps"], state["nonfinite_in_a_row"]) == (2, 0)
    assert (state["step"], state["adam_step"]) == (24, 22)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line.get("skipped")] == [5, 6]
    assert lines[6]["loss"] != lines[5]["loss"], "the same weights read other data"
    events = fs.read_json_lines(folder / "events.jsonl")
    assert [(event["kind"], event["step"]) for event in events] == [
        ("gradient not finite", 5),
        ("gradient not finite", 6),
    ]
    assert all(sequence["documents"] for event in events for sequence in event["sequences"])
    assert [event["loss"] for event in events] == pytest.approx([line["loss"] for line in lines[5:7]])
    assert events[0]["skip"] == {"from": 5 * 256, "to": 6 * 256}


def test_a_step_s_figures_are_read_once_the_next_one_is_on_the_device(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = with_resume(replace(job_of(finished, tmp_path / "basic"), stop_at=1024))
    metrics, written, apply = Path(job.stage_folder) / "metrics.jsonl", [], loop.update

    def watched(*arguments: Any, **options: Any) -> torch.Tensor:
        norm = apply(*arguments, **options)
        written.append(len(metrics.read_bytes().splitlines()) if metrics.exists() else 0)
        return norm

    monkeypatch.setattr(loop, "update", watched)
    loop.train(job, ALONE, StopFlag())
    assert written == [0, 0, 1, 2], "after its update, no step's line is there, nor that of the step before"
    assert len(metrics.read_bytes().splitlines()) == 4


def test_the_figures_of_the_step_before_a_save_are_in_its_checkpoint(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gradients_not_finite(monkeypatch, lambda step: step == 3)
    job = with_resume(replace(job_of(finished, tmp_path / "basic"), stop_at=1024))
    loop.train(job, ALONE, StopFlag())
    saved = checkpoints.latest(StageFolder(Path(job.stage_folder)))
    assert saved is not None
    state = checkpoints.state(saved.path)
    assert (state["step"], state["nonfinite_in_a_row"], state["adam_step"]) == (4, 1, 3)
    assert [entry.windows for entry in ledger.read(StageFolder(Path(job.stage_folder)))] == [
        {name: windows for name, windows in state["windows"].items() if windows}
    ]


@pytest.mark.promise("On request outliers of the gradient norm are skipped, the same ones after a resume")
def test_an_outlier_of_the_gradient_norm_makes_no_update_also_after_a_resume_in_its_window(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(finished, tmp_path / "basic")
    plan = StagePlan.load(Path(job.plan))
    plan = replace(plan, optimizer={**plan.optimizer, "skip_outliers": {"window": 8, "deviations": 6.0}})
    plan.save(Path(job.plan), replace=True)
    job = replace(job, checkpoint_every=10 * plan.batch_tokens, keep_last=9)
    folder = StageFolder(Path(job.stage_folder))
    digests = []
    for first in (0, 10):
        (attempt := tmp_path / f"attempt-{first}").mkdir()
        job = with_resume(replace(job, attempt_folder=str(attempt)))
        with monkeypatch.context() as patched:
            gradients_not_finite(patched, lambda step: step == 12, factor=100.0, first=first)
            assert loop.train(job, ALONE, StopFlag())["outcome"] == jobs.DONE
        saved = checkpoints.list_checkpoints(folder)
        state = checkpoints.state(saved[-1].path)
        assert (state["outlier_steps"], state["nonfinite_steps"], state["adam_step"]) == (1, 0, 23)
        events = fs.read_json_lines(folder.events)
        assert [(event["kind"], event["step"]) for event in events] == [("outlier skipped", 12)]
        assert events[0]["grad_norm"] > 50
        assert [line["step"] for line in fs.read_json_lines(folder.metrics) if line.get("skipped")] == [12]
        digests.append(checkpoints.tensors_digest(saved[-1].path))
        for checkpoint in saved[1:]:  # the second time, from step 10
            checkpoints.discard(checkpoint)
        folder.done.unlink()
    assert digests[0] == digests[1]


def test_the_norms_of_layers_are_recorded_at_the_steps_asked_for_and_their_squares_add_up(
    finished: Path, tmp_path: Path
) -> None:
    job = job_of(finished, tmp_path / "basic")
    loop.train(replace(job, machine=replace(job.machine, layer_norms=5)), ALONE, StopFlag())
    lines = fs.read_json_lines(StageFolder(Path(job.stage_folder)).metrics)
    measured = {line["step"]: line["layer_norms"] for line in lines if "layer_norms" in line}
    assert list(measured) == [0, 5, 10, 15, 20]
    for step_number, layers in measured.items():
        assert {"embedding", "blocks.0", "norm"} < set(layers)
        assert math.hypot(*layers.values()) == pytest.approx(lines[step_number]["grad_norm"], rel=1e-5)


@pytest.mark.promise(
    "NaN, Inf and loss spikes are reported with steps and documents, and a non-finite state never becomes a checkpoint"
)
def test_gradients_that_stay_not_finite_end_the_run_at_its_last_good_checkpoint(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gradients_not_finite(monkeypatch, lambda step: step >= 11)
    job = job_of(finished, tmp_path / "basic")
    with pytest.raises(RunFailed, match=rf"not finite in {loop.NONFINITE_AT_MOST} steps in a row, up to step 18"):
        loop.train(job, ALONE, StopFlag())
    found = checkpoints.list_checkpoints(StageFolder(Path(job.stage_folder)))
    assert found
    for checkpoint in found:
        checkpoints.verify(checkpoint.path)
        assert checkpoints.state(checkpoint.path)["adam_step"] <= 11
    assert not (Path(job.stage_folder) / "DONE").exists()


@pytest.mark.usefixtures("one_thread")
def test_a_kill_between_a_checkpoint_and_its_ledger_line_is_put_right_by_going_on(
    finished: Path, tmp_path: Path
) -> None:
    job = job_of(finished, tmp_path / "basic")
    folder = Path(job.stage_folder)
    loop.train(with_resume(replace(job, stop_at=2048)), ALONE, StopFlag())
    assert [entry.position for entry in ledger.read(StageFolder(folder))] == [1024, 2048]
    (StageFolder(folder).ledger).write_bytes((StageFolder(folder).ledger).read_bytes().splitlines(keepends=True)[0])
    (tmp_path / "again").mkdir()
    loop.train(with_resume(replace(job, attempt_folder=str(tmp_path / "again"))), ALONE, StopFlag())
    assert [entry.position for entry in ledger.read(StageFolder(folder))] == [1024, 2048, 3072, 4096, 5120, 6144]
    assert json.loads((folder / "DONE").read_bytes()) == done(finished, "trunk", "basic")


def stage_of(job: jobs.TrainJob) -> Stage:
    return Stage(job, StopFlag(), agree=bool, rank=0, world_size=1)


def test_only_a_stage_without_a_checkpoint_draws_its_weights(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []
    draw = state.draw_weights
    monkeypatch.setattr(state, "draw_weights", lambda model, seed: (drawn.append(seed), draw(model, seed)))
    job = job_of(finished, tmp_path / "basic")
    set_up(stage_of(job), ALONE)
    assert len(drawn) == 1
    again = stage(finished, "trunk", "basic")
    set_up(stage_of(with_resume(replace(job, stage_folder=str(again)))), ALONE)
    assert len(drawn) == 1, "a checkpoint is loaded without"

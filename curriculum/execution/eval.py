"""Benchmark scores on request: named tasks at one checkpoint, or all that the stage files ask for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from curriculum.artifacts import benchmarks
from curriculum.artifacts.benchmarks import Score
from curriculum.artifacts.job_process import stop_on_signals
from curriculum.compiler.lineage import Address
from curriculum.compiler.prepared_text import PreparedText
from curriculum.errors import PlanError
from curriculum.execution import benchmark, export, lm_eval
from curriculum.execution.request import RunRequest
from curriculum.runs.measurements import Point, by_point, due_benchmarks


@dataclass(frozen=True, slots=True)
class EvalResult:
    """The scores by checkpoint, and a line for each task that could not be measured."""

    scores: Sequence[tuple[Point, Mapping[str, Score]]]
    missing: tuple[str, ...] = ()


def evaluate_tasks(request: RunRequest, address: Address, tasks: benchmark.BenchmarkRequest) -> EvalResult | None:
    """Measure what is not measured yet; None when a signal stopped it, what was measured until then is saved."""
    if not tasks.tasks:
        return _evaluate_due(request, address, tasks)
    source = export.find(request.project, address, request.size, "eval {} --tasks …")
    with stop_on_signals() as stop:
        if not benchmark.measure(request, source, tasks, stop):
            return None
    measured = Point(source.compiled.stages[-1].name, source.position)
    scores = by_point(request.project, [source.compiled], benchmarks.read_scores)
    return EvalResult([(point, scores[point]) for point in scores if point == measured])


def _evaluate_due(request: RunRequest, address: Address, tasks: benchmark.BenchmarkRequest) -> EvalResult | None:
    curriculum = address.curriculum
    if str(address) != curriculum or tasks.num_fewshot is not None or tasks.limit is not None or tasks.again:
        raise PlanError(
            "without `--tasks`, what the stage file asks for is measured, at every kept checkpoint",
            hint=f"name the tasks, as in `curriculum eval {address} --tasks hellaswag,piqa`; or give the "
            "curriculum's name alone",
        )
    compiled = PreparedText.open(request.project, curriculum, request.size).compiled
    if not any(stage.task_every for stage in compiled.stages):
        raise PlanError(
            f"no stage of `{curriculum}` asks for tasks",
            hint="name them, as in `--tasks hellaswag,piqa`; or in the stage file: `every: {tasks: {piqa: 100B}}`",
        )
    if due_benchmarks(request.project, compiled):
        lm_eval.check_installed()
    with stop_on_signals() as stop:
        result = benchmark.catch_up(request, compiled, stop, tasks)
    if result.stopped:
        return None
    return EvalResult(list(by_point(request.project, [compiled], benchmarks.read_scores).items()), result.unmeasured)

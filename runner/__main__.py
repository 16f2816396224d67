"""`python -m runner JOB`: reads a job file, does the job, and writes how it ended as `outcome.json`.

`python -m runner --each JOBS` trains the jobs of a file with a path a line, one after the other in this process.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curriculum.artifacts.job_process import STOP_SIGNALS, install_stop_flag

STOP = install_stop_flag()  # before torch: a signal that comes while it loads must not be lost

from curriculum.artifacts import jobs  # noqa: E402
from curriculum.artifacts.stage_folder import Attempt  # noqa: E402
from curriculum.errors import CurriculumError, RunFailed  # noqa: E402
from curriculum.fs import standard_streams  # noqa: E402
from curriculum.stream.watchdog import Watchdog  # noqa: E402

if TYPE_CHECKING:
    from runner.parallel.ranks import Ranks

Outcome = dict[str, Any]


def main() -> int:
    """Exit code 0 done or stopped on request, 1 failed, 2 refused; `outcome.json` tells them apart."""
    if sys.argv[1] == "--each":
        return _each([Path(line) for line in Path(sys.argv[2]).read_text().splitlines()])
    return _do(jobs.load(Path(sys.argv[1])))


def _each(paths: Sequence[Path]) -> int:
    """Train one job after the other, with the bits that each has in a process of its own; the worst exit code.

    An error ends its job alone. Once a stop is requested no other job starts. Each writes into its attempt's log.
    """
    code = 0
    streams = sys.stdout.fileno(), sys.stderr.fileno()
    before = [os.dup(stream) for stream in streams]
    for path in paths:
        if STOP:
            break
        job = jobs.load(path)
        if not isinstance(job, jobs.TrainJob):
            raise RunFailed(f"`{path}` trains nothing, and `--each` takes a list of trainings")
        with Attempt(Path(job.attempt_folder)).log.open("ab") as log:
            for stream in streams:
                os.dup2(log.fileno(), stream)
        code = max(code, _do(job))
        _forget_training()
        for stream, kept in zip(streams, before, strict=True):
            os.dup2(kept, stream)
    return code


def _forget_training() -> None:
    """Free what a training held, and what compiled code remembers of it: the next one's shapes are not variations."""
    import gc

    sys.stdout.flush()
    sys.stderr.flush()
    gc.collect()
    torch: Any = sys.modules.get("torch")
    if torch is None:
        return
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    if torch.distributed.is_available() and torch.distributed.is_initialized():  # an error left it
        torch.distributed.destroy_process_group()


def _do(job: jobs.Job) -> int:
    outcome: Outcome | None
    try:
        outcome = JOBS[type(job)](job)
        code = 0
    except BaseException as error:
        traceback.print_exc()
        refused = _out_of_memory(job, error) if isinstance(job, jobs.TrainJob) else None
        outcome = jobs.outcome_of(refused or error)
        code = 2 if isinstance(error, CurriculumError) else 1
    if outcome is not None and (_rank() == 0 or code):
        jobs.write_outcome(Attempt(Path(job.attempt_folder)), outcome)
    return code


def _out_of_memory(job: jobs.TrainJob, error: BaseException) -> CurriculumError | None:
    if "torch" not in sys.modules:
        return None
    from runner.out_of_memory import refusal

    return refusal(job, error)


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))


@contextlib.contextmanager
def _joined(machine: jobs.Machine) -> Iterator[Ranks]:
    """The process group of this job; all ranks leave it together, unless an error ends this one."""
    from runner.parallel import determinism
    from runner.parallel.ranks import join_ranks, leave_ranks

    determinism.prepare(machine)
    ranks = join_ranks(machine.device, machine.threads)
    yield ranks
    leave_ranks(ranks)


def _train(job: jobs.TrainJob) -> None:
    with contextlib.ExitStack() as stack:
        # joining the other ranks may hang
        with Watchdog(Attempt(Path(job.attempt_folder)), _rank(), job.machine.hang_limit):
            from runner.parallel.ranks import keep_freed_memory
            from runner.train.loop import train

            keep_freed_memory()
            ranks = stack.enter_context(_joined(job.machine))
        train(job, ranks, STOP)


def _evaluate(job: jobs.EvaluateJob) -> Outcome:
    from runner.evaluate.job import evaluate_checkpoint

    with _joined(job.machine) as ranks:
        return evaluate_checkpoint(job, ranks, STOP)


def _benchmark(job: jobs.HarnessJob) -> Outcome:
    from runner.evaluate import lm_eval

    return lm_eval.measure(job)


def _task_items(job: jobs.TaskItemsJob) -> Outcome:
    from runner.evaluate import task_items

    return task_items.write_items(job)


def _doctor(job: jobs.DoctorJob) -> Outcome:
    from runner.doctor import doctor
    from runner.parallel import determinism
    from runner.parallel.ranks import join_ranks, leave_ranks

    determinism.prepare(job.machine)
    problem = None
    try:
        ranks = join_ranks(job.machine.device, job.machine.threads)
    except CurriculumError as error:  # the rest of the machine is reported all the same
        problem = error
        ranks = join_ranks("cpu", job.machine.threads)
    doctor(job, ranks, problem)
    leave_ranks(ranks)
    return {"outcome": jobs.DONE}


def _prepare(job: jobs.PrepareJob | jobs.TokenizerJob) -> Outcome:
    # Finished tasks are kept whenever this process ends, and native work would keep a handler waiting.
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    if STOP:
        return {"outcome": jobs.STOPPED}
    from runner.prepare.job import help_to_prepare, prepare
    from runner.prepare.sample import measure_sample
    from runner.prepare.tokenizer import train_tokenizer

    try:
        if isinstance(job, jobs.TokenizerJob):
            train_tokenizer(job.request)
        elif job.help:
            help_to_prepare(job.request)
        elif job.sample:
            measure_sample(job.request)
        else:
            prepare(job.request)
    except OSError as error:
        if error.filename is None:  # a failed write into an open file does not name it
            error.filename = job.request.output
        raise
    return {"outcome": jobs.DONE}


def _import(job: jobs.ImportJob) -> Outcome:
    from runner.checkpoint import huggingface

    return huggingface.import_directory(job, STOP)


def _export(job: jobs.ExportJob) -> Outcome:
    from runner.checkpoint import huggingface

    return huggingface.export(job, STOP)


JOBS: dict[type[jobs.Job], Callable[[Any], Outcome | None]] = {
    jobs.TrainJob: _train,
    jobs.EvaluateJob: _evaluate,
    jobs.PrepareJob: _prepare,
    jobs.TokenizerJob: _prepare,
    jobs.ImportJob: _import,
    jobs.ExportJob: _export,
    jobs.DoctorJob: _doctor,
    jobs.HarnessJob: _benchmark,
    jobs.TaskItemsJob: _task_items,
}
"""What does each job. They return how it ended, or None: a stage writes it itself."""


if __name__ == "__main__":
    standard_streams.protect()
    sys.exit(main())

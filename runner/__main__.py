"""`python -m runner JOB`: reads a job file, does it, and says in its attempt folder how it ended."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import Any

from runner.signals import install_stop_flag

STOP = install_stop_flag()  # before torch: a signal that comes while it loads must not be lost

from curriculum import fs  # noqa: E402
from curriculum.artifacts import checkpoints, jobs  # noqa: E402
from curriculum.artifacts.stage_folder import Attempt, StageFolder  # noqa: E402
from curriculum.errors import CurriculumError, storage_failed  # noqa: E402
from runner import watchdog  # noqa: E402


def main() -> int:
    """Exit code 0 done or stopped on request, 1 failed, 2 refused; `outcome.json` tells them apart."""
    path = Path(sys.argv[1])
    job = jobs.load(path)
    outcome: dict[str, Any]
    try:
        outcome = _carry_out(job)
        code = 0
    except CurriculumError as error:
        traceback.print_exc()
        place = f" ({error.place})" if error.place else ""
        outcome = {"outcome": jobs.REFUSED, "message": error.what + place, "hint": error.hint}
        if error.entry:
            outcome["entry"] = list(error.entry)
        code = 2
    except BaseException as error:
        traceback.print_exc()
        failed = storage_failed(error) if isinstance(error, OSError) else None
        outcome = {"outcome": jobs.FAILED, "message": f"{type(error).__name__}: {error}"}
        if failed is not None:  # starting again would only meet it again
            outcome = {"outcome": jobs.REFUSED, "message": failed.what, "hint": failed.hint}
        code = 1
    if os.environ.get("RANK", "0") == "0" or code:
        fs.write_json(Attempt(Path(job.attempt_folder)).outcome, outcome, replace=True)
    return code


def _carry_out(job: jobs.Job) -> dict[str, Any]:
    if isinstance(job, jobs.TrainJob):
        return _train(job)
    if isinstance(job, jobs.EvaluateJob):
        return _evaluate(job)
    if isinstance(job, jobs.ImportJob | jobs.ExportJob):
        return _convert(job)
    if isinstance(job, jobs.DoctorJob):
        return _doctor(job)
    if isinstance(job, jobs.HarnessJob):
        from runner.evaluate import lm_eval

        return lm_eval.measure(job)
    return _prepare(job)


def _train(job: jobs.TrainJob) -> dict[str, Any]:
    first = os.environ.get("RANK", "0") == "0"
    folder = StageFolder(Path(job.stage_folder))
    lock = fs.Lock(folder.lock, f"the stage folder {folder}")
    if first:
        lock.acquire(wait_seconds=15.0)  # a process that was just killed may take a moment to let go
        checkpoints.refuse_links(folder)

    rank = int(os.environ.get("RANK", "0"))
    with watchdog.Watchdog(
        Attempt(Path(job.attempt_folder)), rank, job.machine.hang_limit
    ):  # joining the others may hang
        from runner.parallel import determinism
        from runner.parallel.ranks import join_ranks, keep_freed_memory, leave_ranks
        from runner.train.loop import train

        determinism.prepare(job.machine)
        keep_freed_memory()
        ranks = join_ranks(job.machine.device, job.machine.threads)
    try:
        return train(job, ranks, STOP)
    finally:
        if sys.exc_info()[0] is None:
            leave_ranks(ranks)
        lock.release()


def _evaluate(job: jobs.EvaluateJob) -> dict[str, Any]:
    from runner.evaluate.job import score
    from runner.parallel import determinism
    from runner.parallel.ranks import join_ranks, leave_ranks

    determinism.prepare(job.machine)
    ranks = join_ranks(job.machine.device, job.machine.threads)
    try:
        return score(job, ranks, STOP)
    finally:
        if sys.exc_info()[0] is None:
            leave_ranks(ranks)


def _doctor(job: jobs.DoctorJob) -> dict[str, Any]:
    from runner.doctor import doctor
    from runner.parallel import determinism
    from runner.parallel.ranks import join_ranks, leave_ranks

    determinism.prepare(job.machine)
    problem = None
    try:
        ranks = join_ranks(job.machine.device, job.machine.threads)
    except CurriculumError as error:  # the rest of the machine is worth knowing all the same
        problem = error
        ranks = join_ranks("cpu", job.machine.threads)
    doctor(job, ranks, problem)
    leave_ranks(ranks)
    return {"outcome": jobs.DONE}


def _prepare(job: jobs.PrepareJob | jobs.TokenizerJob) -> dict[str, Any]:
    from runner.prepare.job import Stopped, help_to_prepare, prepare, train_tokenizer

    try:
        if isinstance(job, jobs.TokenizerJob):
            train_tokenizer(job.request)
        elif job.help:
            help_to_prepare(job.request, lambda: STOP.requested)
        else:
            prepare(job.request, lambda: STOP.requested)
    except Stopped:
        return {"outcome": jobs.STOPPED}
    except OSError as error:
        if error.filename is None:  # a write into an open file that fails does not say which
            error.filename = job.request.output
        raise
    return {"outcome": jobs.DONE}


def _convert(job: jobs.ImportJob | jobs.ExportJob) -> dict[str, Any]:
    from runner.checkpoint import huggingface

    if isinstance(job, jobs.ImportJob):
        return huggingface.import_directory(job, STOP)
    return huggingface.export(job, STOP)


if __name__ == "__main__":
    sys.exit(main())

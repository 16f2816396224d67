"""Makes what a curriculum reads before it trains: its tokenizer and its tokenised text, each by a job."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from curriculum.artifacts import jobs
from curriculum.artifacts.job_process import StopFlag
from curriculum.artifacts.stage_folder import new_attempt
from curriculum.compiler import imported_models, prepared_text, tokenizers
from curriculum.compiler.compile import Compiled, compile_curriculum
from curriculum.data.requests import PrepareRequest
from curriculum.errors import NotFound, RunFailed, did_you_mean
from curriculum.execution.attempts import run_job
from curriculum.execution.request import RunRequest


def prepare(
    request: RunRequest,
    stop: StopFlag,
    only: str | None = None,
    *,
    append: bool = False,
    with_tokenizer: Callable[[Compiled], None] = lambda compiled: None,
    elsewhere: Callable[[PrepareRequest], object] | None = None,
) -> prepared_text.PreparedText | None:
    """Tokenise whatever the lineage reads and is not yet prepared; None when it was asked to stop.

    A tokenizer that had to be trained first is shown to `with_tokenizer`, which may refuse it, before any text is
    tokenised with it. With `elsewhere`, texts are handed to it instead of made here. With `append`, what is
    prepared grows by the files that are new since.
    """
    project = request.project
    compiled = compile_curriculum(project, request.curriculum, request.size)
    attempts = project.data / "attempts"
    texts = prepared_text.PreparedText(project, compiled)
    if only is not None and only not in {*compiled.sources, *texts.datasets()}:
        raise NotFound(
            f"`{request.curriculum}` reads no source `{only}` at size `{request.size}`",
            hint=did_you_mean(only, {*compiled.sources, *texts.datasets()}),
        )
    prepared_text.check_folders(texts)
    prepared_text.check_installed(texts)
    directory = compiled.stages[0].setting.imported
    if directory is not None and only is None and not imported_models.is_there(project, directory):
        import_job = jobs.ImportJob(
            attempt_folder=str(new_attempt(attempts)),
            source=str(directory.folder),
            imported=str(imported_models.root(project)),
            memory=str(imported_models.memory(project)),
        )
        if not _carry_out(request, import_job, f"the import of {directory.folder.name}", None, stop):
            return None
    tokenizer = tokenizers.tokenizer_request(project, compiled.tokenizer)
    if tokenizer is not None:
        job = jobs.TokenizerJob(attempt_folder=str(new_attempt(attempts)), request=tokenizer)
        if not _carry_out(request, job, f"tokenizer {compiled.tokenizer}", None, stop):
            return None
        with_tokenizer(prepared_text.compile_with_texts(project, request.curriculum, request.size)[0])
    missing = texts.missing(only)
    chosen = {c.dataset for n, c in compiled.sources.items() if only in (None, n, c.dataset)}
    for dataset in [*missing, *(sorted(chosen - set(missing)) if append else ())]:
        asked = texts.request(dataset, append=dataset not in missing)
        if elsewhere is not None:
            elsewhere(asked)
            continue
        processes = min(request.machine_entry.processes, asked.tasks)
        if request.machine_entry.launcher == "torchrun" and processes > 1 and not asked.append:
            each = replace(asked, workers=max(1, asked.workers // processes))
            helping = jobs.PrepareJob(attempt_folder=str(new_attempt(attempts)), request=each, help=True)
            if not _carry_out(request, helping, dataset, Path(asked.progress), stop, processes):
                return None
        prepare_job = jobs.PrepareJob(attempt_folder=str(new_attempt(attempts)), request=asked)
        if not _carry_out(request, prepare_job, dataset, Path(asked.progress), stop):
            return None
    return prepared_text.PreparedText(project, compiled)  # one that has seen what was just prepared


def _carry_out(
    request: RunRequest,
    job: jobs.Job,
    what: str,
    progress: Path | None,
    stop: StopFlag,
    processes: int = 1,
) -> bool:
    """`carry_out`; a refusal shows the line of sources.yaml that it speaks of."""
    try:
        return run_job(request, job, what, progress, stop, processes)
    except RunFailed as error:
        place = prepared_text.sources_place(request.project, error.entry)
        if place is None:
            raise
        raise RunFailed(error.what, place=place, hint=error.hint) from None

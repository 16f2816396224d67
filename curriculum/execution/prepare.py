"""Makes what a curriculum reads before it trains: its tokenizer and its tokenised text, each by a job."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from curriculum.artifacts import jobs
from curriculum.artifacts.job_process import StopFlag
from curriculum.artifacts.stage_folder import new_attempt
from curriculum.compiler import imported_models, prepared_text, tokenizers
from curriculum.compiler.compile import Compiled
from curriculum.data.requests import PrepareRequest
from curriculum.errors import NotFound, RunFailed, did_you_mean
from curriculum.execution.attempts import run_job
from curriculum.execution.request import RunRequest


def prepare(
    request: RunRequest,
    texts: prepared_text.PreparedText,
    stop: StopFlag,
    only: str | None = None,
    *,
    append: bool = False,
    with_tokenizer: Callable[[Compiled], None] = lambda compiled: None,
    elsewhere: Callable[[PrepareRequest], object] | None = None,
) -> prepared_text.PreparedText | None:
    """Tokenise what the curriculum reads and `texts` lacks: the text afterwards, None when it was asked to stop.

    Once a tokenizer is trained, `with_tokenizer` may refuse the plans for it before any text is tokenised with it.
    With `elsewhere`, texts are handed to it instead of made here. With `append`, what is prepared grows by the
    files that are new since.
    """
    project, curriculum = request.project, texts.curriculum
    attempts = project.data / "attempts"
    if only is not None and only not in {*curriculum.datasets, *texts.datasets()}:
        raise NotFound(
            f"`{request.curriculum}` reads no source `{only}` at size `{request.size}`",
            hint=did_you_mean(only, {*curriculum.datasets, *texts.datasets()}),
        )
    prepared_text.check_folders(texts)
    prepared_text.check_installed(texts)
    directory = curriculum.stages[0].setting.imported
    if directory is not None and only is None and not imported_models.is_there(project, directory):
        import_job = jobs.ImportJob(
            attempt_folder=str(new_attempt(attempts)),
            source=str(directory.folder),
            imported=str(imported_models.root(project)),
            memory=str(imported_models.memory(project)),
        )
        if not _carry_out(request, import_job, f"the import of {directory.folder.name}", None, stop):
            return None
        texts = prepared_text.PreparedText(curriculum)
    tokenizer = tokenizers.tokenizer_request(project, curriculum.tokenizer)
    if tokenizer is not None:
        job = jobs.TokenizerJob(attempt_folder=str(new_attempt(attempts)), request=tokenizer)
        if not _carry_out(request, job, f"tokenizer {curriculum.tokenizer}", None, stop):
            return None
        texts = prepared_text.PreparedText(curriculum)
        with_tokenizer(texts.compiled)
    chosen = sorted(
        {dataset for name, dataset in curriculum.datasets.items() if only in (None, name, dataset)}
    )
    missing = [dataset for dataset in chosen if texts.manifest(dataset) is None]
    datasets = [*missing, *(dataset for dataset in chosen if append and dataset not in missing)]
    for dataset in datasets:
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
    return prepared_text.PreparedText(curriculum) if datasets else texts


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

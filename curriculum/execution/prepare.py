"""Prepares what a lineage reads before it trains: an imported model, its tokenizer, its text; a job for each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from curriculum.artifacts import huggingface, jobs
from curriculum.artifacts.job_process import StopFlag
from curriculum.artifacts.stage_folder import new_attempt
from curriculum.compiler import imported_models, prepared_text, tokenizers
from curriculum.compiler.compile import Compiled
from curriculum.compiler.overlap import overlap_lines
from curriculum.compiler.prepared_text import PreparedText
from curriculum.data.listing import kind_of
from curriculum.data.requests import PrepareRequest
from curriculum.errors import NotFound, did_you_mean
from curriculum.execution.attempts import run_job
from curriculum.execution.request import RunRequest
from curriculum.runs.tokenizer import check_tokenizer


def prepare(
    request: RunRequest,
    texts: PreparedText,
    stop: StopFlag,
    only: str | None = None,
    *,
    append: bool = False,
    with_tokenizer: Callable[[Compiled], None] = lambda compiled: None,
    submit: Callable[[PrepareRequest], object] | None = None,
) -> PreparedText | None:
    """Tokenise the text that `texts` lacks, or that of the source `only`: the text afterwards, None when stopped.

    Once a tokenizer is trained, `with_tokenizer` may refuse the plans for it before any text is tokenised. With
    `submit`, texts are submitted by it instead of tokenised here. With `append`, prepared text grows by the files
    that are new. DataError as soon as one source would train on held-out text of another, see `overlap_lines`, and for
    another tokenizer than what is there was made with, see `check_tokenizer`.
    """
    made = _with_tokenizer(request, texts, stop, only, with_tokenizer)
    if made is None:
        return None
    texts, curriculum = made, texts.curriculum
    chosen = _chosen(texts, only)
    missing = [dataset for dataset in chosen if texts.manifest(dataset) is None]
    datasets = [*missing, *(dataset for dataset in chosen if append and dataset not in missing)]
    overlap_lines(texts, preparing=True)
    for dataset in datasets:
        text = texts.request(dataset, append=dataset not in missing)
        if submit is not None:
            submit(text)
        elif not _prepare_text(request, text, stop):
            return None
        else:
            texts = PreparedText(curriculum)
            overlap_lines(texts, preparing=True)
    return PreparedText(curriculum) if datasets else texts


def sample(request: RunRequest, texts: PreparedText, stop: StopFlag, only: str | None = None) -> PreparedText | None:
    """Measure what preparing takes on a sample of each text that `texts` lacks, or of the source `only`.

    A tokenizer that is to be trained is trained first. The text afterwards, None when stopped.
    """
    made = _with_tokenizer(request, texts, stop, only, lambda compiled: None)
    if made is None:
        return None
    for dataset in _chosen(made, only):
        text = made.request(dataset)
        if made.manifest(dataset) is None and kind_of(text.read) != "tokenised":
            job = jobs.PrepareJob(attempt_folder=_attempt(request), request=text, sample=True)
            if not run_job(request, job, f"a sample of {dataset}", stop):
                return None
    return made


def _chosen(texts: PreparedText, only: str | None) -> list[str]:
    """The datasets of the lineage, or that of the source `only`."""
    return sorted({dataset for name, dataset in texts.curriculum.datasets.items() if only in (None, name, dataset)})


def _with_tokenizer(
    request: RunRequest,
    texts: PreparedText,
    stop: StopFlag,
    only: str | None,
    with_tokenizer: Callable[[Compiled], None],
) -> PreparedText | None:
    """The text with its tokenizer, which is imported or trained where it is not there; None when stopped."""
    curriculum = texts.curriculum
    if only is not None and only not in {*curriculum.datasets, *texts.datasets()}:
        raise NotFound(
            f"`{request.curriculum}` reads no source `{only}` at size `{request.size}`",
            hint=did_you_mean(only, {*curriculum.datasets, *texts.datasets()}),
        )
    check_tokenizer(texts)
    prepared_text.check_folders(texts)
    prepared_text.check_special_tokens(texts)
    prepared_text.check_installed(texts)
    directory = curriculum.stages[0].setting.imported
    if directory is not None and only is None and not imported_models.is_there(request.project, directory):
        if not _import_model(request, directory, stop):
            return None
        texts = PreparedText(curriculum)
        prepared_text.check_special_tokens(texts)
    tokenizer = tokenizers.tokenizer_request(request.project, curriculum.tokenizer)
    if tokenizer is not None:
        job = jobs.TokenizerJob(attempt_folder=_attempt(request), request=tokenizer)
        if not run_job(request, job, f"tokenizer {curriculum.tokenizer}", stop):
            return None
        texts = PreparedText(curriculum)
        check_tokenizer(texts)
        prepared_text.check_special_tokens(texts)
        with_tokenizer(texts.compiled)
    return texts


def _import_model(request: RunRequest, directory: huggingface.Directory, stop: StopFlag) -> bool:
    """Import a Hugging Face directory; false when stopped."""
    job = jobs.ImportJob(
        attempt_folder=_attempt(request),
        source=str(directory.folder),
        imported=str(imported_models.root(request.project)),
        memory=str(imported_models.memory(request.project)),
    )
    return run_job(request, job, f"the import of {directory.folder.name}", stop)


def _prepare_text(request: RunRequest, text: PrepareRequest, stop: StopFlag) -> bool:
    """Tokenise `text` in as many processes as the machine has; false when stopped."""
    progress = Path(text.progress)
    processes = min(request.machine_entry.processes, text.tasks)
    if request.machine_entry.launcher == "torchrun" and processes > 1 and not text.append:
        share = replace(text, workers=max(1, text.workers // processes))
        helpers = jobs.PrepareJob(attempt_folder=_attempt(request), request=share, help=True)
        if not run_job(request, helpers, text.dataset, stop, progress=progress, processes=processes):
            return False
    job = jobs.PrepareJob(attempt_folder=_attempt(request), request=text)
    return run_job(request, job, text.dataset, stop, progress=progress)


def _attempt(request: RunRequest) -> str:
    return str(new_attempt(request.project.data / "attempts"))

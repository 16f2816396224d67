"""The `harness` job: measures an exported model with lm-evaluation-harness, and writes a record for each task.

The harness is a large optional dependency, imported by this module only.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import importlib.util
import json
import math
import os
import signal
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import Any

from curriculum import fs
from curriculum.artifacts.jobs import DONE, STOPPED, HarnessJob
from curriculum.errors import DataError, NotFound, PlanError, chain_of

FORMAT = 1
LIBRARIES = ("lm_eval", "transformers", "datasets", "torch")
PREFERRED = ("acc_norm", "acc", "exact_match", "f1", "em")
"""The metric shown for a task that has several, the first of these: the harness's order, as in TinyLlama's tables."""
_OFFLINE = {"OfflineModeIsEnabled", "LocalEntryNotFoundError", "ConnectError", "ConnectTimeout", "DatasetNotFoundError"}


class Interrupted(BaseException):
    """Raised by a stop signal; records are written atomically, so the process may end anywhere."""


def measure(job: HarnessJob) -> dict[str, Any]:
    """Measure every task without a record; returns the outcome.

    May be stopped and started again; an unfinished task is measured again. NotFound for an undefined task,
    DataError when its data is not available, PlanError when the harness is not installed.
    """
    outputs = {name: Path(path) for name, path in job.outputs.items() if not Path(path).exists()}
    if not outputs:
        return {"outcome": DONE}
    check_installed()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, _interrupt)
    try:
        os.chdir(job.folders[-1] if job.folders else job.attempt_folder)
        manager = task_manager(job.folders, list(outputs))
        if job.confirm_run_unsafe_code:
            os.environ["HF_ALLOW_CODE_EVAL"] = "1"  # the metric's own variable for the same consent
        else:
            _check_safe(manager.task_index, outputs)
        tasks = {name: load_task(manager, name) for name in outputs}
        model = _model(job)
        cut = record_cuts(model)
        for name, path in outputs.items():
            start = time.monotonic()
            results = _evaluate(job, model, manager, tasks[name])
            record = {
                "format": FORMAT,
                **job.identity,
                "task": name,
                "asked": {"num_fewshot": job.num_fewshot, "limit": job.limit},
                "harness": {library: _version(library) for library in LIBRARIES},
                "batch_size": job.batch_size,
                "device": str(model.device),
                "seconds": round(time.monotonic() - start, 3),
                **summarise(results, cut),
            }
            fs.make_directory(path.parent)
            fs.write_json(path, record, replace=True)
    except Interrupted:
        return {"outcome": STOPPED}
    return {"outcome": DONE}


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise Interrupted


def check_installed() -> None:
    if importlib.util.find_spec("lm_eval") is None:
        raise PlanError("lm-evaluation-harness is not installed", hint="`pip install 'curriculum[eval]'`")


def _version(library: str) -> str:
    return metadata.version(library)


# --- tasks -------------------------------------------------------------------------------------------------


def task_manager(task_folders: Sequence[str], names: Sequence[str]) -> Any:
    """The index of tasks by name. The harness's own fourteen thousand are read only where they are needed."""
    from lm_eval.tasks import TaskManager

    folders = list(task_folders)
    if folders:
        own = TaskManager(include_path=folders, include_defaults=False)
        if not _undefined(own.task_index, names):
            return own
    manager = TaskManager(include_path=folders or None)
    for name, group in _undefined(manager.task_index, names):
        where = f"the group `{group}` names `{name}`, a task" if group else f"`{name}` is a task"
        near = difflib.get_close_matches(name, manager.all_tasks, n=3, cutoff=0.7)
        raise NotFound(
            f"{where} that neither lm-evaluation-harness {_version('lm_eval')} nor the project's own files define",
            hint=f"did you mean {' or '.join(f'`{task}`' for task in near)}?"
            if near
            else "`lm-eval ls tasks` lists the harness's; a folder of your own task files: `--tasks-from DIR`",
        )
    return manager


def _with_members(index: Mapping[str, Any], names: Iterable[str]) -> Iterator[tuple[str, str | None]]:
    """The names and those of their groups' members, each once, with the group that names it (None for `names`)."""
    queue: list[tuple[str, str | None]] = [(name, None) for name in names]
    visited: set[str] = set()
    while queue:
        name, group = queue.pop(0)
        if name in visited:
            continue
        visited.add(name)
        yield name, group
        members = (index[name].cfg or {}).get("task") if name in index else None
        for member in members if isinstance(members, list) else ():
            if isinstance(member, dict):
                if "dataset_path" in member or isinstance(member.get("task"), list):
                    continue  # defined inline
                member = member.get("group") or member.get("task")
            queue.append((str(member), name))


def _undefined(index: Mapping[str, Any], names: Iterable[str]) -> list[tuple[str, str | None]]:
    """The names that no file defines, each with the group that names it."""
    return [(name, group) for name, group in _with_members(index, names) if name not in index]


def _check_safe(index: Mapping[str, Any], names: Iterable[str]) -> None:
    """PlanError for tasks that run code of the model, before they are loaded, which may already run code."""
    for name, _ in _with_members(index, names):
        if (index[name].cfg or {}).get("unsafe_code"):
            raise PlanError(
                f"`{name}` runs code that the model wrote, on this machine",
                hint="in a sandbox: `--confirm-run-unsafe-code`; or name the other tasks",
            )


def load_task(manager: Any, name: str) -> list[Any]:
    """The task, group or tagged tasks called `name`, with their data; what `simple_evaluate` takes."""
    with _refusals(name):
        loaded = manager.load([name])
    groups = loaded.get("groups") or {}
    return [groups[name]] if name in groups else list(loaded["tasks"].values())


@contextlib.contextmanager
def _refusals(name: str) -> Iterator[None]:
    """Convert a library's error on loading a task into a DataError with a hint."""
    try:
        yield
    except Exception as error:
        chain = chain_of(error)
        offline = next((e for e in chain if isinstance(e, ConnectionError) or type(e).__name__ in _OFFLINE), None)
        if offline is not None:
            raise DataError(
                f"the data of `{name}` is not available: {_first_line(offline)}",
                hint="it is on the hub: run this once with network, which stores it in the cache of `datasets` "
                "(HF_HOME); a gated one needs `hf auth login`; or use data of your own with `--tasks-from DIR`",
            ) from error
        raise DataError(
            f"`{name}` cannot be loaded: {type(error).__name__}: {_first_line(error)}",
            hint="a task file's relative paths are resolved from its folder, that of `--tasks-from` if given; "
            "the end of the log shows more",
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


# --- the model -----------------------------------------------------------------------------------------------


def _model(job: HarnessJob) -> Any:
    import torch
    from lm_eval.models.huggingface import HFLM

    device = job.device if job.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    return HFLM(pretrained=job.model, backend="causal", device=device, dtype="auto", batch_size=job.batch_size)


def record_cuts(model: Any) -> Set[str]:
    """The texts of requests whose beginning `model` drops because they are longer than its context, as it meets them.

    The harness only warns of them in its log, and scores the question that is left.
    """
    cut: set[str] = set()
    score, encode = model._loglikelihood_tokens, model.tok_batch_encode

    def scored(requests: Any, *rest: Any, **options: Any) -> Any:
        for texts, context, continuation in requests:
            if len(context) + len(continuation) > model.max_length + 1:
                cut.add(_text(texts))
        return score(requests, *rest, **options)

    def encoded(strings: Any, *rest: Any, left_truncate_len: int | None = None, **options: Any) -> Any:
        if left_truncate_len is not None:
            cut.update(text for text in strings if len(model.tok_encode(text)) > left_truncate_len)
        return encode(strings, *rest, left_truncate_len=left_truncate_len, **options)

    model._loglikelihood_tokens, model.tok_batch_encode = scored, encoded
    return cut


def _text(arguments: Iterable[Any]) -> str:
    """The text of a request: its context, with the continuation that is scored, if any."""
    return "".join(argument for argument in arguments if isinstance(argument, str))


def _evaluate(job: HarnessJob, model: Any, manager: Any, tasks: list[Any]) -> Mapping[str, Any]:
    import lm_eval

    results: Mapping[str, Any] = lm_eval.simple_evaluate(
        model=model,
        tasks=tasks,
        num_fewshot=job.num_fewshot,
        limit=job.limit,
        batch_size=job.batch_size,
        task_manager=manager,
        log_samples=True,
        confirm_run_unsafe_code=job.confirm_run_unsafe_code,
    )
    return results


# --- the results ---------------------------------------------------------------------------------------------


def summarise(results: Mapping[str, Any], cut: Set[str] = frozenset()) -> dict[str, Any]:
    """The harness's results as recorded: numbers for each task and group, a digest of the documents.

    `cut` are the texts of requests that did not fit the context; a task's record counts the documents that had one.

    `per_document` is the preferred metric of every document in order, for comparisons document by document; None
    where the metric is not one number a document.
    """
    tasks = {}
    groups = {}
    for name, values in results["results"].items():
        higher = results.get("higher_is_better", {}).get(name) or {}
        metrics = _metrics(values, higher)
        members = list(results.get("group_subtasks", {}).get(name, ()))
        if members or name not in results["configs"]:
            groups[name] = {"members": members, "metrics": metrics, "preferred": preferred(metrics)}
            continue
        samples = results.get("samples", {}).get(name, [])
        best = preferred(metrics)
        counts = results.get("n-samples", {}).get(name, {})
        tasks[name] = {
            "version": results.get("versions", {}).get(name),
            "num_fewshot": results.get("n-shot", {}).get(name),
            "definition": _definition(results["configs"][name]),
            "documents": counts.get("effective", len(samples)),
            "of": counts.get("original"),
            "cut": len({s["doc_id"] for s in samples if any(_text(request) in cut for request in s["arguments"])}),
            "digest": _documents(samples),
            "metrics": metrics,
            "preferred": best,
            "per_document": _per_document(samples, best),
        }
    return {"tasks": tasks, "groups": groups}


def _metrics(values: Mapping[str, Any], higher: Mapping[str, Any]) -> dict[str, Any]:
    """`{"acc,none": {"value", "error", "higher_is_better"}, …}`; `error` is None where the harness has none."""
    metrics = {}
    for key, value in values.items():
        metric, comma, filter_name = key.partition(",")
        if not comma or metric.endswith("_stderr") or not _is_number(value):
            continue
        error: Any = values.get(f"{metric}_stderr,{filter_name}")
        metrics[key] = {
            "value": float(value),
            "error": float(error) if _is_number(error) else None,
            "higher_is_better": bool(higher.get(metric, True)),
        }
    return metrics


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def preferred(metrics: Mapping[str, Any]) -> str | None:
    """The key of the metric shown for a task; None where there is no number."""
    names = {key: key.partition(",")[0] for key in metrics}
    first = (key for name in PREFERRED for key, metric in names.items() if metric == name)
    return next(first, next(iter(metrics), None))


def _definition(config: Mapping[str, Any]) -> str:
    """A digest of the task's definition: prompts, splits, metrics; not of the path of its file."""
    plain = {key: value for key, value in config.items() if key not in ("metadata", "num_fewshot")}
    return hashlib.sha256(json.dumps(plain, sort_keys=True, default=str).encode()).hexdigest()


def _documents(samples: Iterable[Mapping[str, Any]]) -> str:
    """A digest of the documents and their prompts, in order."""
    digest = hashlib.sha256()
    for sample in samples:
        for key in ("doc_hash", "prompt_hash", "target_hash"):
            digest.update(f"{sample.get(key)}\n".encode())
    return digest.hexdigest()


def _per_document(samples: Iterable[Mapping[str, Any]], key: str | None) -> list[float] | None:
    if key is None:
        return None
    metric, _, filter_name = key.partition(",")
    values: list[Any] = [s.get(metric) for s in samples if s.get("filter", filter_name) == filter_name]
    return list(map(float, values)) if values and all(map(_is_number, values)) else None

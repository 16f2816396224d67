"""Measures an exported model with lm-evaluation-harness and writes what it found, a file for each task asked for.

The harness is an extra and a large one: nothing else of the runner imports it, and training never does.
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
from collections.abc import Iterable, Iterator, Mapping
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
"""The metric that stands for a task where it has several: the harness's own habit, as in TinyLlama's tables."""
_OFFLINE = {
    "OfflineModeIsEnabled",
    "LocalEntryNotFoundError",
    "ConnectError",
    "ConnectTimeout",
    "DatasetNotFoundError",
}


class Interrupted(BaseException):
    """A signal came: nothing is half written, so the process may end where it stands."""


def measure(job: HarnessJob) -> dict[str, Any]:
    """Measure every task whose record is not there yet; returns the outcome.

    Safe to stop and to start again between tasks; a task that was begun is measured anew. NotFound for a task
    that nothing defines, DataError when its data cannot be had, PlanError when the harness is not installed.
    """
    wanted = {name: Path(path) for name, path in job.outputs.items() if not Path(path).exists()}
    if not wanted:
        return {"outcome": DONE}
    if importlib.util.find_spec("lm_eval") is None:
        raise PlanError("lm-evaluation-harness is not installed", hint="`pip install 'curriculum[eval]'`")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, _interrupt)
    try:
        os.chdir(job.folders[-1] if job.folders else job.attempt_folder)
        manager = _manager(job, list(wanted))
        if job.confirm_run_unsafe_code:
            os.environ["HF_ALLOW_CODE_EVAL"] = "1"  # the metric's own word for the same consent
        else:
            _check_safe(manager.task_index, wanted)
        tasks = {name: _load(manager, name) for name in wanted}
        model = _model(job)
        for name, path in wanted.items():
            begun = time.monotonic()
            found = _evaluate(job, model, manager, tasks[name])
            record = {
                "format": FORMAT,
                **job.identity,
                "task": name,
                "asked": {"num_fewshot": job.num_fewshot, "limit": job.limit},
                "harness": {library: _version(library) for library in LIBRARIES},
                "batch_size": job.batch_size,
                "device": str(model.device),
                "seconds": round(time.monotonic() - begun, 3),
                **read(found),
            }
            fs.make_directory(path.parent)
            fs.write_json(path, record, replace=True)
    except Interrupted:
        return {"outcome": STOPPED}
    return {"outcome": DONE}


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise Interrupted


def _version(library: str) -> str:
    return metadata.version(library)


# --- tasks -------------------------------------------------------------------------------------------------


def _manager(job: HarnessJob, names: list[str]) -> Any:
    """Knows every task by name. The harness's own fourteen thousand are only read where they are needed."""
    from lm_eval.tasks import TaskManager

    folders = list(job.folders)
    if folders:
        own = TaskManager(include_path=folders, include_defaults=False)
        if not _unknown(own.task_index, names):
            return own
    manager = TaskManager(include_path=folders or None)
    for name, inside in _unknown(manager.task_index, names):
        where = f"the group `{inside}` names `{name}`, a task" if inside else f"`{name}` is a task"
        near = difflib.get_close_matches(name, manager.all_tasks, n=3, cutoff=0.7)
        raise NotFound(
            f"{where} that neither lm-evaluation-harness {_version('lm_eval')} nor the project's own files define",
            hint=f"did you mean {' or '.join(f'`{one}`' for one in near)}?"
            if near
            else "`lm-eval ls tasks` lists the harness's; a folder of your own task files: `--tasks-from DIR`",
        )
    return manager


def _named(index: Mapping[str, Any], names: Iterable[str]) -> Iterator[tuple[str, str | None]]:
    """Every name that is asked for, or that a group of these names, once, with the group that names it."""
    waiting: list[tuple[str, str | None]] = [(name, None) for name in names]
    seen: set[str] = set()
    while waiting:
        name, inside = waiting.pop(0)
        if name in seen:
            continue
        seen.add(name)
        yield name, inside
        members = (index[name].cfg or {}).get("task") if name in index else None
        for member in members if isinstance(members, list) else ():
            if isinstance(member, dict):
                if "dataset_path" in member or isinstance(member.get("task"), list):
                    continue  # defined on the spot
                member = member.get("group") or member.get("task")
            waiting.append((str(member), name))


def _unknown(index: Mapping[str, Any], names: Iterable[str]) -> list[tuple[str, str | None]]:
    """The names that no file defines, each with the group that names it; None where it was asked for itself."""
    return [(name, inside) for name, inside in _named(index, names) if name not in index]


def _check_safe(index: Mapping[str, Any], names: Iterable[str]) -> None:
    """Refuse tasks that run what the model wrote: before they are loaded, which may already run something."""
    for name, _ in _named(index, names):
        if (index[name].cfg or {}).get("unsafe_code"):
            raise PlanError(
                f"`{name}` runs code that the model wrote, on this machine",
                hint="where nothing can be harmed: `--confirm-run-unsafe-code`; or ask for the other tasks by name",
            )


def _load(manager: Any, name: str) -> list[Any]:
    """The task, group or tagged tasks called `name`, with their data; what `simple_evaluate` takes."""
    with _explained(name):
        loaded = manager.load([name])
    groups = loaded.get("groups") or {}
    return [groups[name]] if name in groups else list(loaded["tasks"].values())


@contextlib.contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turns what a library says of missing data into a refusal with its way out."""
    try:
        yield
    except Exception as error:
        chain = chain_of(error)
        offline = next(
            (e for e in chain if isinstance(e, ConnectionError) or type(e).__name__ in _OFFLINE), None
        )
        if offline is not None:
            raise DataError(
                f"the data of `{name}` cannot be had: {_first_line(offline)}",
                hint="it lies on the hub: run this once with network, which keeps it in the cache of `datasets` "
                "(HF_HOME); a gated one wants `hf auth login`; or bring data of your own with `--tasks-from DIR`",
            ) from error
        raise DataError(
            f"`{name}` cannot be loaded: {type(error).__name__}: {_first_line(error)}",
            hint="a task file's relative paths count from its folder, that of `--tasks-from` if given; "
            "the end of the log says more",
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


# --- the model -----------------------------------------------------------------------------------------------


def _model(job: HarnessJob) -> Any:
    import torch
    from lm_eval.models.huggingface import HFLM

    device = job.device if job.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    return HFLM(
        pretrained=job.model, backend="causal", device=device, dtype="auto", batch_size=job.batch_size
    )


def _evaluate(job: HarnessJob, model: Any, manager: Any, tasks: list[Any]) -> Mapping[str, Any]:
    import lm_eval

    found: Mapping[str, Any] = lm_eval.simple_evaluate(
        model=model,
        tasks=tasks,
        num_fewshot=job.num_fewshot,
        limit=job.limit,
        batch_size=job.batch_size,
        task_manager=manager,
        log_samples=True,
        confirm_run_unsafe_code=job.confirm_run_unsafe_code,
    )
    return found


# --- what it found -------------------------------------------------------------------------------------------


def read(found: Mapping[str, Any]) -> dict[str, Any]:
    """The harness's results as a record keeps them: numbers for each task and group, a digest of the documents.

    `per_document` holds the preferred metric of every document in order, so that two models can be compared
    document by document; it is left out where the metric is not one number a document.
    """
    tasks = {}
    groups = {}
    for name, values in found["results"].items():
        higher = found.get("higher_is_better", {}).get(name) or {}
        metrics = _metrics(values, higher)
        members = list(found.get("group_subtasks", {}).get(name, ()))
        if members or name not in found["configs"]:
            groups[name] = {"members": members, "metrics": metrics, "preferred": preferred(metrics)}
            continue
        samples = found.get("samples", {}).get(name, [])
        best = preferred(metrics)
        counts = found.get("n-samples", {}).get(name, {})
        tasks[name] = {
            "version": found.get("versions", {}).get(name),
            "num_fewshot": found.get("n-shot", {}).get(name),
            "definition": _definition(found["configs"][name]),
            "documents": counts.get("effective", len(samples)),
            "of": counts.get("original"),
            "digest": _documents(samples),
            "metrics": metrics,
            "preferred": best,
            "per_document": _per_document(samples, best),
        }
    return {"tasks": tasks, "groups": groups}


def _metrics(values: Mapping[str, Any], higher: Mapping[str, Any]) -> dict[str, Any]:
    """`{"acc,none": {"value", "error", "higher_is_better"}, …}`; `error` is None where the harness has none."""
    found = {}
    for key, value in values.items():
        metric, comma, chosen = key.partition(",")
        if not comma or metric.endswith("_stderr") or not _is_number(value):
            continue
        error: Any = values.get(f"{metric}_stderr,{chosen}")
        found[key] = {
            "value": float(value),
            "error": float(error) if _is_number(error) else None,
            "higher_is_better": bool(higher.get(metric, True)),
        }
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def preferred(metrics: Mapping[str, Any]) -> str | None:
    """Which of several metrics stands for the task; None where there is no number."""
    names = {key: key.partition(",")[0] for key in metrics}
    for wanted in PREFERRED:
        for key, metric in names.items():
            if metric == wanted:
                return key
    return next(iter(metrics), None)


def _definition(config: Mapping[str, Any]) -> str:
    """A digest of the task's own words: prompts, splits, metrics; not of where its file lies."""
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
    metric, _, chosen = key.partition(",")
    values: list[Any] = [s.get(metric) for s in samples if s.get("filter", chosen) == chosen]
    return list(map(float, values)) if values and all(map(_is_number, values)) else None

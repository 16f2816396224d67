"""The `task-items` job: writes the items of a task of lm-evaluation-harness as the texts that an evaluation reads."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from curriculum import fs
from curriculum.artifacts.jobs import DONE, TaskItemsJob
from runner.evaluate.lm_eval import check_installed, load_task, task_manager


def write_items(job: TaskItemsJob) -> dict[str, Any]:
    """Write a line `{"id", "texts"}` for each document of the task, or of every task of the group; the outcome.

    NotFound, DataError and PlanError as `runner.evaluate.lm_eval.measure` raises them.
    """
    check_installed()
    os.chdir(job.folders[-1] if job.folders else job.attempt_folder)
    # Tasks that score a model's code try their scorer when they are loaded; here no model writes any.
    os.environ["HF_ALLOW_CODE_EVAL"] = "1"
    manager = task_manager(job.folders, [job.task])
    lines = []
    for task in _leaves(load_task(manager, job.task)):
        lines += [
            fs.canonical_json({"id": f"{task.task_name}:{number}", "texts": texts}) + b"\n"
            for number, texts in items(task)
        ]
    fs.make_directory(Path(job.output).parent)
    fs.write_bytes(Path(job.output), b"".join(lines), replace=True)
    return {"outcome": DONE}


def _leaves(loaded: Iterable[Any]) -> Iterator[Any]:
    """The tasks of what was loaded, those of groups included."""
    for one in loaded:
        if hasattr(one, "get_all_tasks"):
            yield from one.get_all_tasks()
        else:
            yield one


def items(task: Any) -> Iterator[tuple[int, list[str]]]:
    """The number of each document that is evaluated, and its texts: each request with what it is scored on.

    Worked examples and the task's description are left out, for they are not of the document. To a prompt that a model
    is to continue its targets are appended.
    """
    task.set_config("description", "")
    for number, document in task.doc_iterator():
        context = task.fewshot_context(document, num_fewshot=0, gen_prefix=task.doc_to_prefix(document))
        requests = task.construct_requests(doc=document, ctx=context, metadata=(task.task_name, number, 1))
        texts: list[str] = []
        for request in requests if isinstance(requests, list) else [requests]:
            text = "".join(part for part in request.args if isinstance(part, str))
            if request.request_type == "generate_until":
                texts += [text + str(task.config.target_delimiter) + target for target in _targets(task, document)]
            texts.append(text)
        yield (
            number,
            [text for text in dict.fromkeys(texts) if not any(text in other for other in texts if other != text)],
        )


def _targets(task: Any, document: Any) -> list[str]:
    targets = task.doc_to_target(document)
    return [target for target in (targets if isinstance(targets, list) else [targets]) if isinstance(target, str)]

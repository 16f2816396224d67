"""Several lineages on Slurm: a job for each stage that some share, and behind it one array for the rest of all.

Those that average checkpoints still to be trained are queued behind them, stage by stage.

An element of the array trains what remains of one lineage, stage by stage. Each stage has the folder of a submission as
one with a job of its own has, and the element as its job, so that status, stop and requeue are the same.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from curriculum import fs
from curriculum.artifacts.stage_folder import Attempt, new_attempt, next_attempt
from curriculum.compiler.compile import Compiled
from curriculum.compiler.lineage_tree import stage_tree
from curriculum.compiler.prepared_text import PreparedText
from curriculum.errors import PlanError
from curriculum.execution import trainers
from curriculum.execution.request import RunRequest
from curriculum.execution.slurm import train
from curriculum.execution.slurm.submission import QueuedJob, expected_job, placed
from curriculum.execution.slurm.train import TrainSubmission
from curriculum.execution.train_job import is_ended_arm
from curriculum.launchers import slurm, slurm_record
from curriculum.runs.folders import is_finished

LINES: Final = "jobs.txt"
"""A line for each element: the JSON list of its submissions' folders."""
SCRIPT: Final = "array.sh"

Chain = Sequence[TrainSubmission]
"""What remains of a lineage, in order."""


@dataclass(frozen=True, slots=True)
class LineageToQueue:
    """A request for one of several lineages, compiled."""

    request: RunRequest
    compiled: Compiled
    texts: PreparedText


def submit(lineages: Sequence[LineageToQueue]) -> dict[str, list[QueuedJob]]:
    """Submit what the lineages lack; by curriculum the jobs of its stages that wait or run, root first."""
    queued: dict[str, QueuedJob] = {}
    plain, averaging = _divided(lineages)
    for submission in _shared(plain, queued):
        queued[submission.label] = submission.submit()
    groups: dict[str | None, list[Chain]] = {}
    for lineage in plain:
        after, chain = _remaining(lineage, queued)
        if chain:
            groups.setdefault(after, []).append(chain)
    for after, chains in groups.items():
        for job in _queue(chains, after):
            queued[job.label] = job
    for lineage in averaging:
        for job in train.submit(lineage.request, lineage.compiled, lineage.texts):
            queued.setdefault(job.label, job)
    return {
        lineage.request.name: [queued[s.name] for s in lineage.compiled.stages if s.name in queued]
        for lineage in lineages
    }


def _divided(lineages: Sequence[LineageToQueue]) -> tuple[list[LineageToQueue], list[LineageToQueue]]:
    """Those that train alone, and those that average checkpoints of lineages that are to be trained first."""
    plain: list[LineageToQueue] = []
    averaging: list[LineageToQueue] = []
    for one in lineages:
        waits = any(True for s in one.compiled.stages for _ in train.members_to_queue(one.request, one.compiled, s))
        (averaging if waits else plain).append(one)
    return plain, averaging


def _shared(lineages: Sequence[LineageToQueue], queued: Mapping[str, QueuedJob]) -> Iterator[TrainSubmission]:
    """The stages that several lineages go through and that are not finished, root first, each after its parent's job.

    The caller puts the job of each into `queued` before it takes the next.
    """
    names = [lineage.request.name for lineage in lineages]
    for node in stage_tree([lineage.compiled for lineage in lineages], names).values():
        lineage = next(lineage for lineage in lineages if lineage.compiled is node.lineage)
        parent = node.stage.parent
        job = queued.get(parent.name) if parent else None
        submission = _submission(lineage, node.stage.name, job.job if job else None)
        through = [one for one in lineages if one.request.name in node.left_at]
        needed = not all(is_ended_arm(one.request, one.compiled) for one in through)
        if len(through) > 1 and needed and not is_finished(submission.stage_folder, node.stage):
            yield submission


def _submission(lineage: LineageToQueue, name: str, after: str | None) -> TrainSubmission:
    stage = next(stage for stage in lineage.compiled.stages if stage.name == name)
    return TrainSubmission(
        request=lineage.request, after=after, compiled=lineage.compiled, stage=stage, texts=lineage.texts
    )


def _remaining(lineage: LineageToQueue, queued: dict[str, QueuedJob]) -> tuple[str | None, Chain]:
    """The job that the rest of a lineage waits for, and that rest; stages whose job waits or runs already are left."""
    after: str | None = None
    chain: list[TrainSubmission] = []
    if is_ended_arm(lineage.request, lineage.compiled):
        return after, chain
    for stage in lineage.compiled.stages:
        submission = _submission(lineage, stage.name, None)
        if stage.name in queued:
            after = queued[stage.name].job
        elif not chain and (status := slurm_record.live_job(submission.folder)) and submission.serves(status):
            queued[stage.name] = QueuedJob(submission.label, status.record.job, status.message, fresh=False)
            after = status.record.job
        elif not is_finished(submission.stage_folder, stage):
            chain.append(submission)
    return after, chain


def _queue(chains: Sequence[Chain], after: str | None) -> Iterator[QueuedJob]:
    """Submit the chains as the elements of one array, each behind the job `after`."""
    request = chains[0][0].request
    with contextlib.ExitStack() as locks:
        written: list[list[tuple[TrainSubmission, Attempt]]] = []
        for chain in chains:
            written.append([])
            for submission in chain:
                fs.make_directory(submission.folder)
                locks.enter_context(fs.Lock(submission.folder / "submit.lock", f"submitting {submission.label}"))
                submission.refuse_if_held()
                attempt = new_attempt(submission.folder / slurm_record.FOLDER)
                submission.write(attempt)
                written[-1].append((submission, attempt))
        first = written[0][0][1]
        lines = (json.dumps([str(attempt) for _, attempt in element]) + "\n" for element in written)
        fs.write_bytes(first.path / LINES, "".join(lines).encode())
        batch_job = _batch_job(request, first, len(chains), after)
        fs.write_bytes(first.path / SCRIPT, slurm.script(batch_job, request.machine_entry).encode())
        try:
            array = slurm.submit(first.path / SCRIPT, batch_job)
        except PlanError as error:
            raise placed(error, request) from None
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        for index, element in enumerate(written):
            for submission, attempt in element:
                record = slurm_record.SubmissionRecord(
                    job=f"{array}_{index}",
                    machine=request.machine,
                    since=since,
                    folder=f"{slurm_record.FOLDER}/{attempt.name}",
                )
                slurm_record.write(submission.folder, record)
    for index, element in enumerate(written):
        for submission, _ in element:
            waits = f", after job {after}" if after else ""
            yield QueuedJob(submission.label, f"{array}_{index}", f"Slurm job {array}_{index}{waits}", fresh=True)


def _batch_job(request: RunRequest, first: Attempt, elements: int, after: str | None) -> slurm.BatchJob:
    entry = request.machine_entry
    return slurm.BatchJob(
        name=f"curriculum:{elements} curricula",
        command=(sys.executable, "-m", "curriculum.execution.slurm.array_main", str(first.path / LINES)),
        log=first.path / "%A-%a.log",
        nodes=entry.nodes,
        processes=trainers.started_processes(request),
        gpus_per_node=entry.gpus_per_node,
        threads=entry.threads,
        after=after,
        array=f"0-{elements - 1}" + (f"%{entry.workers}" if entry.workers else ""),
    )


def outline(lineages: Sequence[LineageToQueue]) -> Iterator[str]:
    """What `submit` would write and submit, as lines."""
    queued: dict[str, QueuedJob] = {}
    plain, averaging = _divided(lineages)
    for submission in _shared(plain, queued):
        yield from submission.outline(f"to {submission.stage.stop:,} tokens, as one batch job")
        job = expected_job(submission.folder, submission.label)
        queued[submission.label] = QueuedJob(submission.label, job, "", fresh=False)
    groups: dict[str | None, list[Chain]] = {}
    for lineage in plain:
        after, chain = _remaining(lineage, queued)
        if chain:
            groups.setdefault(after, []).append(chain)
    for after, chains in groups.items():
        request = chains[0][0].request
        first = next_attempt(chains[0][0].folder / slurm_record.FOLDER)
        batch_job = _batch_job(request, first, len(chains), after)
        yield f"{len(chains)} elements of one array:"
        for chain in chains:
            yield f"  {', '.join(submission.label for submission in chain)}"
            for submission in chain:
                attempt = next_attempt(submission.folder / slurm_record.FOLDER)
                yield from (f"    writes {path}" for path in submission.files(attempt))
        yield f"  writes {first.path / LINES}"
        yield f"  writes {first.path / SCRIPT}:"
        yield from (f"    {line}" for line in slurm.script(batch_job, request.machine_entry).splitlines())
        yield f"  {shlex.join(slurm.command(first.path / SCRIPT, batch_job))}"
    for lineage in averaging:
        yield from train.outline(lineage.request, lineage.compiled, lineage.texts)


def folders_of_element(lines: Path, index: int) -> list[Attempt]:
    """The submissions of one element of the array, in the order in which it does them."""
    folders: list[str] = json.loads(lines.read_text().splitlines()[index])
    return [Attempt(Path(folder)) for folder in folders]

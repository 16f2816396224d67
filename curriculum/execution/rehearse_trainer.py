"""Whether a trainer resumes to the same bits and reads what it is offered: two short stages, then killed twice."""

from __future__ import annotations

import os
import random
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from curriculum import fs
from curriculum.artifacts import checkpoints
from curriculum.artifacts.metrics import last_record, read_metrics
from curriculum.artifacts.stage_folder import StageFolder
from curriculum.config.project import Project
from curriculum.errors import PlanError, RunFailed
from curriculum.execution.request import RunRequest
from curriculum.execution.run import run
from curriculum.stream.saves import WITNESSED

NAME, SIZE = "rehearsal", "full"
STAGES = ("first", "second")
STEPS, LENGTH, VOCABULARY = 24, 32, 300
POLL_SECONDS = 0.001

STAGE_FILE = """\
seed: 7
model: {{hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 4, num_key_value_heads: 2,
        intermediate_size: 64, vocab_size: {vocabulary}}}
tokenizer: small
sequence_length: {length}
optimizer: {{name: adamw, weight_decay: 0.1}}
learning_rate: {{shape: cosine, max: 1e-2, min: 1e-3, warmup: 2 steps, horizon: {end}}}
every: {{evaluate: {end} tokens, checkpoint: {every} tokens}}
stages:
  - {{name: first, until: {middle}, mixture: words, batch: {batch} sequences}}
  - {{name: second, until: {end}, batch: {larger} sequences}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerRehearsal:
    """What was seen: whether every step's witness is the plan's, the kills that came in time, what differs after."""

    witnessed: bool
    kills: int
    files: int
    different_files: tuple[str, ...]
    different_step: int | None

    @property
    def resumes_bitwise(self) -> bool:
        """Shown, not only not refuted: both kills came in time."""
        return self.kills == len(STAGES) and not self.different_files and self.different_step is None


def rehearse(request: RunRequest) -> TrainerRehearsal:
    """Train two short stages undisturbed, and again with each killed past a checkpoint; PlanError without a trainer."""
    entry, document = request.machine_entry, request.project.machines_document
    if entry.trainer is None or entry.launcher == "slurm" or entry.nodes > 1:
        raise PlanError(
            f"machine `{request.machine}` has no trainer that can be rehearsed here",
            place=document.place((request.machine,)),
            hint="name a machine with `trainer:`, of one node and without Slurm",
        )
    with _folder() as folder:
        undisturbed, killed = folder / "undisturbed", folder / "killed"
        _write_project(undisturbed, request)
        run(_request(request, undisturbed))
        shutil.copytree(undisturbed, killed, ignore=shutil.ignore_patterns("runs"))
        with _killing([_stage(killed, name) for name in STAGES]) as kills:
            run(_request(request, killed))
        return _compared(undisturbed, killed, len(kills))


@contextmanager
def _folder() -> Iterator[Path]:
    """A folder that is removed, unless the trainer fails there: the log that the error names is in it."""
    folder = Path(tempfile.mkdtemp(prefix="curriculum-rehearsal-"))
    failed = False
    try:
        yield folder
    except RunFailed:
        failed = True
        raise
    finally:
        if not failed:
            shutil.rmtree(folder)


def _request(request: RunRequest, root: Path) -> RunRequest:
    folder = request.trainer_folder or request.project.root
    return replace(request, project=Project(root), curriculum=NAME, size=SIZE, trainer_folder=folder)


def _stage(root: Path, name: str) -> StageFolder:
    return StageFolder(Project(root).stage_folder(SIZE, NAME, name))


def _write_project(root: Path, request: RunRequest) -> None:
    share = request.world * (request.machine_entry.micro_batch or 1)
    batch = share * -(-8 // share)
    tokens = batch * LENGTH
    stages = STAGE_FILE.format(
        vocabulary=VOCABULARY,
        length=LENGTH,
        batch=batch,
        larger=2 * batch,
        every=3 * tokens,
        middle=STEPS * tokens,
        end=2 * STEPS * tokens,
    )
    files = {
        f"stages/{NAME}.yaml": stages,
        "mixtures/words.yaml": "weights: {words: 1}\n",
        "sources.yaml": f"tokenizers:\n  small: {{train: [words], vocab_size: {VOCABULARY}}}\n"
        "sources:\n  words: {read: {folder: texts}, held_out: 10%}\n",
        "sizes.yaml": f"{SIZE}: {{}}\n",
    }
    draw = random.Random(7)  # noqa: S311
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(draw.choices(letters, k=draw.randint(2, 8))) for _ in range(400)]
    for number in range(48 * -(-batch // 8)):
        files[f"texts/{number:04d}.txt"] = " ".join(draw.choices(words, k=400))
    for name, text in files.items():
        fs.make_directory((root / name).parent)
        fs.write_bytes(root / name, text.encode())
    shutil.copyfile(request.project.root / "machines.yaml", root / "machines.yaml")


@contextmanager
def _killing(folders: list[StageFolder]) -> Iterator[list[StageFolder]]:
    """During the block, kill rank 0 of each stage once, past a checkpoint; the stages where that was done."""
    killed: list[StageFolder] = []
    over = threading.Event()

    def watch() -> None:
        while len(killed) < len(folders) and not over.wait(POLL_SECONDS):
            folder = next((one for one in folders if one not in killed and not one.done.exists()), None)
            if folder is None:  # it ended before the kill
                return
            saved, taken = checkpoints.latest(folder), last_record(folder.metrics)
            holder = fs.lock_holder(folder.lock) if saved and taken and taken["position"] > saved.position else None
            if holder is not None:
                os.kill(int(holder["pid"]), signal.SIGKILL)
                killed.append(folder)

    thread = threading.Thread(target=watch, name="kills", daemon=True)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


def _compared(undisturbed: Path, killed: Path, kills: int) -> TrainerRehearsal:
    files, different, witnessed, step = 0, list[str](), True, None
    for name in STAGES:
        one, other = _stage(undisturbed, name), _stage(killed, name)
        ends = [checkpoints.latest(folder) for folder in (one, other)]
        digests = [checkpoints.file_digests(end.path) for end in ends if end is not None]
        files += len(digests[0])
        different += [f"{name}: {file}" for file in sorted(digests[0]) if digests[0][file] != digests[1].get(file)]
        witnessed &= all(checkpoints.state(end.path)["counted"] == WITNESSED for end in ends if end is not None)
        pairs = zip(read_metrics(one.metrics), read_metrics(other.metrics), strict=True)
        differing = (a["step"] for a, b in pairs if a["loss"] != b["loss"])
        step = next(differing, None) if step is None else step
    return TrainerRehearsal(
        witnessed=witnessed, kills=kills, files=files, different_files=tuple(different), different_step=step
    )

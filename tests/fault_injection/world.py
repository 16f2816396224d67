"""A small project that really runs, its processes forked from one that has imported torch once."""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from curriculum.artifacts.stage_folder import StageFolder
from curriculum.compiler import prepared_text
from curriculum.compiler.compile import Compiled
from curriculum.config.project import Project
from curriculum.errors import CurriculumError
from curriculum.execution import run as execution_run
from curriculum.execution.request import Listener, RunRequest
from curriculum.launchers import process as subprocess_launcher, supervisor
from tests.fault_injection import small
from tests.support.projects import write_small_project

STAGES = (("trunk", "basic"), ("variant", "continual"), ("variant", "cooldown"))


class Forked:
    """What the supervisor sees of a child: a `Popen` as far as it looks."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.poll() is None:
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError
            time.sleep(0.002)
        assert self.returncode is not None
        return self.returncode


def fork(work: Callable[[], int | None], log: Path | None = None, *, group: bool = True) -> Forked:
    """Do `work` in a child of its own process group; its exit code is what `work` returns."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return Forked(pid)
    code = 99
    try:
        if group:
            os.setpgid(0, 0)
        where = os.open(log or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(where, 1)
        os.dup2(where, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        code = work() or 0
    except SystemExit as ended:
        code = int(ended.code or 0)
    except CurriculumError as error:
        os.write(2, (error.render() + "\n").encode())
        code = error.exit_code
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _begin(words: Sequence[str], *, threads: int, log: Path, devices: object = None) -> Any:
    """`local.begin` without starting another Python: the runner's own `main` in a forked child."""
    assert list(words[1:3]) == ["-m", "runner"], f"this is not one process of the runner: {words}"

    def work() -> int:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, signal.SIG_DFL)
        sys.modules.pop("runner.__main__", None)
        sys.argv = ["runner", words[-1]]
        code: int = importlib.import_module("runner.__main__").main()
        return code

    # in the group of the process that started it, so that one signal reaches all, as when a machine goes
    return fork(work, log, group=False)


@contextlib.contextmanager
def forking() -> Iterator[None]:
    """Let every job be forked from this process, and the supervisor not wait between attempts."""
    import torch

    import runner.prepare.job
    import runner.train.loop  # noqa: F401
    from runner.monitor import code_digest

    torch.set_num_threads(1)
    small.warmed()
    code_digest.training_code()  # else every training computes them: half a second
    code_digest.all_code()
    kept = (
        subprocess_launcher.begin,
        subprocess_launcher.kill,
        subprocess_launcher.stop,
        supervisor.BACKOFF_SECONDS,
        supervisor.TICK_SECONDS,
    )

    def signalled(number: int) -> Callable[[Any], None]:
        def send(process: Any, **_: Any) -> None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, number)

        return send

    subprocess_launcher.begin, subprocess_launcher.kill, subprocess_launcher.stop = (
        _begin,
        signalled(signal.SIGKILL),
        signalled(signal.SIGTERM),
    )
    supervisor.BACKOFF_SECONDS, supervisor.TICK_SECONDS = (0.0,), 0.003
    try:
        yield
    finally:
        (
            subprocess_launcher.begin,
            subprocess_launcher.kill,
            subprocess_launcher.stop,
            supervisor.BACKOFF_SECONDS,
            supervisor.TICK_SECONDS,
        ) = kept


def run(root: Path, name: str = "variant", **more: Any) -> execution_run.RunResult:
    """`curriculum run NAME --size full`, in this process."""
    return execution_run.run(request(root, Listener(), name, **more))


def request(root: Path, listener: Any, name: str = "variant", **more: Any) -> RunRequest:
    return RunRequest(project=Project(root), curriculum=name, size="full", listener=listener, **more)


def compiled(root: Path, name: str = "variant") -> tuple[Compiled, prepared_text.PreparedText]:
    texts = prepared_text.PreparedText.open(Project(root), name, "full")
    return texts.compiled, texts


def stage(root: Path, name: str, stage_name: str) -> Path:
    return root / "runs/full" / name / stage_name


@functools.cache
def finished() -> Path:
    """A project whose variant has run undisturbed; read only, there until the process ends."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="fault-injection-world-", dir=memory if memory.is_dir() else None))
    owner = os.getpid()

    def remove() -> None:
        if os.getpid() == owner:
            shutil.rmtree(folder, ignore_errors=True)

    import atexit

    atexit.register(remove)
    root = write_small_project(folder / "project")
    with forking():
        ended = fork(lambda: int(run(root).stopped), folder / "log").wait(300)
    assert ended == 0, (folder / "log").read_text()
    compiled(root)  # what that imports, and pydantic's models, are then there in every process that is forked
    return root


def copy(target: Path, *, runs: bool = True) -> Path:
    """A copy of the finished project; without `runs` only its text is prepared."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(finished(), target, symlinks=True)
    if not runs:
        shutil.rmtree(target / "runs")
    return target


def outcome(root: Path) -> dict[str, Any]:
    """All that a run must end in, however often it was disturbed: weights, moments, state, ledger, losses."""
    from curriculum.artifacts import checkpoints

    found: dict[str, Any] = {}
    for name, stage_name in STAGES:
        folder = stage(root, name, stage_name)
        there = checkpoints.list_checkpoints(StageFolder(folder))
        if not there:
            found[f"{name}/{stage_name}"] = dict.fromkeys(("checkpoint", "DONE"))
            continue
        last = there[-1]
        checkpoints.verify(last.path)
        found[f"{name}/{stage_name}"] = {
            "checkpoint": {
                path.name: path.read_bytes() for path in last.path.iterdir() if path.name != "manifest.json"
            },
            "kept": [there[-1].path.name, _newest(folder, there)],
            "ledger": _lines(folder / "ledger.jsonl"),
            "evaluations": {p.name: p.read_bytes() for p in sorted((folder / "evaluations").iterdir())},
            "DONE": (folder / "DONE").read_bytes() if (folder / "DONE").exists() else None,
            "plan": (folder / "plan.json").read_bytes(),
            "metrics": [
                {key: line[key] for key in ("step", "position", "loss", "lr", "grad_norm")}
                for line in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
            ],
        }
    return found


def _newest(stage_folder: Path, there: list[Any]) -> bool:
    """Whether the last two checkpoints that are there are the last two that were saved.

    Which those are is another thing: one that was asked to end has saved there too.
    """
    saved = [line["checkpoint"] for line in map(json.loads, _lines(stage_folder / "ledger.jsonl"))]
    return [each.path.name for each in there][-2:] == saved[-2:]


def _lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines()


def difference(one: dict[str, Any], other: dict[str, Any]) -> str:
    """What of `one` is otherwise in `other`, an empty string when nothing.

    Going on may measure once more, and one that was asked to end saved there: a line more in the ledger.
    """
    for name in one:
        for key in one[name]:
            mine, theirs = one[name][key], other[name].get(key)
            if mine != theirs and theirs is None:
                return f"{name}: {key} is missing"
            if key == "evaluations":
                theirs = {file: theirs.get(file) for file in mine}
            if key == "ledger":
                theirs = [line for line in theirs if line in mine]
            if mine != theirs:
                return f"{name}: {key} differs"
    return ""

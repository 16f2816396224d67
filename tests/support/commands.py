"""Run the command line in tests: forked from a process that has imported everything, or started as a person does.

`run` is for what a command says and leaves behind, also when it is killed. What depends on how a process is started or
takes a signal, and one run of every kind of job are started for real: `run(..., fresh=True)`, or `subprocess` itself.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

if "HF_DATASETS_CACHE" not in os.environ:  # else set by the process that collected the tests: one cache for all of them
    os.environ["HF_DATASETS_CACHE"] = tempfile.mkdtemp(prefix="datasets-of-tests-")
    atexit.register(shutil.rmtree, os.environ["HF_DATASETS_CACHE"], ignore_errors=True)

SERVER = Path(__file__).with_name("fork_server.py")
AT_START = {
    "OMP_NUM_THREADS": "1",
    # As every job's environment says; a library may look at them when it is imported.
    "OMP_WAIT_POLICY": "PASSIVE",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",  # no test asks the network, and some jobs must not try
    "PYDANTIC_DISABLE_PLUGINS": "__all__",
    # A process with threads cannot be forked safely, and pyarrow's allocator would start one.
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
}
STARTED_WITH = {**os.environ, **AT_START}
"""The server's environment, whichever test needs it first."""
READ_AT_START = ("PYTHON", "LD_", "OMP_", "MKL_", "HF_", "HOME", "XDG_", "TORCH", "LC_", "LANG", "WANDB")
"""How the variables begin that an interpreter or a library reads once, when it starts or is imported."""
SET_BY_TORCH = {"TORCHINDUCTOR_CACHE_DIR"}
"""What `torch._inductor` adds to the environment when it is imported: where it would look anyway."""


def run(
    *words: str,
    folder: Path,
    check: bool = False,
    environment: Mapping[str, str] | None = None,
    timeout: float = 600,
    fresh: bool = False,
) -> subprocess.CompletedProcess[str]:
    """`curriculum WORDS` in `folder`, with what it wrote to its two streams; `fresh` starts an interpreter for it.

    `environment` is the tests' own with one thread, unless it is given.
    """
    return python(
        "-m", "curriculum", *words, folder=folder, check=check, environment=environment, timeout=timeout, fresh=fresh
    )


def python(
    *arguments: str,
    folder: Path,
    check: bool = False,
    environment: Mapping[str, str] | None = None,
    timeout: float = 600,
    fresh: bool = False,
) -> subprocess.CompletedProcess[str]:
    """`python ARGUMENTS`, `-m MODULE …`, `-c CODE …` or `SCRIPT …`, in the same way."""
    given = {**os.environ, "OMP_NUM_THREADS": "1"} if environment is None else environment
    fresh = fresh or (environment is None and bool(differing(given)))  # what is read at start has changed since
    with tempfile.TemporaryFile("w+", encoding="utf-8") as out, tempfile.TemporaryFile("w+", encoding="utf-8") as err:
        streams = {"out": out.fileno(), "err": err.fileno()}
        process = start_python(*arguments, folder=folder, environment=given, fresh=fresh, **streams)
        try:
            code = process.wait(timeout)
        except BaseException:  # it takes too long, or the test itself is stopped
            process.kill()
            raise
        out.seek(0)
        err.seek(0)
        done = subprocess.CompletedProcess(["python", *arguments], code, out.read(), err.read())
    if check:
        done.check_returncode()
    return done


def start(
    *words: str, folder: Path, environment: Mapping[str, str], out: int, err: int, fresh: bool = False
) -> Started:
    """Start `curriculum WORDS` with two open descriptors for its output, and nothing to read."""
    return start_python(
        "-m", "curriculum", *words, folder=folder, environment=environment, out=out, err=err, fresh=fresh
    )


def start_python(
    *arguments: str, folder: Path, environment: Mapping[str, str], out: int, err: int, fresh: bool = False
) -> Started:
    """Start `python ARGUMENTS`, `-m MODULE …`, `-c CODE …` or `SCRIPT …`, in the same way."""
    if fresh or not can_fork(environment):
        return subprocess.Popen(
            [sys.executable, *arguments], cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=err
        )
    return Forked(arguments, folder, environment, out, err, served_at=server())


FORKS = "curriculum.tests.forks"
"""The audit event of a process that is forked."""


class Forked:
    """`python ARGUMENTS`, forked from the server and running; its output goes to two open descriptors."""

    def __init__(
        self,
        arguments: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
        out: int,
        err: int,
        *,
        served_at: Path,
    ) -> None:
        request = {"arguments": arguments, "folder": os.fspath(folder), "environment": dict(environment)}
        sys.audit(FORKS, arguments)
        self.arguments = arguments
        self.status: int | None = None
        self.connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.connection.connect(str(served_at))
        with open(os.devnull) as nothing:
            socket.send_fds(self.connection, [json.dumps(request).encode()], [nothing.fileno(), out, err])
        _, (self.process, *_), *_ = socket.recv_fds(self.connection, 1024, 1)

    def wait(self, timeout: float) -> int:
        """Its exit status."""
        if self.status is None:
            self.connection.settimeout(timeout)
            try:
                status = self.connection.recv(1024)
            except (TimeoutError, BlockingIOError) as error:
                raise subprocess.TimeoutExpired(["python", *self.arguments], timeout) from error
            if not status:
                raise RuntimeError("the process from which tests fork others has ended; see above")
            self.status = int(status)
        return self.status

    def poll(self) -> int | None:
        """Its exit status, or None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.status

    def send_signal(self, number: int) -> None:
        """Also once it has ended, when nothing happens: its process is meant, whichever process has its number now."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.process, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def __del__(self) -> None:
        self.connection.close()
        if hasattr(self, "process"):
            os.close(self.process)


Started: TypeAlias = Forked | subprocess.Popen[bytes]
"""A process that a test has started, in one of the two ways."""


def can_fork(environment: Mapping[str, str]) -> bool:
    """Whether the server has started with all of `environment` that is read only then."""
    return hasattr(os, "pidfd_open") and not differing(environment)  # Linux has it


def differing(environment: Mapping[str, str]) -> set[str]:
    """The variables that are read only at the start and are other than the server's."""
    wanted = {**AT_START, **environment}
    names = {name for name in {*STARTED_WITH, *wanted} if name.startswith(READ_AT_START)}
    return {name for name in names - SET_BY_TORCH if STARTED_WITH.get(name) != wanted.get(name)}


def forget_training() -> None:
    """Give this process's environment back what the server started with, of what is read at start.

    A training in this process sets `TORCH_FR_…` or `WANDB_…`, and with them no command after it could be forked.
    """
    for name in differing({**os.environ, **AT_START}):
        if name in STARTED_WITH:
            os.environ[name] = STARTED_WITH[name]
        else:
            os.environ.pop(name, None)


@functools.cache
def server() -> Path:
    """The socket of this process's server, which is started at the first call."""
    folder = Path(tempfile.mkdtemp(prefix="fork-server-"))
    process = subprocess.Popen(
        [sys.executable, str(SERVER), str(folder / "socket")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=STARTED_WITH,
        cwd="/",
        text=True,
    )
    assert process.stdout is not None
    assert process.stdin is not None

    def end() -> None:
        process.stdin.close()  # type: ignore[union-attr]
        process.wait()
        process.stdout.close()  # type: ignore[union-attr]
        shutil.rmtree(folder)

    atexit.register(end)
    if process.stdout.readline() != "ready\n":
        raise RuntimeError("the process from which tests fork others did not start; see above")
    return folder / "socket"


IN_A_SHELL = """\
#!{python} -S
import os, sys
from pathlib import Path
sys.path.insert(0, {here!r})
from commands import Forked
forked = Forked(["-m", "curriculum", *sys.argv[1:]], Path.cwd(), os.environ, 1, 2, served_at=Path({served_at!r}))
code = forked.wait({timeout})
sys.exit(code if code >= 0 else 128 - code)
"""


def put_in(folder: Path, timeout: float = 600) -> None:
    """Write into `folder` a command `curriculum`, for a shell's PATH, that is forked from the server.

    It does not pass signals on: what is interrupted or killed needs the installed command.
    """
    program = folder / "curriculum"
    program.write_text(
        IN_A_SHELL.format(
            python=sys.executable, here=str(Path(__file__).parent), served_at=str(server()), timeout=timeout
        )
    )
    program.chmod(0o755)

"""A process that has imported everything once, and forks a child for every `python` that a test asks for.

Most of a command's time is spent on imports: half a second for the command line, three for the training core. Here
they are paid once. A child of this process gets the arguments, folder, environment and streams of its caller, default
signal handlers and fresh standard streams, and then runs a module or a script as `python` does. The jobs that it
starts are forked from it in the same way (`ForkedPopen`); what they run, and how it ends, is the production code's.

`commands.py` starts this file, once for every pytest worker, and speaks to it: one SOCK_SEQPACKET connection for every
command, whose one message carries the request and the three streams; the answers are a descriptor of the child and,
when it has ended, its exit status. The server ends when its standard input does.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import io
import json
import os
import pkgutil
import platform
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import types
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, NoReturn

PACKAGES = ("curriculum", "runner")
LARGEST_REQUEST = 1 << 17
FORKED_PACKAGES = {"curriculum", "runner", "bench"}
TORCHRUN = "torch.distributed.run"
"""Whose modules, and which one besides, `python -m` runs in a forked child, as it does a script; others are started."""

LATE = ("blake3", "rich._emoji_codes", "typer._adapters", "typer._click.decorators", "torch.profiler._cupti_monitor")
"""What nearly every command or training imports once it needs it."""

SEARCHED = list(sys.path[1:])
"""Where modules are looked for, without the folder of this file."""
COLLECTED_AFTER = gc.get_threshold()
started_by_interpreter = subprocess.Popen
start_of_thread = threading.Thread.start
start_of_pool = ThreadPoolExecutor.__init__


def import_everything() -> None:
    """Every module of ours, with all that they import, and what every training job imports or computes later."""
    for package in map(importlib.import_module, PACKAGES):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if found.name.rpartition(".")[2] != "__main__":
                importlib.import_module(found.name)
    importlib.import_module("torch._dynamo")  # by the first optimizer
    importlib.import_module("torch.distributed.launcher.api")  # by torchrun
    _of_torchrun()
    importlib.import_module("awkward")  # by the first preparation of text
    importlib.import_module("gigatoken.gigatoken_rs")
    for name in ("optimize", "signal", "stats"):  # by the fits of a study
        importlib.import_module(f"scipy.{name}")
    for name in LATE:
        with contextlib.suppress(ImportError):  # another version's
            importlib.import_module(name)
    build_models()
    digests = importlib.import_module("runner.monitor.code_digest")
    digests.training_code()
    digests.all_code()
    platform.platform()


def build_models() -> None:
    """The validators of our YAML's models, which a command builds when it reads its first file of a kind."""
    models = list(importlib.import_module("pydantic").BaseModel.__subclasses__())
    for model in models:  # grows while it is read
        models += model.__subclasses__()
        if model.__module__.partition(".")[0] in PACKAGES:
            model.model_rebuild()


def _of_torchrun() -> Any:
    """The module that starts the ranks of torchrun."""
    return importlib.import_module("torch.distributed.elastic.multiprocessing.subprocess_handler.subprocess_handler")


def threads() -> int:
    return len(os.listdir("/proc/self/task"))


def run_python(arguments: Sequence[str], environment: Mapping[str, str]) -> NoReturn:
    """In a forked child whose descriptors 0 to 2 are set: what `python ARGUMENTS` does, to its end.

    The arguments begin with `-m MODULE`, with `-c CODE` or with a script, all of them after `-u` or not.
    """
    code = 1
    try:
        if arguments[0] == "-u":
            arguments, environment = arguments[1:], {**environment, "PYTHONUNBUFFERED": "1"}
        if arguments[0] == "-c":
            sys.argv = ["-c", *arguments[2:]]
            _as_a_fresh_interpreter(environment, "")
            sys.modules["__main__"] = main = types.ModuleType("__main__")
            exec(compile(arguments[1], "<string>", "exec"), main.__dict__)
        elif arguments[0] == "-m":
            sys.argv = list(arguments[1:])
            _as_a_fresh_interpreter(environment, os.getcwd())
            if arguments[1] == TORCHRUN:
                _of_torchrun().Popen = RankPopen
            runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        else:
            sys.argv = list(arguments)
            _as_a_fresh_interpreter(environment, os.path.dirname(os.path.abspath(sys.argv[0])))
            runpy.run_path(sys.argv[0], run_name="__main__")
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            threading._shutdown()  # type: ignore[attr-defined]  # waits for threads that are not daemons
            atexit._run_exitfuncs()
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _default_signals() -> None:
    for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)


def _as_a_fresh_interpreter(environment: Mapping[str, str], searched_first: str) -> None:
    """Undo what a child inherits and a new process would not have."""
    _default_signals()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    signal.set_wakeup_fd(-1)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    atexit._clear()
    gc.freeze()  # what the parent holds, open files among it, is not ours to close
    gc.set_threshold(*COLLECTED_AFTER)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    tempfile.tempdir = None
    sys.path[:] = SEARCHED if environment.get("PYTHONSAFEPATH") else [searched_first, *SEARCHED]
    importlib.invalidate_caches()
    unbuffered = bool(environment.get("PYTHONUNBUFFERED"))
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = _stream(1, "strict", line_buffering=os.isatty(1), write_through=unbuffered)
    sys.stderr = _stream(2, "backslashreplace", line_buffering=True, write_through=unbuffered)
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr


def _stream(descriptor: int, errors: str, *, line_buffering: bool, write_through: bool) -> io.TextIOWrapper:
    raw = io.FileIO(descriptor, "w", closefd=False)
    buffer: Any = raw if write_through else io.BufferedWriter(raw)
    stream = io.TextIOWrapper(buffer, "utf-8", errors, line_buffering=line_buffering, write_through=write_through)
    stream.mode = "w"
    return stream


class ForkedPopen(subprocess.Popen):  # type: ignore[type-arg]
    """A Popen that forks the process which has imported a job's modules already, instead of starting another.

    Only a job, torchrun or another trainer of one process, and never from a process with threads: a lock that one of
    them holds would stay held in the child for ever. Such a process has its jobs forked from `server`. Anything else is
    started as always.
    """

    despite_threads = False
    server: ClassVar[str | None] = None
    """The address of a server that was forked from this process before its first thread, and ends with it."""
    connection: socket.socket | None = None
    """To the server, which sends the exit status of its child."""

    def _execute_child(
        self,
        args: Any,
        executable: Any,
        preexec_fn: Callable[[], object] | None,
        close_fds: bool,
        pass_fds: Any,
        cwd: Any,
        env: Mapping[str, str] | None,
        *rest: Any,
    ) -> None:
        forked = (
            isinstance(args, list | tuple)
            and args[0] == sys.executable
            and _is_forked(args[1:])
            and executable is None
            and close_fds
            and not pass_fds
            and env is not None
            and (self.despite_threads or threads() == 1 or self.server is not None)
        )
        if not forked:
            super()._execute_child(  # type: ignore[misc]
                args, executable, preexec_fn, close_fds, pass_fds, cwd, env, *rest
            )
            return
        assert env is not None
        # In the order of the standard library's own parameters, up to Python 3.14.
        _, _, shell, p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite, *_ = rest
        *_, start_new_session, process_group = rest
        assert not shell
        assert {p2cwrite, c2pread, errread} == {-1}, "a job's streams are files"
        assert process_group == -1
        sys.stdout.flush()
        sys.stderr.flush()
        streams = [number if own == -1 else own for number, own in enumerate((p2cread, c2pwrite, errwrite))]
        if threads() > 1 and not self.despite_threads:
            assert start_new_session
            assert preexec_fn is not None, "a job ends with what has started it"
            self._fork_from_server({"arguments": args[1:], "folder": cwd, "environment": dict(env)}, streams)
            return
        self.pid = os.fork()
        self._child_created = True
        if self.pid:
            return
        try:
            for target, source in enumerate(streams):
                os.dup2(source, target)
            if cwd is not None:
                os.chdir(cwd)
            if start_new_session:
                os.setsid()
            if preexec_fn is not None:
                preexec_fn()
            if args[1:3] != ["-m", "curriculum"]:
                _start_jobs_as_always()
            ForkedPopen.server = None
            os.closerange(3, os.sysconf("SC_OPEN_MAX"))
            run_python(args[1:], env)
        finally:
            os._exit(255)

    def _fork_from_server(self, request: Mapping[str, Any], streams: Sequence[int]) -> None:
        assert self.server is not None
        asked = {**request, "folder": os.fspath(request["folder"] or os.getcwd()), "is_job": True}
        self.connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.connection.connect(self.server)
        socket.send_fds(self.connection, [json.dumps(asked).encode()], streams)
        message, (process, *_), *_ = socket.recv_fds(self.connection, 1024, 1)
        os.close(process)
        self.pid = int(message)
        self._child_created = True

    def _internal_poll(self, _deadstate: int | None = None) -> int | None:  # type: ignore[override]
        wait = os.waitpid if self.connection is None else self._wait_for_server
        return super()._internal_poll(_deadstate, _waitpid=wait)  # type: ignore[misc, no-any-return]

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        wait = os.waitpid if self.connection is None else self._wait_for_server
        return wait(self.pid, wait_flags)

    def _wait_for_server(self, pid: int, flags: int) -> tuple[int, int]:
        """As `os.waitpid`, of a process that is the server's child."""
        assert self.connection is not None
        try:
            status = self.connection.recv(1024, socket.MSG_DONTWAIT if flags & os.WNOHANG else 0)
        except BlockingIOError:
            return 0, 0
        code = int(status or -signal.SIGKILL)
        return pid, code << 8 if code >= 0 else -code


def _fork_jobs_of_threads() -> None:
    """In a forked command: have a server forked before its first thread begins, and before what begins threads."""

    def after_server(call: Callable[..., None]) -> Callable[..., None]:
        def called(*arguments: Any, **options: Any) -> None:
            if ForkedPopen.server is None and threads() == 1:
                ForkedPopen.server = start_server()
            call(*arguments, **options)

        return called

    threading.Thread.start = after_server(start_of_thread)  # type: ignore[method-assign]
    # it begins threads while it holds a lock that a fork takes
    ThreadPoolExecutor.__init__ = after_server(start_of_pool)  # type: ignore[method-assign]


def _start_jobs_as_always() -> None:
    subprocess.Popen = started_by_interpreter  # type: ignore[misc]
    threading.Thread.start = start_of_thread  # type: ignore[method-assign]
    ThreadPoolExecutor.__init__ = start_of_pool  # type: ignore[method-assign]


def start_server() -> str:
    """Fork a server from this process, which ends with this thread; its address."""
    from curriculum.artifacts.job_process import terminate_with_parent

    parent = os.getpid()
    address = f"\0curriculum-tests-{parent}"  # of no file
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listening.bind(address)
    listening.listen(64)
    if os.fork():
        listening.close()
        return address
    try:
        os.setsid()  # Ctrl-C is for its parent
        _default_signals()
        terminate_with_parent()
        _start_jobs_as_always()
        with open(os.devnull, "r+b") as nothing:
            for number in range(3):
                os.dup2(nothing.fileno(), number)
        if os.getppid() == parent:
            serve(listening, until=None)
    finally:
        os._exit(255)


class RankPopen(ForkedPopen):
    """The same for a rank of torchrun, whose threads serve the rendezvous and hold no lock that a rank takes."""

    despite_threads = True


def _is_forked(arguments: Sequence[str]) -> bool:
    """Whether `python ARGUMENTS` runs a script or code, or a module of those that are imported here."""
    first, *rest = arguments[arguments[0] == "-u" :]
    if first != "-m":
        return first == "-c" or first.endswith(".py")
    return rest[0] == TORCHRUN or rest[0].partition(".")[0] in FORKED_PACKAGES


def answer(connection: socket.socket) -> tuple[int, int] | None:
    """Fork the child that a connection asks for; its process id and a descriptor of it. None when no request comes."""
    from curriculum.artifacts.job_process import terminate_with_parent

    message, descriptors, _, _ = socket.recv_fds(connection, LARGEST_REQUEST, 3)
    if not message:
        return None
    request = json.loads(message)
    if threads() != 1:
        raise RuntimeError("the server has threads, whose locks a forked child would inherit")
    pid = os.fork()
    if pid:
        for descriptor in descriptors:
            os.close(descriptor)
        process = os.pidfd_open(pid)
        socket.send_fds(connection, [str(pid).encode()], [process])
        return pid, process
    try:
        for target, source in enumerate(descriptors):
            os.dup2(source, target)
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        os.chdir(request["folder"])
        if request.get("is_job"):
            os.setsid()
            terminate_with_parent()
        else:
            subprocess.Popen = ForkedPopen  # type: ignore[misc]
            if request["arguments"][:2] == ["-m", "curriculum"]:
                _fork_jobs_of_threads()
        run_python(request["arguments"], request["environment"])
    finally:
        os._exit(255)


def serve(listening: socket.socket, until: int | None) -> None:
    """Answer until the descriptor `until` ends; several children may run at a time."""
    with selectors.DefaultSelector() as selector:
        if until is not None:
            selector.register(until, selectors.EVENT_READ)
        selector.register(listening, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fd == until:
                    return
                if key.fileobj is listening:
                    connection = listening.accept()[0]
                    forked = answer(connection)
                    if forked is None:
                        connection.close()
                        continue
                    pid, process = forked
                    selector.register(process, selectors.EVENT_READ, (pid, connection))
                    continue
                pid, connection = key.data
                selector.unregister(key.fd)
                os.close(key.fd)
                status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                with contextlib.suppress(OSError), connection:  # the client may have gone
                    connection.send(str(status).encode())


def main() -> None:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listening.bind(sys.argv[1])
    import_everything()
    gc.collect()
    gc.freeze()
    listening.listen(64)
    print("ready", flush=True)
    serve(listening, until=0)


if __name__ == "__main__":
    main()

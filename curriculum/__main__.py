"""The command `curriculum`, and `python -m curriculum`: prints an error instead of a traceback."""

from __future__ import annotations

import errno
import gc
import os
import sys
from typing import NoReturn

from curriculum.errors import CurriculumError, storage_error
from curriculum.fs import standard_streams

RESULT_ON_DISK = ("run", "prepare", "eval", "export", "import", "branch", "init", "stop", "prune", "report")
"""Verbs whose exit code reports their work, whatever became of their output."""


def command() -> NoReturn:
    """The installed command: `main`, then an exit without the interpreter's teardown."""
    standard_streams.protect()
    try:
        main()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    if lost := standard_streams.failure(sys.stdout):
        reader_gone = lost.errno == errno.EPIPE
        if not reader_gone:
            print(f"warning: the output could not be written: {lost.strerror}", file=sys.stderr)
        if code == 0 and sys.argv[1:2] and sys.argv[1] not in RESULT_ON_DISK:
            code = 141 if reader_gone else 1
    sys.stderr.flush()
    # The interpreter's teardown takes a fifth of a short command's time.
    os._exit(code)


def main() -> NoReturn:
    """Run the command line; exit code 0: done, 1: a job failed, 2: an error in files or arguments, 130: stopped.

    By Ctrl-C, by SIGTERM or by `curriculum stop` alike.
    """
    # A short command takes half a second, most of it imports: their objects stay, so the collector need not visit
    # them repeatedly, and pydantic need not search the installed packages for plug-ins.
    gc.set_threshold(50_000, 20, 100)
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    # Fits of a study's laws call BLAS on small matrices, whose threads wait by spinning: six times slower where other
    # processes are busy. A job process is given its own number of threads.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from curriculum.cli.app import app_for

    try:
        app_for(next(iter(sys.argv[1:]), None))(prog_name="curriculum")
    except CurriculumError as error:
        print(error.render(), file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
    except OSError as error:
        failure = storage_error(error)
        if failure is None:
            raise
        print(failure.render(), file=sys.stderr)
        sys.exit(failure.exit_code)
    sys.exit(0)


if __name__ == "__main__":
    command()

"""The command `curriculum`, and `python -m curriculum`: speaks a refusal instead of showing a traceback."""

from __future__ import annotations

import gc
import os
import sys
from typing import NoReturn

from curriculum.errors import CurriculumError, storage_error


def command() -> NoReturn:
    """What the installed command calls: `main`, without taking apart all that was imported."""
    try:
        main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (BrokenPipeError, ValueError):  # nobody reads any more, or the stream is closed for that reason
        code = 141
    # Nothing is left to do, and the interpreter's own way out takes a fifth of an answer's time.
    os._exit(code)


def main() -> NoReturn:
    """Run the command line; exit code 0 done, 1 a job failed, 2 refused, 130 stopped by Ctrl-C."""
    # An answer takes half a second, most of it imports: their objects stay, so the collector need not walk them
    # again and again, and pydantic need not look through all that is installed for plug-ins.
    gc.set_threshold(50_000, 20, 100)
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    from curriculum.cli.app import app_for

    try:
        app_for(next(iter(sys.argv[1:]), None))(prog_name="curriculum")
    except CurriculumError as error:
        print(error.render(), file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
    except OSError as error:
        failed = storage_error(error)
        if failed is None:
            raise
        print(failed.render(), file=sys.stderr)
        sys.exit(failed.exit_code)
    sys.exit(0)


if __name__ == "__main__":
    command()

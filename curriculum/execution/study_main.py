"""`python -m curriculum.execution.study_main FOLDER`: the main of the Slurm job behind the arms of a study."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from curriculum.artifacts.stage_folder import Attempt
from curriculum.execution.slurm.submission import finish
from curriculum.execution.study import submit_next
from curriculum.fs import standard_streams


def main() -> int:
    """The exit code: see `finish`."""
    submission = Attempt(Path(sys.argv[1]))
    return finish(submission, partial(submit_next, submission))


if __name__ == "__main__":
    standard_streams.protect()
    sys.exit(main())

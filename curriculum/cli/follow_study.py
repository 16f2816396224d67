"""`status STUDY --follow`: the arms of a study as they are trained, from any terminal, only by reading files."""

from __future__ import annotations

import sys
import time
from contextlib import nullcontext

from rich.console import Console
from rich.live import Live
from rich.text import Text

from curriculum.cli.view.arms import arms_view
from curriculum.fs import standard_streams
from curriculum.runs import status
from curriculum.studies.arms import CompiledStudy
from curriculum.studies.status import arm_statuses

POLL_SECONDS = 1.0


def follow_study(study: CompiledStudy, console: Console) -> None:
    """Return once every arm is done: a live table on a terminal, and a line for each arm whose state changes."""
    live = Live(Text(""), console=console, refresh_per_second=4, transient=True) if console.is_terminal else None
    seen: dict[str, str] = {}
    with live or nullcontext():
        while standard_streams.failure(sys.stdout) is None:  # without a reader it would run for ever
            arms = arm_statuses(study)
            if live is not None:
                live.update(arms_view(study.name, arms))
            for arm in arms:
                if seen.get(arm.address) != arm.state:
                    console.print(f"{arm.address} {arm.state}")
                    console.file.flush()
                seen[arm.address] = arm.state
            if all(state == status.DONE for state in seen.values()):
                return
            time.sleep(POLL_SECONDS)

"""A real pseudo-terminal of a given width, to see what a person sees."""

from __future__ import annotations

import os
import pty
import re
from pathlib import Path

import commands


def on_a_terminal(folder: Path, columns: int, *words: str) -> str:
    """What `curriculum WORDS` shows on a terminal that is `columns` wide, without its colours. It must succeed."""
    leader, follower = pty.openpty()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": str(columns), "TERM": "xterm"}
    process = commands.start(*words, folder=folder, environment=environment, out=follower, err=follower)
    os.close(follower)
    shown = b""
    while True:
        try:
            part = os.read(leader, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        shown += part
    os.close(leader)
    assert process.wait(600) == 0, shown.decode()
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode()).replace("\r", "")

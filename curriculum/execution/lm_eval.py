"""The check that lm-evaluation-harness, an extra, is installed; it imports nothing of it."""

from __future__ import annotations

import importlib.util

from curriculum.errors import PlanError

NOT_INSTALLED = "lm-evaluation-harness is not installed, `pip install 'curriculum[eval]'`"


def installed() -> bool:
    return importlib.util.find_spec("lm_eval") is not None


def check_installed() -> None:
    if not installed():
        raise PlanError(
            "lm-evaluation-harness is not installed: it measures the tasks",
            hint="`pip install 'curriculum[eval]'`; training and all else work without it",
        )

"""A trace of some steps by torch's profiler, on request, in the attempt's folder; Perfetto shows it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from curriculum import fs
from runner.parallel.ranks import Ranks


class Profiler:
    """Traces the steps `first … last - 1` of a run; without a request it does nothing.

    Every rank writes `trace-<first>-<last>-rank<r>.json`. A traced step is slower than others.
    """

    def __init__(self, request: Mapping[str, int] | None, folder: Path, ranks: Ranks) -> None:
        self.first = request["from_step"] if request else None
        self.last = request["from_step"] + request["steps"] if request else None
        self._folder = folder
        self._ranks = ranks
        self._running: Any = None

    def before(self, step: int) -> None:
        """Called before each step. A run that starts among the steps traces the remaining ones."""
        if self.first is None or self.last is None or not self.first <= step < self.last or self._running:
            return
        activities = [torch.profiler.ProfilerActivity.CPU]
        if self._ranks.device.type == "cuda":
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        self._running = torch.profiler.profile(activities=activities, record_shapes=True)
        self._running.start()

    def after(self, step: int) -> None:
        """Called after each step, before it is saved."""
        if self._running is not None and step + 1 == self.last:
            self.end()

    def end(self) -> None:
        """Write the trace so far, if one was started."""
        if self._running is None:
            return
        self._running.stop()
        path = self._folder / f"trace-{self.first}-{self.last}-rank{self._ranks.rank}.json"
        self._running.export_chrome_trace(str(path.with_name(f".{path.name}")))
        os.rename(path.with_name(f".{path.name}"), path)
        fs.fsync(self._folder)
        self._running = None

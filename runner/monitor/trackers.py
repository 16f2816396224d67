"""Experiment trackers (TensorBoard, wandb, trackio) that show a run; training never waits for them.

All get the same names (`train/loss`, `train/loss/SOURCE`, `train/lr`, `train/grad_norm`, `train/grad_norm/LAYER` where
it is measured, `train/tokens_per_second`, `eval/loss/SOURCE`) against the position in tokens. A run is called
CURRICULUM/STAGE, in the group of its root, which all variants share. A tracker writes into the stage's folder, or,
where it overlays only the runs of one database, into the folder of the size. The libraries are extras; a tracker that
fails is named once in the log and closed.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import importlib.util
import os
import signal
import sys
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from curriculum import fs
from curriculum.artifacts.evaluations import read_evaluation
from curriculum.artifacts.metrics import last_record
from curriculum.artifacts.stage_folder import StageFolder
from curriculum.errors import DataError, PlanError

Values = Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """The run that a tracker shows. `resumed_at` is the position that training resumes from."""

    name: str
    group: str
    folder: Path
    config: Mapping[str, Any]
    resumed_at: int
    reached: int
    """The last position that an earlier attempt has logged, at or past `resumed_at`."""
    resumed: bool
    """Whether an earlier attempt has measured anything."""
    evaluated: Set[tuple[int, str]] = frozenset()
    """Positions past `resumed_at` and sets there that an earlier attempt has measured, and so logged."""

    @property
    def id(self) -> str:
        """The same for every attempt at a stage, different for every folder."""
        return hashlib.sha256(str(self.folder).encode()).hexdigest()[:16]


class Tracker(Protocol):
    """One tracker. Points up to `done` were logged by an earlier attempt."""

    done: int

    def log(self, position: int, values: Values) -> None: ...
    def close(self) -> None: ...


class TensorBoard:
    """Event files in `tensorboard/`: `tensorboard --logdir runs` shows all stages of all runs."""

    def __init__(self, about: About) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # Points past the checkpoint are purged by its reader, and logged again.
        self.done = about.resumed_at
        self.writer: Any = SummaryWriter(
            str(about.folder / "tensorboard"), purge_step=about.resumed_at + 1, flush_secs=10
        )

    def log(self, position: int, values: Values) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, position)

    def close(self) -> None:
        self.writer.close()


class WandB:
    """Offline unless WANDB_MODE says otherwise; `wandb sync` of the folders `wandb/offline-run-*` sends them later."""

    def __init__(self, about: About) -> None:
        for name in ("CACHE", "CONFIG", "DATA"):
            os.environ.setdefault(f"WANDB_{name}_DIR", str(about.folder / "wandb" / name.lower()))
        os.environ.setdefault("WANDB_MODE", "offline")
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        self.done = about.reached  # logged points cannot be removed, and the same steps give the same figures
        fs.make_directory(about.folder)
        self.run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", about.group),
            name=about.name,
            group=about.group,
            id=about.id,
            resume="allow",
            dir=str(about.folder),
            config=dict(about.config),
            settings=wandb.Settings(
                console="off", silent=True, disable_git=True, save_code=False, x_disable_stats=True, x_disable_meta=True
            ),
        )
        self.run.define_metric("tokens")
        self.run.define_metric("*", step_metric="tokens")

    def log(self, position: int, values: Values) -> None:
        self.run.log({"tokens": position, **values}, step=position)

    def close(self) -> None:
        self.run.finish()


class Trackio:
    """One local database for all runs of a size, in `runs/SIZE/.trackio/`, unless TRACKIO_DIR says otherwise.

    Runs of several stages may write to it at once: trackio locks it, and on a network's file system, where locks
    cannot be trusted, gives each a file of its own.
    """

    def __init__(self, about: About) -> None:
        os.environ.setdefault("TRACKIO_DIR", str(about.folder.parents[1] / ".trackio"))
        import trackio

        self.done = about.reached
        self.run: Any = trackio.init(
            project=about.group.replace("/", "-"),
            name=about.name,
            group=about.group,
            config=dict(about.config),
            # It identifies a run by its name: a stage started again would continue the run of the deleted one.
            resume="allow" if about.resumed else "never",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def log(self, position: int, values: Values) -> None:
        self.run.log(dict(values), step=position)

    def close(self) -> None:
        self.run.finish()


KINDS: dict[str, Callable[[About], Tracker]] = {"tensorboard": TensorBoard, "wandb": WandB, "trackio": Trackio}


def check(names: tuple[str, ...]) -> None:
    """PlanError, with what to install, for a tracker whose package is missing."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise PlanError(
                f"the tracker `{name}` is not installed",
                hint=f"`pip install 'curriculum[{name}]'`, or leave it out of `trackers` in machines.yaml",
            )


class Trackers:
    """The open trackers as one. No error of a tracker reaches the training loop."""

    def __init__(self, names: tuple[str, ...], about: About) -> None:
        self._open: dict[str, Tracker] = {}
        self._evaluated = about.evaluated
        signals = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        for name in names:
            self._guarded(name, partial(self._start, name, about))
        for number, handler in signals.items():
            signal.signal(number, handler)  # a tracker's own handlers would keep a run from saving
        atexit.register(self.close)

    def _start(self, name: str, about: About) -> None:
        self._open[name] = KINDS[name](about)

    def trained(self, position: int, line: Mapping[str, Any]) -> None:
        """Log a line of metrics.jsonl."""
        values = {f"train/{key}": line[key] for key in ("loss", "lr", "grad_norm", "tokens_per_second")}
        values |= {f"train/loss/{name}": entry["loss"] for name, entry in line["sources"].items()}
        values |= {f"train/grad_norm/{layer}": norm for layer, norm in line.get("layer_norms", {}).items()}
        self._log(position, values)

    def evaluated(self, position: int, sets: Mapping[str, Any], *, new: bool) -> None:
        """Log the held-out losses at a position; `new` when they were measured just now.

        A kill after an evaluation and before its checkpoint has it measured again: once is enough for a tracker that
        cannot remove a point.
        """
        losses = {name: entry["loss"] for name, entry in sets.items()}
        unseen = {name: loss for name, loss in losses.items() if new and (position, name) not in self._evaluated}
        self._log(
            position,
            {f"eval/loss/{name}": loss for name, loss in losses.items()},
            {f"eval/loss/{name}": loss for name, loss in unseen.items()},
        )

    def _log(self, position: int, values: Values, unseen: Values = MappingProxyType({})) -> None:
        """Log `values` to what has logged nothing as far as `position`, and to the others `unseen`."""
        for name, tracker in list(self._open.items()):
            if shown := values if position > tracker.done else unseen:
                self._guarded(name, partial(tracker.log, position, shown))

    def close(self) -> None:
        """Flush and close the trackers."""
        for name, tracker in list(self._open.items()):
            self._guarded(name, tracker.close)
        self._open.clear()

    def _guarded(self, name: str, call: Callable[[], None]) -> None:
        try:
            call()
        except (Exception, SystemExit) as error:
            self._open.pop(name, None)
            print(
                f"the tracker {name} failed and is closed: {type(error).__name__}: {error}", file=sys.stderr, flush=True
            )


def start(
    names: tuple[str, ...],
    *,
    folder: StageFolder,
    generation: int,
    lineage: tuple[str, ...],
    resumed_at: int,
    config: Mapping[str, Any],
    first: bool,
) -> Trackers:
    """Open the trackers of a stage's run; call it before what is past `resumed_at` is cut from its records.

    In the `first` attempt, losses that are recorded already are those of the parent at the stage's start.
    """
    logged = last_record(folder.metrics) if names else None
    return Trackers(
        names,
        About(
            name=lineage[-1] if lineage else folder.stage,
            group=lineage[0].partition("/")[0] if lineage else folder.stage,
            folder=folder.path,
            config={**config, "lineage": " -> ".join(lineage)},
            resumed_at=resumed_at,
            reached=max(resumed_at, logged["position"] if logged else 0),
            resumed=bool(logged) or (not first and bool(folder.evaluation_files())),
            evaluated=_evaluated(folder, generation, resumed_at) if names else frozenset(),
        ),
    )


def _evaluated(folder: StageFolder, generation: int, resumed_at: int) -> Set[tuple[int, str]]:
    sets: set[tuple[int, str]] = set()
    for path in folder.evaluation_files(generation):
        with contextlib.suppress(DataError):  # a damaged one is measured again
            evaluation = read_evaluation(path)
            if evaluation["position"] > resumed_at:
                sets.update((evaluation["position"], name) for name in evaluation["sets"])
    return sets

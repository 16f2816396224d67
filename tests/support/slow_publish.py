"""Saves that are published long after every collective's timeout: one rank, as a script.

python slow_publish.py FOLDER SHARDING      under torchrun's environment variables
"""

from __future__ import annotations

import json
import sys
import time
from datetime import timedelta
from pathlib import Path

from small import NUMBERS, build, take

from runner.checkpoint import tensors
from runner.parallel import fsdp, ranks as runner_ranks
from runner.train.optimizer import adamw

TIMEOUT = 1.0


def main(folder: Path, sharding: str) -> None:
    runner_ranks.TIMEOUT = timedelta(seconds=TIMEOUT)
    ranks = runner_ranks.join_ranks("cpu", threads=1)
    model = build()
    fsdp.apply(model, ranks, sharding=sharding, bf16=False, activation_checkpointing="none", compile_blocks=False)
    optimizer = adamw(model, NUMBERS)
    saver = tensors.Saver(ranks)
    start = time.monotonic()
    for step in range(2):
        take(model, optimizer, step, ranks)
        slow = lambda: time.sleep(2.5 * TIMEOUT)  # noqa: E731
        saver.begin(folder / str(step), model, optimizer, {"step": step}, slow)
    saver.wait()
    ranks.wait()
    if ranks.first:
        report = {"saved": sorted(path.parent.name for path in folder.glob("*/manifest.json"))}
        (folder / "report.json").write_text(json.dumps(report | {"seconds": time.monotonic() - start}))
    runner_ranks.leave_ranks(ranks)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])

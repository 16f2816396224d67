"""A compiled plan in any training loop: its tokens and learning rates (`Stream`), and the stage contract (`Stage`).

    stream = curriculum.open(".").stream("v1.1-math-code")
    for batch in stream.batches(start, rank=rank, world_size=world_size, micro_batch=8): ...

    stage = join()    # in a process that `curriculum run` started to train a stage: docs/job-json.md

Needs only numpy. May import what is below `compiler`.
"""

from curriculum.stream.batch import Batch, witness
from curriculum.stream.saves import PendingCheckpoint
from curriculum.stream.stage import Stage, join
from curriculum.stream.stream import Stream, StreamStage, load

__all__ = ["Batch", "PendingCheckpoint", "Stage", "Stream", "StreamStage", "join", "load", "witness"]

"""A compiled plan's tokens and learning rates for any training loop; needs only numpy.

    stream = curriculum.open(".").stream("v1.1-math-code")
    for batch in stream.batches(start, rank=rank, world_size=world_size, micro_batch=8): ...

May import: plan, data and what is below them.
"""

from curriculum.stream.batch import Batch, witness
from curriculum.stream.stream import Stream, StreamStage, load

__all__ = ["Batch", "Stream", "StreamStage", "load", "witness"]

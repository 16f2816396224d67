# A trainer whose world size does not divide the batch.
from curriculum.stream import join

with join() as stage:
    for batch in stage.batches(rank=0, world_size=3):
        stage.took(batch.step, loss=1.0)

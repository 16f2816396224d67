# A trainer whose micro-batches do not divide the batch.
from curriculum.stream import join

with join() as stage:
    for batch in stage.batches(micro_batch=3):
        stage.took(batch.step, loss=1.0)

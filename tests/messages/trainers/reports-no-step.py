# A trainer that reads on without reporting its update.
from curriculum.stream import join

with join() as stage:
    for _batch in stage.batches():
        pass

# A trainer that reads the step before instead of the fifth, and whose witness says so.
from curriculum.stream import join, witness

with join() as stage:
    for batch in stage.batches():
        read = batch if batch.step != 4 else stage.stream.batch(3)
        stage.took(batch.step, loss=1.0, witness=witness(read.inputs))
        if stage.should_save():
            with stage.checkpoint() as folder:
                (folder / "weights").write_text("w")

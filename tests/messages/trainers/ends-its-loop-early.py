# A trainer whose loop ends before the stage does.
from curriculum.stream import join

with join() as stage:
    for batch in stage.batches():
        stage.took(batch.step, loss=1.0)
        if stage.should_save():
            with stage.checkpoint() as folder:
                (folder / "weights").write_text("w")
        if batch.step == 10:
            break

# layout: hf
# A trainer whose entry says `layout: hf`, and that saves something else.
from curriculum.stream import join

with join() as stage:
    for batch in stage.batches():
        stage.took(batch.step, loss=1.0)
        if stage.should_save():
            with stage.checkpoint() as folder:
                (folder / "weights").write_text("w")

# A trainer that fails while it writes its second checkpoint, again and again.
from curriculum.stream import join

with join() as stage:
    for batch in stage.batches():
        stage.took(batch.step, loss=1.0)
        if stage.should_save():
            with stage.checkpoint() as folder:
                (folder / "weights").write_text("w")
                if batch.step > 4:
                    raise RuntimeError("the device is gone")

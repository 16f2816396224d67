# A trainer that saves a link to a file elsewhere.
from curriculum.stream import join

with join() as stage:
    for batch in stage.batches():
        stage.took(batch.step, loss=1.0)
        if stage.should_save():
            with stage.checkpoint() as folder:
                (folder / "weights").symlink_to("/etc/hostname")

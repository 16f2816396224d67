# A trainer that reads the plan's text from a folder in which nothing is prepared.
import curriculum
from curriculum.stream import join

with join() as stage:
    stream = curriculum.stream.load(stage.job.plan, {"prose": "texts/prose", "code": "texts/code"})
    for step in range(stage.step, stage.last_step):
        stream.batch(step)

# A trainer that steps its schedule once a micro-batch: past the last step of the stage there is no rate.
import torch

from curriculum.integrations.torch import PlannedLR
from curriculum.stream import join

with join() as stage:
    schedule = PlannedLR(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))]), stage.stream, stage.step)
    for batch in stage.batches(micro_batch=4):
        schedule.optimizer.step()
        schedule.step()
        if batch.last:
            stage.took(batch.step, loss=1.0)

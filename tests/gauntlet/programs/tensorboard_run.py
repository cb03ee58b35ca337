"""TensorBoard: a new file of events for each attempt, beside a checkpoint."""

import os

from ledger import EVERY, STEPS, final, made, resumed, saved

import tiny  # isort: skip
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

model = tiny.model()
optimizer = tiny.optimizer(model)
step = 0
if os.path.exists("checkpoint.pt"):
    state = torch.load("checkpoint.pt")
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    step = state["step"]
# Steps that the attempt before made after its checkpoint are dropped when TensorBoard reads.
writer = SummaryWriter("runs", purge_step=step + 1 if step else None)
resumed(step)
while step < STEPS:
    step += 1
    loss = tiny.train(model, optimizer, step)
    writer.add_scalar("loss", loss, step)
    if step % EVERY == 0:
        writer.flush()
        torch.save(
            {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step},
            "checkpoint.pt.tmp",
        )
        os.replace("checkpoint.pt.tmp", "checkpoint.pt")
        saved(step)
    made(step)
writer.close()
events = EventAccumulator("runs", size_guidance={"scalars": 0}).Reload().Scalars("loss")
steps = [event.step for event in events]
assert set(steps) == set(range(1, STEPS + 1)), "the curve has gaps"
final(model.state_dict())

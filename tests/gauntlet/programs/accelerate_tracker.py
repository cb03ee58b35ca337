"""Accelerate with our tracker: dropout, states that are whole, one more at the stop."""

from ledger import EVERY, STEPS, curve, final, made, resumed, saved, stopped

import tiny  # isort: skip
import torch
from accelerate import Accelerator

from monitoring import preemption
from monitoring.integrations.accelerate import SpectrainTracker


class Tracker(SpectrainTracker):
    def save(self, accelerator, step):
        super().save(accelerator, step)
        saved(step)
        if preemption.was_requested():
            stopped(step)


tracker = Tracker()
accelerator = Accelerator(log_with=tracker)
accelerator.init_trackers("training")
model = tiny.model()
optimizer = tiny.optimizer(model)
model, optimizer = accelerator.prepare(model, optimizer)
step = tracker.resume(accelerator, "states", total=STEPS)
resumed(step)
while step < STEPS:
    step += 1
    inputs, targets = tiny.batch(step)
    hidden = torch.nn.functional.dropout(inputs, 0.1)
    loss = torch.nn.functional.mse_loss(model(hidden), targets)
    optimizer.zero_grad()
    accelerator.backward(loss)
    optimizer.step()
    accelerator.log({"loss": loss.item()}, step=step)
    made(step)
    tracker.step(accelerator, step, every=EVERY)
accelerator.end_training()
final({"model": accelerator.unwrap_model(model).state_dict(), "curve": curve()})

"""Accelerate: `save_state` into a directory for each checkpoint, as its own examples do."""

import os
import shutil

from ledger import EVERY, STEPS, final, made, resumed, saved

import tiny  # isort: skip
import torch
from accelerate import Accelerator

accelerator = Accelerator()
model = tiny.model()
optimizer = tiny.optimizer(model)
model, optimizer = accelerator.prepare(model, optimizer)


def checkpoints() -> list[str]:
    found = [name for name in os.listdir("states") if name.startswith("step_")]
    return sorted(found, key=lambda name: int(name.removeprefix("step_")))


os.makedirs("states", exist_ok=True)
step = 0
if found := checkpoints():
    accelerator.load_state(os.path.join("states", found[-1]))
    step = int(found[-1].removeprefix("step_"))
resumed(step)
while step < STEPS:
    step += 1
    inputs, targets = tiny.batch(step)
    loss = torch.nn.functional.mse_loss(model(inputs), targets)
    optimizer.zero_grad()
    accelerator.backward(loss)
    optimizer.step()
    if step % EVERY == 0:
        accelerator.save_state(os.path.join("states", f"step_{step}"))
        for old in checkpoints()[:-2]:
            shutil.rmtree(os.path.join("states", old))
        saved(step)
    made(step)
final(accelerator.unwrap_model(model).state_dict())

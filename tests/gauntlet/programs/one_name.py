"""`torch.save` onto one name in the working directory; its output goes through a pipe."""

import os

from ledger import EVERY, STEPS, final, made, resumed, saved

import tiny  # isort: skip
import torch

model = tiny.model()
optimizer = tiny.optimizer(model)
step = 0
if os.path.exists("model.pt"):
    state = torch.load("model.pt")
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    step = state["step"]
resumed(step)
while step < STEPS:
    step += 1
    loss = tiny.train(model, optimizer, step)
    print(step, loss, flush=True)
    if step % EVERY == 0:
        torch.save(
            {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step},
            "model.pt",
        )
        saved(step)
    made(step)
final(model.state_dict())

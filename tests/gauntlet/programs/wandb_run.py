"""W&B offline: one run over all attempts, by its id."""

import os

from ledger import EVERY, STEPS, final, made, resumed, saved

import tiny  # isort: skip
import torch
import wandb

run_id = os.environ["SPECTRAIN_JOB_ID"]
run = wandb.init(project="training", id=run_id, resume="allow")
model = tiny.model()
optimizer = tiny.optimizer(model)
step = 0
if os.path.exists("checkpoint.pt"):
    state = torch.load("checkpoint.pt")
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    step = state["step"]
resumed(step)
while step < STEPS:
    step += 1
    loss = tiny.train(model, optimizer, step)
    run.log({"loss": loss}, step=step)
    if step % EVERY == 0:
        torch.save(
            {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step},
            "checkpoint.pt",
        )
        saved(step)
    made(step)
run.finish()
final(model.state_dict())

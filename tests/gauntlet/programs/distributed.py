"""Two ranks under torchrun with gloo, and `snapshot.pt`, as in PyTorch's tutorial."""

import os

from ledger import EVERY, STEPS, final, made, resumed, saved

import tiny  # isort: skip
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

dist.init_process_group("gloo")
rank = dist.get_rank()
model = tiny.model()
optimizer = tiny.optimizer(model)
step = 0
if os.path.exists("snapshot.pt"):
    snapshot = torch.load("snapshot.pt")
    model.load_state_dict(snapshot["model"])
    optimizer.load_state_dict(snapshot["optimizer"])
    step = snapshot["step"]
parallel = DistributedDataParallel(model)
resumed(step)
while step < STEPS:
    step += 1
    inputs, targets = tiny.batch(step * 2 + rank)
    loss = torch.nn.functional.mse_loss(parallel(inputs), targets)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % EVERY == 0 and rank == 0:
        torch.save(
            {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step},
            "snapshot.pt",
        )
        saved(step)
    made(step)
dist.barrier()
final(model.state_dict())
dist.destroy_process_group()

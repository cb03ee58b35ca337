"""Fits a small network to a sine, and ends with the same weights however often it is interrupted.

    python train.py --steps 100 --lr 0.01

Without the service, it keeps its run in ./run.
"""

import argparse
import os
import sys
import time
from pathlib import Path

import torch
from torch import nn

from monitoring import CheckpointManager, MetricsLogger, preemption, restore_rng_state, step_counter

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=100)
parser.add_argument("--lr", type=float, default=0.01)
parser.add_argument("--pause", type=float, default=0.25, help="seconds, as if the model were large")
args = parser.parse_args()

run = Path(os.environ.get("SPECTRAIN_RUN_DIR", "run"))  # the service keeps what lies there
checkpoints = CheckpointManager(run, save_interval=20)
metrics = MetricsLogger(run / "logs", log_interval=1)

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(1, 64), nn.Tanh(), nn.Dropout(0.1), nn.Linear(64, 1))
optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=args.steps)
losses: list[float] = []

if checkpoint := checkpoints.load_latest_checkpoint():
    model.load_state_dict(checkpoint["model_state_dict"])
    optimizer.load_state_dict(checkpoint["optimizer_state_dict"])
    scheduler.load_state_dict(checkpoint["scheduler_state_dict"])
    losses = checkpoint["loss_history"]
    restore_rng_state(checkpoint["rng_state"])  # so that batches and dropout go on as they would
    print(f"resumes after step {checkpoint['step']}")
start = checkpoint["step"] + 1 if checkpoint else 0
metrics.rewind(start - 1)  # rows of steps that are made again do not count twice
step_counter.expect(args.steps)  # the service shows the time that is left

for step in range(start, args.steps):
    x = 6 * torch.rand(64, 1) - 3
    loss = (model(x) - x.sin()).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    scheduler.step()
    losses.append(loss.item())
    time.sleep(args.pause)

    metrics.log_metrics(step, {"loss": loss, "lr": scheduler.get_last_lr()[0]})
    if step % 10 == 0:
        print(f"step {step}: loss {losses[-1]:.4f}")
    stop = preemption.stop_requested()  # SIGTERM: save this step and leave
    if stop or checkpoints.should_checkpoint(step):
        checkpoints.save_checkpoint(step, model, optimizer, losses, vars(args), scheduler=scheduler)
    if stop:
        sys.exit(143)

torch.save(model.state_dict(), run / "model.pt")
print(f"final loss {losses[-1]:.8f}")

"""Trains a small network with one learning rate: one job of the sweep.

python train.py --lr 0.01
"""

import argparse
import os
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from monitoring import CheckpointManager, MetricsLogger, preemption, step_counter

parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float, required=True)
parser.add_argument("--steps", type=int, default=60)
parser.add_argument("--pause", type=float, default=0.25, help="seconds, as if the model were large")
args = parser.parse_args()

run = Path(os.environ.get("SPECTRAIN_RUN_DIR", "run"))
checkpoints = CheckpointManager(run, save_interval=15)
metrics = MetricsLogger(run / "logs", log_interval=1)


def batch(seed: int, size: int) -> tuple[Tensor, Tensor]:
    """Points (size, 2) and a function of them; a seed gives the same ones again."""
    x = 2 * torch.rand(size, 2, generator=torch.Generator().manual_seed(seed)) - 1
    return x, (3 * x[:, :1]).sin() * (2 * x[:, 1:]).cos()


val_x, val_y = batch(seed=1_000_000, size=1024)
torch.manual_seed(0)
torch.set_num_threads(1)
model = nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=args.lr, momentum=0.9)

checkpoint = checkpoints.load_latest_checkpoint()
if checkpoint:
    model.load_state_dict(checkpoint["model_state_dict"])
    optimizer.load_state_dict(checkpoint["optimizer_state_dict"])
start = checkpoint["step"] + 1 if checkpoint else 0
metrics.rewind(start - 1)
step_counter.expect(args.steps)

for step in range(start, args.steps):
    x, y = batch(seed=step, size=64)  # by the step: no place in the data to restore
    loss = nn.functional.mse_loss(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    time.sleep(args.pause)
    row = {"loss": loss.item()}
    if (step + 1) % 15 == 0:
        with torch.no_grad():
            row["val_loss"] = nn.functional.mse_loss(model(val_x), val_y).item()
        print(f"lr {args.lr:g}, {step + 1} steps: val_loss {row['val_loss']:.8f}")
    metrics.log_metrics(step, row)
    stop = preemption.stop_requested()
    if stop or checkpoints.should_checkpoint(step):
        checkpoints.save_checkpoint(step, model, optimizer, [], vars(args))
    if stop:
        sys.exit(143)

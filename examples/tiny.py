"""The monitoring library in a training script of your own: its four classes, and a resume.

    python examples/tiny.py [RUN_DIR] [STEPS]

fits a small network to a sine. Start it again, with more steps, and it goes on where it stopped;
send it SIGTERM and it saves before it ends. As a job of Spectrain it runs as it is: its run
directory is then the one in SPECTRAIN_RUN_DIR.
"""

import os
import sys
from pathlib import Path

import torch
from torch import nn

from monitoring import (
    CheckpointManager,
    ConfigTracker,
    MetricsLogger,
    VisualizationManager,
    create_experiment_directory,
    preemption,
    restore_rng_state,
)

default = os.environ.get("SPECTRAIN_RUN_DIR", "experiments/tiny")
run = Path(sys.argv[1] if len(sys.argv) > 1 else default)
steps = int(sys.argv[2]) if len(sys.argv) > 2 else 1000
config = {"lr": 0.01, "batch_size": 64, "hidden": 32, "steps": steps}

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(1, config["hidden"]), nn.Tanh(), nn.Linear(config["hidden"], 1))
optimizer = torch.optim.AdamW(model.parameters(), lr=config["lr"])

dirs = create_experiment_directory(run.parent, run.name)
checkpoint_mgr = CheckpointManager(dirs["root"], save_interval=50)
metrics_logger = MetricsLogger(dirs["logs"], log_interval=10)
viz_manager = VisualizationManager(dirs["visualizations"], viz_interval=500)
config_tracker = ConfigTracker(dirs["root"])

checkpoint = checkpoint_mgr.load_latest_checkpoint()
if checkpoint:
    model.load_state_dict(checkpoint["model_state_dict"])
    optimizer.load_state_dict(checkpoint["optimizer_state_dict"])
    restore_rng_state(checkpoint["rng_state"])
    start_step, loss_history = checkpoint["step"] + 1, checkpoint["loss_history"]
    print(f"Resumed from step {checkpoint['step']}")
else:
    start_step, loss_history = 0, []
    config_tracker.save_config(config, model, {"name": "sine"})
    print("Starting from scratch")
metrics_logger.rewind(start_step - 1)

for step in range(start_step, steps):
    x = 6 * torch.rand(config["batch_size"], 1) - 3
    loss = (model(x) - x.sin()).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    loss_history.append(loss.item())

    if metrics_logger.should_log(step):
        metrics_logger.log_metrics(step, {"loss": loss, "learning_rate": config["lr"]})
    if checkpoint_mgr.should_checkpoint(step):
        checkpoint_mgr.save_checkpoint(step, model, optimizer, loss_history, config)
    if viz_manager.should_visualize(step):
        viz_manager.generate_training_plots(step, loss_history)
    if preemption.stop_requested():
        checkpoint_mgr.save_checkpoint(step, model, optimizer, loss_history, config)
        sys.exit(143)

config_tracker.save_results({"val_loss": loss_history[-1]})
print(f"Loss after {steps} steps: {loss_history[-1]:.5f}")

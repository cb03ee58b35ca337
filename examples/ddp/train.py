"""Trains one model in several processes (DistributedDataParallel), on GPUs or on the CPU.

torchrun --standalone --nproc-per-node 2 train.py --steps 60

The first rank saves and logs; all ranks load, and all stop after the same step.
"""

import argparse
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from monitoring import CheckpointManager, MetricsLogger, preemption, step_counter

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=60)
parser.add_argument("--lr", type=float, default=1e-2)
parser.add_argument("--pause", type=float, default=0.4, help="seconds, as if the model were large")
args = parser.parse_args()

has_gpu = torch.cuda.is_available()
dist.init_process_group("nccl" if has_gpu else "gloo")
rank, ranks = dist.get_rank(), dist.get_world_size()
device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if has_gpu else torch.device("cpu")
if has_gpu:
    torch.cuda.set_device(device)  # for collectives that name no device, such as barrier
torch.set_num_threads(1)

points = 2 * torch.rand(512, 8, generator=torch.Generator().manual_seed(1)) - 1
data = TensorDataset(points, (3 * points).sin().sum(dim=1, keepdim=True))
sampler: DistributedSampler[tuple[Tensor, ...]] = DistributedSampler(data, ranks, rank, seed=1337)
loader = DataLoader(data, batch_size=16, sampler=sampler)


def batches(start: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of this rank from a step on, for ever; the order of an epoch follows from it."""
    epoch, done = divmod(start, len(loader))
    while True:
        sampler.set_epoch(epoch)
        for number, (x, y) in enumerate(loader):
            if number >= done:
                yield x.to(device), y.to(device)
        epoch, done = epoch + 1, 0


def one_was_asked_to_stop() -> bool:
    """Whether any rank was; signals reach them one after the other, and all stop together."""
    asked = torch.tensor(int(preemption.stop_requested()), device=device)
    dist.all_reduce(asked, dist.ReduceOp.MAX)
    return bool(asked)


torch.manual_seed(0)
model = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 1)).to(device)
optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr)
run = Path(os.environ.get("SPECTRAIN_RUN_DIR", "run"))
checkpoints = CheckpointManager(run, save_interval=15)
metrics = MetricsLogger(run / "logs", log_interval=1)
losses: list[float] = []

checkpoint = checkpoints.load_latest_checkpoint()  # the same one in every rank
if checkpoint:
    model.load_state_dict(checkpoint["model_state_dict"])
    optimizer.load_state_dict(checkpoint["optimizer_state_dict"])
    losses = checkpoint["loss_history"]
start = checkpoint["step"] + 1 if checkpoint else 0
if rank == 0:
    metrics.rewind(start - 1)
    step_counter.expect(args.steps)
    print(f"{ranks} ranks on {device.type}, from step {start}")
dist.barrier()  # none saves while another one loads

parallel = DistributedDataParallel(model, device_ids=[device.index] if has_gpu else None)
source = batches(start)
for step in range(start, args.steps):
    x, y = next(source)
    loss = nn.functional.mse_loss(parallel(x), y)
    optimizer.zero_grad()
    loss.backward()  # averages the gradients of all ranks
    optimizer.step()
    time.sleep(args.pause)
    mean = loss.detach().clone()
    dist.all_reduce(mean)
    losses.append(mean.item() / ranks)

    stop = one_was_asked_to_stop()
    if rank == 0:
        metrics.log_metrics(step, {"loss": losses[-1]})
        if step % 10 == 0:
            print(f"step {step}: loss {losses[-1]:.4f}")
        if stop or checkpoints.should_checkpoint(step):
            checkpoints.save_checkpoint(step, model, optimizer, losses, vars(args))
    if stop:
        dist.barrier()  # until the checkpoint is there
        dist.destroy_process_group()
        sys.exit(143)

if rank == 0:
    torch.save(model.state_dict(), run / "model.pt")
    print(f"final loss {losses[-1]:.8f}")
dist.barrier()  # none leaves while another one still works
dist.destroy_process_group()

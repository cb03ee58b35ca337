"""Trains a classifier with Lightning, and loses no step at a preemption.

python train.py --epochs 4
"""

import argparse
import time
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from lightning import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from monitoring.integrations.lightning import SpectrainCallback, SpectrainLogger

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=4)
parser.add_argument("--lr", type=float, default=1e-2)
parser.add_argument("--pause", type=float, default=0.4, help="seconds, as if the model were large")
args = parser.parse_args()


class Spirals(LightningModule):
    """Tells three spirals apart."""

    def __init__(self, lr: float, pause: float) -> None:
        super().__init__()
        self.lr, self.pause = lr, pause
        self.net = nn.Sequential(
            nn.Linear(2, 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 64), nn.ReLU(),
            nn.Linear(64, 3),
        )  # fmt: skip

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        """The loss of a batch."""
        points, labels = batch
        loss = F.cross_entropy(self.net(points), labels)
        time.sleep(self.pause)
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        """Log the accuracy; the points are one batch."""
        points, labels = batch
        accuracy = (self.net(points).argmax(dim=1) == labels).float().mean()
        self.log("accuracy", accuracy)
        self.print(f"epoch {self.current_epoch}: accuracy {accuracy:.4f}")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW over all weights."""
        return torch.optim.AdamW(self.parameters(), lr=self.lr)


class ResumableLoader(DataLoader[tuple[Tensor, ...]]):
    """A DataLoader that goes on in the middle of an epoch.

    Lightning saves and loads the state of a loader that has these two methods. With a plain
    `DataLoader`, it begins the epoch again.
    """

    done = 0  # batches of this epoch

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        first = self.done % len(self)  # 0 after a whole epoch
        for number, batch in enumerate(super().__iter__()):
            if number >= first:
                self.done = number + 1
                yield batch

    def state_dict(self) -> dict[str, int]:
        """The place in the epoch."""
        return {"done": self.done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from a place."""
        self.done = state["done"]


def spirals(points: int, seed: int) -> TensorDataset:
    """Points (points, 2) on three noisy arms, and the number of the arm of each."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (points,), generator=generator)
    radius = torch.rand(points, generator=generator)
    noise = 0.2 * torch.randn(points, generator=generator)
    angle = 4 * radius + 2.1 * labels + noise
    return TensorDataset(torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1), labels)


torch.set_num_threads(1)
seed_everything(1337)
points = spirals(480, seed=1)
train = ResumableLoader(
    points,
    batch_size=32,
    # Its order follows from seed and epoch, which Lightning tells it, also with one process.
    sampler=DistributedSampler(points, num_replicas=1, rank=0, seed=1337),
    # A loader draws a seed for its workers: not from the generator of dropout.
    generator=torch.Generator(),
)
validation = DataLoader(spirals(256, seed=2), batch_size=256)
module = Spirals(args.lr, args.pause)
trainer = Trainer(
    max_epochs=args.epochs,
    logger=SpectrainLogger(),
    # `ckpt_path="last"` finds what `save_last` leaves in a directory whose name never changes.
    callbacks=[ModelCheckpoint(dirpath="checkpoints", save_last=True), SpectrainCallback()],
    log_every_n_steps=1,
    num_sanity_val_steps=0,
    enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(module, train, validation, ckpt_path="last")
torch.save(module.state_dict(), "model.pt")
print(f"final weights after {trainer.global_step} steps are in model.pt")

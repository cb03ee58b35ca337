"""Lightning with our callback and logger: dropout, a checkpoint at the stop."""

import warnings

from ledger import EVERY, STEPS, curve, final, made, resumed, saved, stopped

import tiny  # isort: skip
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.callbacks import ModelCheckpoint as Checkpoints

from monitoring.integrations.lightning import SpectrainCallback, SpectrainLogger

warnings.filterwarnings("ignore")


class Module(LightningModule):
    def __init__(self):
        super().__init__()
        self.net = tiny.model()

    def training_step(self, batch, index):
        inputs, targets = tiny.batch(self.global_step + 1)
        hidden = torch.nn.functional.dropout(inputs, 0.1, self.training)
        loss = torch.nn.functional.mse_loss(self.net(hidden), targets)
        self.log("loss", loss)
        self.log("steps", float(self.global_step))
        return loss

    def configure_optimizers(self):
        return tiny.optimizer(self)


class Report(Callback):
    def on_train_start(self, trainer, module):
        resumed(trainer.global_step)

    def on_train_batch_end(self, trainer, *args):
        made(trainer.global_step)


class Ours(SpectrainCallback):
    def on_train_batch_end(self, trainer, *args):
        super().on_train_batch_end(trainer, *args)
        if self._stopping:
            saved(trainer.global_step)
            stopped(trainer.global_step)


class ModelCheckpoint(Checkpoints):
    def _save_last_checkpoint(self, trainer, candidates):
        super()._save_last_checkpoint(trainer, candidates)
        saved(trainer.global_step)


checkpoints = ModelCheckpoint(
    filename="{step}",
    monitor="steps",
    mode="max",
    save_top_k=2,
    save_last="link",
    every_n_train_steps=EVERY,
)
trainer = Trainer(
    max_steps=STEPS,
    accelerator="cpu",
    callbacks=[checkpoints, Report(), Ours()],
    logger=SpectrainLogger(),
    log_every_n_steps=1,
    enable_progress_bar=False,
    enable_model_summary=False,
)
module = Module()
loader = torch.utils.data.DataLoader(torch.zeros(STEPS, 1), batch_size=1)
trainer.fit(module, loader, ckpt_path="last")
final({"model": module.state_dict(), "curve": curve()})

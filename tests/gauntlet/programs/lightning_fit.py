"""Lightning: the best two checkpoints, the last one by a link, `ckpt_path="last"`."""

import warnings

from ledger import EVERY, STEPS, final, made, resumed, saved

import tiny  # isort: skip
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.callbacks import ModelCheckpoint as Checkpoints
from lightning.pytorch.loggers import TensorBoardLogger

warnings.filterwarnings("ignore")


class Module(LightningModule):
    def __init__(self):
        super().__init__()
        self.net = tiny.model()

    def training_step(self, batch, index):
        inputs, targets = tiny.batch(self.global_step + 1)
        loss = torch.nn.functional.mse_loss(self.net(inputs), targets)
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


class ModelCheckpoint(Checkpoints):
    def _save_last_checkpoint(self, trainer, candidates):
        super()._save_last_checkpoint(trainer, candidates)
        saved(trainer.global_step)


checkpoints = ModelCheckpoint(
    dirpath="checkpoints",
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
    callbacks=[checkpoints, Report()],
    logger=TensorBoardLogger("logs", name="", version=0),
    log_every_n_steps=10,
    enable_progress_bar=False,
    enable_model_summary=False,
)
module = Module()
loader = torch.utils.data.DataLoader(torch.zeros(STEPS, 1), batch_size=1)
trainer.fit(module, loader, ckpt_path="last")
final(module.state_dict())

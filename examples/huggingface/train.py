"""Trains a GPT-2 of its own size with a Hugging Face Trainer, and loses no step at a preemption.

python train.py --steps 60

The model is made from a configuration and the data below: nothing is downloaded.
"""

import argparse
import time

import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from monitoring.integrations.huggingface import SpectrainCallback, latest_checkpoint

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=60)
parser.add_argument("--lr", type=float, default=5e-3)
parser.add_argument("--pause", type=float, default=0.4, help="seconds, as if the model were large")
options = parser.parse_args()

set_seed(1337)
torch.set_num_threads(1)
config = GPT2Config(
    vocab_size=64,
    n_positions=16,
    n_embd=32,
    n_layer=2,
    n_head=2,
    bos_token_id=None,
    eos_token_id=None,
)
model = GPT2LMHeadModel(config)

# Sequences that count in steps of 1 to 7, modulo 64: (512, 16).
first = torch.randint(0, 64, (512, 1), generator=torch.Generator().manual_seed(1))
stride = torch.randint(1, 8, (512, 1), generator=torch.Generator().manual_seed(2))
sequences = (first + stride * torch.arange(16)) % 64
dataset = [{"input_ids": row, "labels": row} for row in sequences]


class Pause(TrainerCallback):
    """Makes a step take as long as one of a larger model."""

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Wait after each step."""
        time.sleep(options.pause)


args = TrainingArguments(
    output_dir="results",
    max_steps=options.steps,
    per_device_train_batch_size=8,
    learning_rate=options.lr,
    logging_steps=1,  # an average over more would begin anew at a resume
    save_steps=15,
    save_total_limit=2,
    seed=1337,
    report_to=[],
    disable_tqdm=True,
    dataloader_pin_memory=torch.cuda.is_available(),
)
trainer = Trainer(
    model=model, args=args, train_dataset=dataset, callbacks=[Pause(), SpectrainCallback()]
)
trainer.train(resume_from_checkpoint=latest_checkpoint(args.output_dir))  # None: from the start
trainer.save_model("final")
losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
print(f"final loss {losses[-1]:.8f}")

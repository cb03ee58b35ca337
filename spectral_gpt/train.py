"""The training loop: trains a model in a run directory, in any number of attempts.

An interrupted run resumes from its latest checkpoint and ends with the same weights and losses, bit
for bit on one device, as an uninterrupted one: weights, optimiser and random states come from the
checkpoint, and learning rate and batches are functions of the step.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from monitoring import (
    CheckpointManager,
    ConfigTracker,
    MetricsLogger,
    VisualizationManager,
    preemption,
    restore_rng_state,
)
from monitoring.paths import RunPaths
from spectral_gpt.config import TrainConfig
from spectral_gpt.data import load_corpus
from spectral_gpt.device import autocast, prepare_device
from spectral_gpt.generate import generate
from spectral_gpt.losses import CrossEntropy, build_loss
from spectral_gpt.model import GPT
from spectral_gpt.optimizer import build_optimizer, learning_rate
from spectral_gpt.pace import Pace
from spectral_gpt.resume import Progress, differences

FINISHED, STOPPED = 0, 128 + 15  # exit status; the second is a shell's for SIGTERM
CONSOLE_SECONDS = 5.0


def train(
    config: TrainConfig,
    run_dir: Path,
    *,
    stop_requested: Callable[[], bool] = preemption.stop_requested,
) -> int:
    """Train and return the exit status: 0 after the last step, 143 after a stop request.

    Resumes from the latest checkpoint in `run_dir`, if there is one. Raises WorkloadError if the
    run cannot start.
    """
    trainer = Trainer(config, run_dir)
    with ExitStack() as closing:
        for part in (trainer.metrics, trainer.checkpoints, trainer.plots):
            closing.callback(part.close)
        trainer.resume()
        return trainer.run(stop_requested)


class Update(NamedTuple):
    """The result of one optimiser step: scalars on the device; losses are means over the batch."""

    loss: Tensor
    cross_entropy: Tensor
    grad_norm: Tensor


class Trainer:
    """A run: model, optimiser and data, and the four parts of the monitoring library."""

    def __init__(self, config: TrainConfig, run_dir: Path) -> None:
        self.config = config
        self.device = prepare_device()
        self.corpus = load_corpus(config.dataset, config.model.block_size)
        vocab_size = self.corpus.tokenizer.vocab_size

        torch.manual_seed(config.seed)
        self.model = GPT(config.model, vocab_size).to(self.device)
        self.optimizer = build_optimizer(self.model, config.optimizer)
        self.criterion = build_loss(config.loss, vocab_size, config.seed).to(self.device)

        self.paths, every = RunPaths(run_dir), config.checkpoint
        self.checkpoints = CheckpointManager(
            run_dir,
            save_interval=every.every_steps or config.steps,  # a step that the loop never reaches
            save_seconds=every.every_seconds,
            keep_last_n=every.keep_last,
            async_save=True,
        )
        self.metrics = MetricsLogger(self.paths.logs, config.log_every)
        self.plots = VisualizationManager(
            self.paths.visualizations,
            config.plot_every or config.steps,  # 0: a step that is never reached
            background=True,
        )
        self.tracker = ConfigTracker(run_dir)

        self.start = 0
        self.loss_history: list[float] = []  # of every step
        self.pending: list[Tensor] = []  # the history's end, not yet fetched from the device
        self.columns = defaultdict[str, list[float]](list)  # what was logged, by metric
        self.progress = Progress(self.corpus.sha256)
        self.pace = Pace(config.tokens_per_step, 0)
        self.saved = self.validated = -1  # the last steps at which it was done
        self.spoken = -math.inf

    def resume(self) -> None:
        """Resume from the latest checkpoint, or start from the beginning. Raises ResumeError."""
        config, checkpoint = self.config, self.checkpoints.load_latest_checkpoint()
        if checkpoint:
            self.progress = Progress.from_checkpoint(checkpoint, config, self.corpus)
            self.model.load_state_dict(checkpoint["model_state_dict"])
            self.optimizer.load_state_dict(checkpoint["optimizer_state_dict"])
            self.loss_history = checkpoint["loss_history"]
            self.start, self.saved = checkpoint["step"] + 1, checkpoint["step"]
            say(f"resumed from step {self.saved}")
            for line in differences(checkpoint["config"], config.to_dict()):
                say(f"  with a changed setting: {line}")
        if not checkpoint or not self.paths.config.exists():
            self.tracker.save_config(config.to_dict(), self.model, self.corpus.info())

        self.metrics.rewind(self.start - 1)
        for row in self.metrics.load_metrics():
            self.remember(row)
        say(
            f"{config.model.type} model of {self.model.count_parameters():,} parameters on "
            f"{self.device}, {config.optimizer.name} + {config.loss.name}, {self.corpus.name} "
            f"({len(self.corpus.train):,} tokens), steps {self.start} to {config.steps - 1}"
        )
        self.pace = Pace(config.tokens_per_step, self.start, self.progress.seconds)
        if checkpoint:
            restore_rng_state(checkpoint["rng_state"])  # last: nothing may draw in between

    def run(self, stop_requested: Callable[[], bool]) -> int:
        """Run the loop; return the exit status."""
        config = self.config
        self.model.train()
        for step in range(self.start, config.steps):
            if stop_requested():
                # The save in progress may be void; then there is time for another.
                if self.saved < step - 1 or not self.checkpoints.wait():
                    self.save(step - 1)
                self.checkpoints.wait()
                say(f"stop requested: ended after step {step - 1}")
                return STOPPED

            rate = learning_rate(step, config.steps, config.optimizer)
            update = self.update(step, rate)

            last = step == config.steps - 1
            if last or step % config.eval_every == 0:
                self.validate(step)
            if self.metrics.should_log(step) or self.validated == step:
                self.log(step, rate, update)
            if self.checkpoints.should_checkpoint(step) or last:
                self.save(step)
            if self.plots.should_visualize(step) or (last and self.config.plot_every):
                self.plot(step)
        self.finish()
        return FINISHED

    def update(self, step: int, rate: float) -> Update:
        """Do one optimiser step on one batch, in `gradient_accumulation` parts."""
        config, parts = self.config, self.config.gradient_accumulation
        x, y = self.corpus.batch(
            "train", config.seed, step, config.batch_size * parts, config.model.block_size
        )  # 2 × (batch_size · parts, T)
        x, y = x.to(self.device), y.to(self.device)
        self.optimizer.zero_grad(set_to_none=True)
        losses = torch.zeros(2, device=self.device)
        for inputs, targets in zip(x.chunk(parts), y.chunk(parts), strict=True):
            with autocast(self.device):
                logits = self.model(inputs)  # (batch_size, T, V)
                loss = self.criterion(logits, targets)
            (loss.total / parts).backward()
            losses += torch.stack((loss.total, loss.cross_entropy)).detach() / parts

        limit = config.optimizer.grad_clip or math.inf
        grad_norm = clip_grad_norm_(self.model.parameters(), limit)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.pending.append(losses[0])
        return Update(losses[0], losses[1], grad_norm)

    @torch.no_grad()
    def validate(self, step: int) -> None:
        """Compute the mean cross-entropy in nats per token, always over the same batches."""
        config, cross_entropy, total = self.config, CrossEntropy(), 0.0
        self.model.eval()
        for i in range(config.eval_batches):
            x, y = self.corpus.batch(
                "val", config.seed, i, config.batch_size, config.model.block_size
            )
            with autocast(self.device):
                logits = self.model(x.to(self.device))  # (batch_size, T, V)
                total += cross_entropy(logits, y.to(self.device)).total.item()
        self.model.train()
        self.progress.validate(step, total / config.eval_batches)
        self.validated = step

    def log(self, step: int, rate: float, update: Update) -> None:
        """Log a row of metrics, and every few seconds a line on the console."""
        row = {
            "loss": update.loss.item(),
            "learning_rate": rate,
            "grad_norm": update.grad_norm.item(),
            "tokens_per_sec": round(self.pace.tokens_per_second(step), 1),
            "perplexity": perplexity(update.cross_entropy.item()),
        }
        if (ratio := self.model.get_wave_ratio()) is not None:
            row["wave_ratio"] = ratio
        if self.validated == step:
            row["val_loss"] = self.progress.val_loss
        self.metrics.log_metrics(step, row)
        self.remember(row)

        seconds = self.pace.seconds()
        if self.validated == step or seconds - self.spoken >= CONSOLE_SECONDS:
            self.spoken = seconds
            validation = f"  validation {row['val_loss']:.4f}" if "val_loss" in row else ""
            say(
                f"step {step}/{self.config.steps}  loss {row['loss']:.4f}{validation}  "
                f"{row['tokens_per_sec']:,.0f} tokens/s  "
                f"{self.pace.time_left(step, self.config.steps)} left"
            )

    def save(self, step: int) -> None:
        """Save a checkpoint while training continues, and mark it if it is the best so far."""
        self.fetch()
        self.progress.seconds = self.pace.seconds()
        best = self.validated == step and self.progress.save(step)
        path = self.checkpoints.save_checkpoint(
            step,
            self.model,
            self.optimizer,
            self.loss_history,
            self.config.to_dict(),
            extra=self.progress.to_dict(),
        )
        if path and best:
            self.checkpoints.mark_best(step)
        if path:
            self.saved = step
        say(f"checkpoint of step {step}" + ("" if path else " could not be saved"))

    def plot(self, step: int) -> None:
        """Plot the curves and, in the wave variant, the embedding."""
        self.fetch()
        self.plots.generate_training_plots(step, self.loss_history, self.columns)
        if self.config.model.type == "wave":
            self.plots.generate_model_plots(step, self.model)

    def finish(self) -> None:
        """Write results.json, with a generated sample if the config asks for one."""
        self.checkpoints.wait()
        config, progress, sample = self.config, self.progress, None
        if config.sample_tokens:
            sample = generate(
                self.model,
                self.corpus.tokenizer,
                config.sample_prompt,
                config.sample_tokens,
                seed=config.seed,
            )
        best = progress.best_saved_step
        self.tracker.save_results(
            {
                "val_loss": progress.val_loss,
                "perplexity": perplexity(progress.val_loss),
                "best_val_loss": progress.best_val_loss,
                "best_step": progress.best_step,
                "total_time_seconds": round(progress.seconds, 3),
                "tokens_per_second": round(
                    config.steps * config.tokens_per_step / progress.seconds, 1
                ),
            },
            best_checkpoint=(
                None if best is None else self.paths.checkpoint(best).relative_to(self.paths.root)
            ),
            generation_samples=[sample] if sample else [],
        )
        say(
            f"finished after {progress.seconds:.1f} s: validation loss {progress.val_loss:.4f}, "
            f"best {progress.best_val_loss:.4f} at step {progress.best_step}"
        )
        if sample:
            say(f"sample:\n{sample}")

    def fetch(self) -> None:
        """Move pending losses from the device to the history, in one transfer."""
        if self.pending:
            self.loss_history += torch.stack(self.pending).tolist()
            self.pending.clear()

    def remember(self, row: dict[str, Any]) -> None:
        """Keep a logged row for the plots."""
        for name, value in row.items():
            if name not in {"step", "timestamp", "loss"}:
                self.columns[name].append(value)


def perplexity(nats: float) -> float:
    """e to the power of the cross-entropy; infinite if that overflows."""
    return math.exp(nats) if nats < 700 else math.inf


def say(text: str) -> None:
    """Print a line and flush it."""
    print(text, flush=True)

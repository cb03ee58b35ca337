"""RGD, AdamW, and the learning rate of each step."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
import torch._dynamo  # takes a second; else the first optimiser imports it
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from spectral_gpt.config import OptimizerConfig

# Frequencies and angles, not maps: decay towards zero does not regularise them.
UNDECAYED = ("base_freqs", "phases", "harmonic_amps", "phase")


class RGD(Optimizer):
    """Resonant gradient descent: AdamW whose updates of matrices pass a filter of resonance.

    For a matrix W with the AdamW update U, and Ŵ, Û their 2-D Fourier transforms:

        ρ = α·sqrt( |Ŵ|/max|Ŵ| · |Û|/max|Û| ) + (1 − α)      α = strength · min(1, step / warmup)
        W ← W − lr · IFFT2(Û · ρ)

    with decoupled weight decay. Tensors of more than two dimensions are matrices (first, rest);
    vectors and scalars get the plain AdamW update. `step` counts from 1, so that warmup ≤ 1 is
    full strength at once. Equal shapes are filtered together. W and U are real, so half of each
    spectrum (rfft2) is enough, and its maxima are those of the whole.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.1,
        strength: float = 0.3,
        warmup: int = 500,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "strength": strength,
            "warmup": warmup,
            "step": 0,
        }
        super().__init__(params, defaults)

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update every parameter that has a gradient; return the loss of `closure`, if given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            group["step"] += 1
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                updates = self._adam_updates(params, group)
                torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
                alpha = group["strength"] * min(1.0, group["step"] / max(1, group["warmup"]))
                if alpha > 0:
                    updates = resonate(params, updates, alpha)
                torch._foreach_add_(params, updates, alpha=-group["lr"])
        return loss

    def _adam_updates(self, params: list[Tensor], group: dict[str, Any]) -> list[Tensor]:
        """Update the moments and return Adam's direction m̂ / (√v̂ + ε) of each parameter."""
        for p in params:
            if not self.state[p]:
                self.state[p] = {
                    "exp_avg": torch.zeros_like(p, memory_format=torch.preserve_format),
                    "exp_avg_sq": torch.zeros_like(p, memory_format=torch.preserve_format),
                }
        grads = [p.grad for p in params if p.grad is not None]
        means = [self.state[p]["exp_avg"] for p in params]
        squares = [self.state[p]["exp_avg_sq"] for p in params]
        beta1, beta2 = group["betas"]
        torch._foreach_lerp_(means, grads, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, grads, grads, 1 - beta2)

        scale = torch._foreach_sqrt(squares)
        torch._foreach_div_(scale, math.sqrt(1 - beta2 ** group["step"]))
        torch._foreach_add_(scale, group["eps"])
        updates = torch._foreach_div(means, scale)
        torch._foreach_div_(updates, 1 - beta1 ** group["step"])
        return list(updates)


def resonate(params: list[Tensor], updates: list[Tensor], alpha: float) -> list[Tensor]:
    """The updates, those of matrices filtered by their resonance with the weights."""
    same_shape = defaultdict(list)
    for i, p in enumerate(params):
        if p.dim() > 1:
            same_shape[p.shape].append(i)
    filtered = list(updates)
    for shape, members in same_shape.items():
        both = torch.stack(
            [tensors[i].flatten(1) for tensors in (params, updates) for i in members]
        )
        for i, matrix in zip(members, resonant_updates(both, alpha), strict=True):
            filtered[i] = matrix.view(shape)
    return filtered


def resonant_updates(both: Tensor, alpha: float) -> Tensor:
    """IFFT2(Û·ρ) for k matrices. `both`: their weights, then their updates, (2k, rows, columns)."""
    spectra = torch.fft.rfft2(both)  # (2k, rows, columns//2 + 1)
    power = torch.addcmul(spectra.real.square(), spectra.imag, spectra.imag)
    peak = power.amax(dim=(-2, -1), keepdim=True)
    power /= peak.clamp_min(torch.finfo(peak.dtype).tiny)  # a matrix of zeros stays so
    (w_power, u_power), u_hat = power.chunk(2), spectra.chunk(2)[1]
    # √(|Ŵ|·|Û|) = (|Ŵ|²·|Û|²)^¼
    rho = w_power.mul_(u_power).sqrt_().sqrt_().mul_(alpha).add_(1 - alpha)
    filtered: Tensor = torch.fft.irfft2(u_hat.mul_(rho), s=both.shape[-2:])  # (k, rows, columns)
    return filtered


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> Optimizer:
    """The configured optimiser; weight decay for the matrices that map, not for the rest."""
    named = list(model.named_parameters())
    decayed = [p for n, p in named if p.dim() > 1 and not n.endswith(UNDECAYED)]
    ids = {id(p) for p in decayed}
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": [p for _, p in named if id(p) not in ids], "weight_decay": 0.0},
    ]
    if config.name == "adamw":
        return AdamW(groups, lr=config.lr, betas=config.betas, fused=True)
    return RGD(
        groups,
        lr=config.lr,
        betas=config.betas,
        strength=config.strength,
        warmup=config.resonance_warmup,
    )


def learning_rate(step: int, steps: int, config: OptimizerConfig) -> float:
    """The rate of a step 0 … steps-1: linear warm-up, then a cosine to min_lr_ratio · lr.

    A function of the step alone, so that a resumed run needs no scheduler state.
    """
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, steps - 1 - config.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return config.lr * (config.min_lr_ratio + (1 - config.min_lr_ratio) * cosine)

"""The two losses: cross-entropy, and QFE, which adds the coherence of prediction and target."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spectral_gpt.config import LossConfig

PROJECTION = 256  # columns of the random matrix; larger vocabularies are projected onto them
AUDIBLE = 0.01  # smaller magnitudes are silence: their phase has no meaning


class Loss(NamedTuple):
    """The result of a loss: the total to minimise, and its parts (scalars)."""

    total: Tensor
    cross_entropy: Tensor
    coherence: Tensor | None = None


class CrossEntropy(nn.Module):
    """Mean cross-entropy in nats per token."""

    def forward(self, logits: Tensor, targets: Tensor) -> Loss:
        """Loss of logits (B, T, V) against token ids (B, T)."""
        ce = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())
        return Loss(total=ce, cross_entropy=ce)


class QFE(nn.Module):
    """Quantum field entanglement loss: cross-entropy + λ · coherence.

    With P = softmax(logits), Y = one-hot(targets), F_P and F_Y their Fourier transforms over the
    sequence, coherence is the mean of |F_P|·|F_Y|·(1 − cos(∠F_P − ∠F_Y)) over the frequencies
    where both magnitudes exceed 0.01. The angles cancel: it is |F_P|·|F_Y| − Re(F_P · conj F_Y).
    For V > 256 both are first multiplied by one fixed random matrix V×256 / √256, drawn from
    `seed`, so that a resumed run has the same one.
    """

    def __init__(self, vocab_size: int, coherence_weight: float = 0.05, seed: int = 0) -> None:
        super().__init__()
        self.coherence_weight = coherence_weight
        projection = None
        if vocab_size > PROJECTION:
            source = torch.Generator().manual_seed(seed)
            projection = torch.randn(vocab_size, PROJECTION, generator=source) / PROJECTION**0.5
        self.projection: Tensor | None
        self.register_buffer("projection", projection, persistent=False)

    def forward(self, logits: Tensor, targets: Tensor) -> Loss:
        """Loss of logits (B, T, V) against token ids (B, T)."""
        log_p = F.log_softmax(logits.float(), dim=-1)  # (B, T, V)
        ce = F.nll_loss(log_p.flatten(0, 1), targets.flatten())
        coherence = self.coherence(log_p.exp(), targets)
        return Loss(ce + self.coherence_weight * coherence, ce, coherence)

    def coherence(self, p: Tensor, targets: Tensor) -> Tensor:
        """The coherence of probabilities (B, T, V) with token ids (B, T), a scalar ≥ 0.

        At a given frequency the term is homogeneous of degree one in F_P. By Euler's theorem it
        is the product of F_P with its own gradient, and so is the sum over P: a gradient field
        computed once gives the value here and the derivative in the backward pass.
        """
        if self.projection is not None:
            p = (p @ self.projection).float()  # (B, T, 256)
        with torch.no_grad():
            if self.projection is None:
                y = torch.zeros_like(p).scatter_(-1, targets.unsqueeze(-1), 1.0)  # one-hot
            else:
                y = self.projection[targets]  # one-hot times a matrix is a row of it
            field = coherence_gradient(p, y)
        return torch.sum(p * field)


def coherence_gradient(p: Tensor, y: Tensor) -> Tensor:
    """The gradient with respect to p of the coherence of p and y, all of shape (B, T, channels).

    d/dF_P of |F_P|·|F_Y| − Re(F_P · conj F_Y) is F_P·|F_Y|/|F_P| − F_Y; the adjoint of the
    transform takes it back to p.
    """
    length = p.shape[1]
    f_p, f_y = torch.fft.rfft(p, dim=1), torch.fft.rfft(y, dim=1)  # (B, T//2 + 1, channels)
    power_p, power_y = _power(f_p), _power(f_y)
    audible = (power_p > AUDIBLE**2) & (power_y > AUDIBLE**2)
    ratio = torch.where(audible, power_y / power_p, 0.0).sqrt_()
    gradient = f_p.mul_(ratio).sub_(f_y.mul_(audible))
    gradient /= audible.sum().clamp_min(1)
    gradient[:, 1 : (length + 1) // 2] /= 2  # irfft adds the mirrored half, rfft's adjoint none
    field: Tensor = torch.fft.irfft(gradient, n=length, dim=1, norm="forward")
    return field


def _power(spectrum: Tensor) -> Tensor:
    return torch.addcmul(spectrum.real.square(), spectrum.imag, spectrum.imag)


def build_loss(config: LossConfig, vocab_size: int, seed: int) -> nn.Module:
    """The configured loss, a module from (logits, targets) to a Loss."""
    if config.name == "ce":
        return CrossEntropy()
    return QFE(vocab_size, config.coherence_weight, seed)

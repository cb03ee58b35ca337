import math

import pytest
import torch
from torch import Tensor, nn

from spectral_gpt.config import ModelConfig, OptimizerConfig
from spectral_gpt.model import GPT
from spectral_gpt.optimizer import RGD, build_optimizer, learning_rate


def literal_resonance(w: Tensor, u: Tensor, alpha: float) -> Tensor:
    """The specification's filter of one update, by full complex transforms."""
    matrix = w.reshape(w.shape[0], -1)
    w_hat, u_hat = torch.fft.fft2(matrix), torch.fft.fft2(u.reshape(matrix.shape))
    a, b = w_hat.abs(), u_hat.abs()
    rho = alpha * torch.sqrt(a / a.max() * b / b.max()) + (1 - alpha)
    return torch.fft.ifft2(u_hat * rho).real.reshape(w.shape)


def literal_rgd(params: list[Tensor], gradients: list[list[Tensor]], warmup: int) -> list[Tensor]:
    """RGD one tensor at a time: lr 0.01, betas 0.9 and 0.95, decay 0.1, strength 0.3."""
    result = []
    for i, start in enumerate(params):
        w, m, v = start.clone(), torch.zeros_like(start), torch.zeros_like(start)
        for step, grads in enumerate(gradients, start=1):
            g = grads[i]
            m = 0.9 * m + 0.1 * g
            v = 0.95 * v + 0.05 * g**2
            u = (m / (1 - 0.9**step)) / (torch.sqrt(v / (1 - 0.95**step)) + 1e-8)
            if w.dim() > 1:
                u = literal_resonance(w, u, 0.3 * min(1.0, step / warmup))
            w = w - 0.01 * 0.1 * w - 0.01 * u
        result.append(w)
    return result


def tensors(seed: int) -> list[Tensor]:
    shapes = [(6, 4), (6, 4), (5, 7), (1, 3), (4, 3, 2), (9,), ()]  # even, odd, equal, deep, flat
    source = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=source, dtype=torch.float64) for shape in shapes]


def run(params: list[nn.Parameter], optimizer: RGD, gradients: list[list[Tensor]]) -> None:
    for grads in gradients:
        for p, g in zip(params, grads, strict=True):
            p.grad = g.clone()
        optimizer.step()


def test_rgd_equals_the_literal_formula() -> None:
    gradients = [tensors(step) for step in range(1, 9)]
    params = [nn.Parameter(t) for t in tensors(0)]
    run(params, RGD(params, lr=0.01, warmup=5), gradients)
    for ours, literal in zip(params, literal_rgd(tensors(0), gradients, 5), strict=True):
        torch.testing.assert_close(ours.data, literal, rtol=1e-10, atol=1e-12)


def test_rgd_without_strength_is_adamw() -> None:
    gradients = [tensors(step) for step in range(1, 9)]
    ours, theirs = ([nn.Parameter(t) for t in tensors(0)] for _ in range(2))
    run(ours, RGD(ours, lr=0.01, strength=0.0), gradients)
    adamw = torch.optim.AdamW(theirs, lr=0.01, betas=(0.9, 0.95), weight_decay=0.1)
    run(theirs, adamw, gradients)  # type: ignore[arg-type]
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_rgd_goes_on_exactly_from_its_state_dict() -> None:
    gradients = [tensors(step) for step in range(1, 9)]
    whole = [nn.Parameter(t) for t in tensors(0)]
    run(whole, RGD(whole, warmup=5), gradients)

    first = [nn.Parameter(t) for t in tensors(0)]
    stopped = RGD(first, warmup=5)
    run(first, stopped, gradients[:3])
    second = [nn.Parameter(p.data.clone()) for p in first]
    resumed = RGD(second, warmup=5)
    resumed.load_state_dict(stopped.state_dict())
    run(second, resumed, gradients[3:])
    assert all(torch.equal(a, b) for a, b in zip(whole, second, strict=True))


def test_rgd_moves_a_matrix_of_zeros() -> None:
    p = nn.Parameter(torch.zeros(4, 4))
    p.grad = torch.ones(4, 4)
    RGD([p], lr=1.0, strength=0.5, warmup=1).step()
    torch.testing.assert_close(p.data, torch.full((4, 4), -0.5))  # 1 − α lets half through


@pytest.mark.parametrize("name", ["adamw", "rgd"])
def test_only_weights_that_map_are_decayed(name: str) -> None:
    model = GPT(ModelConfig(d_model=16, num_heads=2, num_layers=1), 8)
    config = OptimizerConfig(name=name)  # type: ignore[arg-type]
    groups = build_optimizer(model, config).param_groups
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    names = {name for name, p in model.named_parameters() if id(p) in decayed}
    assert names == {
        "embedding.project.weight",
        "embedding.token.weight",
        *(f"blocks.0.{part}.weight" for part in ("attention.qkv", "attention.out")),
        *(f"blocks.0.{part}.weight" for part in ("mlp.up", "mlp.out")),
    }
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


def test_learning_rate_warms_up_and_falls_along_a_cosine() -> None:
    config = OptimizerConfig(lr=1.0, warmup_steps=10, min_lr_ratio=0.1)
    rates = [learning_rate(step, 111, config) for step in range(111)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == 1.0
    assert rates[60] == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 2)))
    assert rates[-1] == pytest.approx(0.1)
    assert sorted(rates[10:], reverse=True) == rates[10:]
    assert learning_rate(0, 1, OptimizerConfig(lr=1.0, warmup_steps=0)) == 1.0

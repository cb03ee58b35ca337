"""The models against plain, literal implementations of their formulas, in float64."""

import math
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from spectral_gpt.config import ModelConfig
from spectral_gpt.model import (
    GPT,
    CausalSelfAttention,
    InterferenceAttention,
    WavePacketEmbedding,
)

V, B, T = 11, 3, 8


@pytest.fixture(autouse=True)
def _double_precision() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(1)
    yield
    torch.set_default_dtype(torch.float32)


def tiny(kind: str, **changes: object) -> ModelConfig:
    sizes = {"d_model": 24, "num_layers": 2, "num_heads": 3, "num_waves": 5, "num_harmonics": 3}
    return ModelConfig(type=kind, block_size=T, **{**sizes, **changes})  # type: ignore[arg-type]


def literal_wave_embedding(e: WavePacketEmbedding, tokens: Tensor) -> Tensor:
    """The specification's formulas, one entry at a time."""
    _, waves, harmonics = e.harmonic_amps.shape
    rows = []
    for row in tokens.tolist():
        out = []
        for t, v in enumerate(row):
            pairs = [(w, h) for w in range(waves) for h in range(harmonics)]
            theta = torch.stack(
                [
                    2 * math.pi * (h + 1) * e.base_freqs[v, w] + e.phases[v, w] + t * e.position[w]
                    for w, h in pairs
                ]
            )
            a = torch.stack([e.harmonic_amps[v, w, h] for w, h in pairs])
            wave = e.project(torch.cat((a * theta.sin(), a * theta.cos())))
            r = torch.sigmoid(e.mix)
            out.append(e.norm(r * wave + (1 - r) * e.token.weight[v]))
        rows.append(torch.stack(out))
    return torch.stack(rows)


def literal_attention(q: Tensor, k: Tensor, v: Tensor, scale: float | Tensor) -> Tensor:
    """Causal softmax over a T×T matrix of scores; inputs (B, n, T, ·), output (B, T, n·)."""
    scores = (q @ k.transpose(-1, -2)) * scale
    future = torch.ones(q.shape[-2], q.shape[-2], dtype=torch.bool).triu(1)
    y = scores.masked_fill(future, -math.inf).softmax(-1) @ v
    return y.transpose(1, 2).flatten(2)


def heads(x: Tensor, n: int) -> Tensor:
    return x.view(*x.shape[:2], n, -1).transpose(1, 2)


def test_wave_embedding_and_its_gradients_equal_the_literal_formula() -> None:
    embedding = WavePacketEmbedding(tiny("wave"), V)
    tokens = torch.randint(V, (B, T))
    direction = torch.randn(B, T, 24)
    results = []
    for function in (embedding, lambda x: literal_wave_embedding(embedding, x)):
        x = function(tokens)
        gradients = torch.autograd.grad((x * direction).sum(), list(embedding.parameters()))
        results.append((x, *gradients))
    for ours, literal in zip(*results, strict=True):
        torch.testing.assert_close(ours, literal, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("num_waves", [5, 8, 13])  # narrower, as wide and wider than C/n = 8
def test_interference_attention_equals_the_literal_formula(num_waves: int) -> None:
    attention = InterferenceAttention(tiny("wave", num_waves=num_waves))
    torch.nn.init.normal_(attention.phase)
    x = torch.randn(B, T, 24)
    q, k, v = attention.qkv(x).split([3 * num_waves, 3 * num_waves, 24], dim=-1)
    q, k = heads(q, 3) + attention.phase[0][:, None], heads(k, 3) + attention.phase[1][:, None]
    q = q / q.square().sum(-1, keepdim=True).sqrt()
    k = k / k.square().sum(-1, keepdim=True).sqrt()
    literal = attention.out(literal_attention(q, k, heads(v, 3), 1 / attention.tau))
    torch.testing.assert_close(attention(x), literal, rtol=1e-9, atol=1e-12)
    assert attention.tau.item() == pytest.approx(math.sqrt(num_waves))


def test_standard_model_equals_a_plain_gpt2_decoder() -> None:
    model = GPT(tiny("standard"), V)
    tokens = torch.randint(V, (B, T))
    x = model.embedding.token.weight[tokens] + model.embedding.position.weight[:T]  # type: ignore[union-attr]
    for block in model.blocks:
        attention = block.attention
        assert isinstance(attention, CausalSelfAttention)
        normed = F.layer_norm(x, (24,), block.attention_norm.weight)  # type: ignore[union-attr]
        q, k, v = (heads(part, 3) for part in attention.qkv(normed).chunk(3, dim=-1))
        x = x + attention.out(literal_attention(q, k, v, 1 / math.sqrt(8)))
        normed = F.layer_norm(x, (24,), block.mlp_norm.weight)  # type: ignore[union-attr]
        x = x + block.mlp.out(F.gelu(block.mlp.up(normed)))  # type: ignore[union-attr]
    x = F.layer_norm(x, (24,), model.norm.weight)
    literal = x @ model.embedding.token.weight.T
    torch.testing.assert_close(model(tokens), literal, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", ["standard", "wave"])
def test_no_position_sees_the_future(kind: str) -> None:
    model = GPT(tiny(kind), V).eval()
    tokens = torch.randint(V, (1, T))
    changed = tokens.clone()
    changed[0, 5:] = (changed[0, 5:] + 1) % V
    before, after = model(tokens), model(changed)
    torch.testing.assert_close(before[:, :5], after[:, :5])
    assert not torch.allclose(before[:, 5:], after[:, 5:])


@pytest.mark.parametrize("kind", ["standard", "wave"])
def test_a_tied_head_is_the_token_table_and_an_untied_one_is_its_own(kind: str) -> None:
    tied, untied = GPT(tiny(kind), V), GPT(tiny(kind, tied=False), V)
    assert tied.head.weight is tied.embedding.token.weight
    assert untied.count_parameters() == tied.count_parameters() + V * 24


def test_wave_parameters_start_as_specified() -> None:
    model = GPT(tiny("wave", num_waves=16, num_harmonics=4), 500)
    embedding = model.embedding
    assert isinstance(embedding, WavePacketEmbedding)
    spread = embedding.base_freqs - torch.linspace(0.5, 5.0, 16)
    assert spread.mean().item() == pytest.approx(0, abs=0.01)
    assert spread.std().item() == pytest.approx(0.1, abs=0.005)
    assert embedding.phases.min() >= 0
    assert embedding.phases.max() < 2 * math.pi
    assert embedding.phases.mean().item() == pytest.approx(math.pi, abs=0.1)
    assert embedding.harmonic_amps.shape == (500, 16, 4)
    assert embedding.harmonic_amps.std().item() == pytest.approx(0.5 / 8, rel=0.05)
    assert model.get_wave_ratio() == 0.5
    assert GPT(tiny("standard"), V).get_wave_ratio() is None

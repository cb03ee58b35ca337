"""The language model: a GPT-2 style decoder, and its wave variant.

Shapes: B batch, T sequence, C = d_model, V vocabulary, n heads, W = num_waves,
H = num_harmonics. As in nanoGPT's own training runs, no Linear and no LayerNorm has a bias.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spectral_gpt.config import ModelConfig

INIT_DEVIATION = 0.02  # GPT-2's
TAU_GAIN = 16


class GPT(nn.Module):
    """Token ids (B, T) to logits (B, T, V); `config.type` chooses embedding and attention.

    With `config.tied` the head shares its weight with the token table. In the wave variant that
    is the `Embedding[v]` half of the mixture: the wave half depends on the position, so it has no
    single vector per token that a head could share.
    """

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.config = config
        wave = config.type == "wave"
        self.embedding: WavePacketEmbedding | PositionEmbedding = (
            WavePacketEmbedding(config, vocab_size)
            if wave
            else PositionEmbedding(config, vocab_size)
        )
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            Block(config, InterferenceAttention(config) if wave else CausalSelfAttention(config))
            for _ in range(config.num_layers)
        )
        self.norm = nn.LayerNorm(config.d_model, bias=False)
        self.head = nn.Linear(config.d_model, vocab_size, bias=False)

        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=INIT_DEVIATION)
        for name, parameter in self.named_parameters():
            if name.endswith("out.weight"):  # both branches of every block add to the stream
                deviation = INIT_DEVIATION / math.sqrt(2 * config.num_layers)
                nn.init.normal_(parameter, std=deviation)
        if config.tied:
            self.head.weight = self.embedding.token.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of the next token at every position; T may be anything up to block_size."""
        x = self.dropout(self.embedding(tokens))  # (B, T, C)
        for block in self.blocks:
            x = block(x)  # (B, T, C)
        logits: Tensor = self.head(self.norm(x))  # (B, T, V)
        return logits

    def get_wave_ratio(self) -> float | None:
        """The share r of the wave in the embedding, 0 to 1; None in the standard variant."""
        embedding = self.embedding
        return embedding.ratio.item() if isinstance(embedding, WavePacketEmbedding) else None

    def count_parameters(self) -> int:
        """Trained numbers, a tied table counted once."""
        return sum(parameter.numel() for parameter in self.parameters())


class PositionEmbedding(nn.Module):
    """Learned vectors of token and position, added: (B, T) to (B, T, C)."""

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.token = nn.Embedding(vocab_size, config.d_model)
        self.position = nn.Embedding(config.block_size, config.d_model)

    def forward(self, tokens: Tensor) -> Tensor:
        """Embed tokens at positions 0 … T-1."""
        x: Tensor = self.token(tokens) + self.position.weight[: tokens.shape[1]]  # (B, T, C)
        return x


class WavePacketEmbedding(nn.Module):
    """Tokens as packets of harmonics that travel with the position: (B, T) to (B, T, C).

    By definition θ(t, v, w, h) = 2π·h·f[v, w] + φ[v, w] + t·p[w]. The part that depends on the
    token is computed once per vocabulary entry and the part that depends on the position once per
    position; sin(α + β) = sin α cos β + cos α sin β combines them. So a batch costs
    V·W·H + T·W sines rather than B·T·W·H, with the same gradients.
    """

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        v, w, h = vocab_size, config.num_waves, config.num_harmonics
        self.base_freqs = nn.Parameter(torch.linspace(0.5, 5.0, w) + 0.1 * torch.randn(v, w))
        self.phases = nn.Parameter(2 * math.pi * torch.rand(v, w))
        self.harmonic_amps = nn.Parameter(torch.randn(v, w, h) * 0.5 / math.sqrt(h * w))
        # From one radian per token down to one per block, evenly in octaves.
        self.position = nn.Parameter(config.block_size ** -torch.linspace(0, 1, w))
        self.project = nn.Linear(2 * w * h, config.d_model, bias=False)
        self.token = nn.Embedding(vocab_size, config.d_model)
        self.mix = nn.Parameter(torch.zeros(()))
        self.norm = nn.LayerNorm(config.d_model, bias=False)
        harmonics = 2 * math.pi * torch.arange(1, h + 1, dtype=self.phases.dtype)
        self.harmonics: Tensor
        self.register_buffer("harmonics", harmonics, persistent=False)

    @property
    def ratio(self) -> Tensor:
        """The share r of the wave, a scalar."""
        return torch.sigmoid(self.mix)

    def forward(self, tokens: Tensor) -> Tensor:
        """Embed tokens at positions 0 … T-1."""
        alpha = self.base_freqs.unsqueeze(-1) * self.harmonics + self.phases.unsqueeze(-1)
        table = torch.stack((alpha.sin(), alpha.cos())) * self.harmonic_amps  # (2, V, W, H)
        table = table.permute(1, 0, 2, 3).flatten(1)  # (V, 2WH)
        shape = (*tokens.shape, 2, *self.harmonic_amps.shape[1:])
        sine, cosine = F.embedding(tokens, table).view(shape).unbind(2)  # 2 × (B, T, W, H)

        t = torch.arange(tokens.shape[1], device=tokens.device, dtype=self.position.dtype)
        beta = (t.unsqueeze(-1) * self.position).unsqueeze(-1)  # (T, W, 1)
        s, c = beta.sin(), beta.cos()
        state = torch.stack((sine * c + cosine * s, cosine * c - sine * s), dim=2).flatten(2)

        wave = self.project(state)  # (B, T, 2WH) -> (B, T, C)
        x: Tensor = self.norm(torch.lerp(self.token(tokens), wave, self.ratio))  # (B, T, C)
        return x


class CausalSelfAttention(nn.Module):
    """Multi-head attention by scaled dot products: (B, T, C) to (B, T, C)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads, self.p = config.num_heads, config.dropout
        self.qkv = nn.Linear(config.d_model, 3 * config.d_model, bias=False)
        self.out = nn.Linear(config.d_model, config.d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Mix each position with those before it."""
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, n, T, C/n)
            for part in self.qkv(x).chunk(3, dim=-1)
        )
        y = F.scaled_dot_product_attention(
            q, k, v, dropout_p=self.p if self.training else 0.0, is_causal=True
        )
        mixed: Tensor = self.out(y.transpose(1, 2).flatten(2))  # (B, T, C)
        return mixed


class InterferenceAttention(nn.Module):
    """Attention by the cosine of phase-shifted waves: (B, T, C) to (B, T, C).

    score = (q̂ · k̂) / τ with q̂ = normalise(q + φ_q), k̂ = normalise(k + φ_k), each of W numbers
    per head, is what scaled dot-product attention computes on q̂/τ and k̂. τ = √W · exp(gain · s)
    with s learned is always positive, and with a large gain quick to fall: a cosine is at most 1,
    so that attention can choose one position only when τ is some ten times smaller than at first.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads, self.waves, self.p = config.num_heads, config.num_waves, config.dropout
        self.widths = (2 * config.num_heads * config.num_waves, config.d_model)
        self.qkv = nn.Linear(config.d_model, sum(self.widths), bias=False)
        self.phase = nn.Parameter(torch.zeros(2, self.heads, self.waves))  # φ_q and φ_k
        self.slack = nn.Parameter(torch.zeros(()))  # s
        self.out = nn.Linear(config.d_model, config.d_model, bias=False)

    @property
    def tau(self) -> Tensor:
        """The temperature τ, a scalar."""
        return math.sqrt(self.waves) * torch.exp(TAU_GAIN * self.slack)

    def forward(self, x: Tensor) -> Tensor:
        """Mix each position with those before it."""
        qk, v = self.qkv(x).split(self.widths, dim=-1)  # (B, T, 2nW), (B, T, C)
        v = v.unflatten(-1, (self.heads, -1))  # (B, T, n, C/n)
        qk = qk.unflatten(-1, (2, self.heads, self.waves)) + self.phase  # (B, T, 2, n, W)
        qk = F.normalize(qk, dim=-1)

        # The kernels that never hold T×T scores want one width: zeros change no dot product.
        width = max(self.waves, v.shape[-1])
        q, k = F.pad(qk, (0, width - self.waves)).unbind(2)  # 2 × (B, T, n, width)
        y = F.scaled_dot_product_attention(
            (q / self.tau).transpose(1, 2),
            k.transpose(1, 2),
            F.pad(v, (0, width - v.shape[-1])).transpose(1, 2),
            dropout_p=self.p if self.training else 0.0,
            is_causal=True,
            scale=1.0,
        )  # (B, n, T, width)
        y = y[..., : v.shape[-1]].transpose(1, 2).flatten(2)  # (B, T, C)
        mixed: Tensor = self.out(y)
        return mixed


class Block(nn.Module):
    """Attention and MLP, each normalised before and added after: (B, T, C) to (B, T, C)."""

    def __init__(self, config: ModelConfig, attention: nn.Module) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.d_model, bias=False)
        self.attention = attention
        self.mlp_norm = nn.LayerNorm(config.d_model, bias=False)
        self.mlp = MLP(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """One layer of the decoder."""
        x = x + self.dropout(self.attention(self.attention_norm(x)))  # (B, T, C)
        y: Tensor = x + self.dropout(self.mlp(self.mlp_norm(x)))  # (B, T, C)
        return y


class MLP(nn.Module):
    """Two linear maps with a GELU between, 4·C wide inside: (B, T, C) to (B, T, C)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.d_model, 4 * config.d_model, bias=False)
        self.out = nn.Linear(4 * config.d_model, config.d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Each position by itself."""
        y: Tensor = self.out(F.gelu(self.up(x)))  # (B, T, 4C) -> (B, T, C)
        return y

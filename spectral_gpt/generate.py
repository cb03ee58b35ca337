"""Text generation with a trained model."""

from __future__ import annotations

import numpy as np
import torch

from spectral_gpt.data import Tokenizer
from spectral_gpt.device import autocast
from spectral_gpt.model import GPT


@torch.no_grad()
def generate(
    model: GPT,
    tokenizer: Tokenizer,
    prompt: str,
    count: int,
    *,
    seed: int,
    temperature: float = 0.8,
    top_k: int = 40,
) -> str:
    """Return the prompt and `count` more tokens, each sampled from the `top_k` most likely ones.

    Uses its own random generator, so the random state of the run does not change.
    """
    device = next(model.parameters()).device
    source = torch.Generator().manual_seed(seed)
    start = tokenizer.encode(prompt.encode())
    tokens = torch.zeros(1, max(1, len(start)) + count, dtype=torch.long)  # (1, prompt + count)
    tokens[0, : len(start)] = torch.from_numpy(start.astype(np.int64))
    was_training = model.training
    model.eval()
    for end in range(max(1, len(start)), tokens.shape[1]):
        window = tokens[:, max(0, end - model.config.block_size) : end].to(device)  # (1, ≤ T)
        with autocast(device):
            logits = model(window)[0, -1].float().cpu() / temperature  # (V,)
        best = logits.topk(min(top_k, len(logits)))
        choice = torch.multinomial(best.values.softmax(-1), 1, generator=source)
        tokens[0, end] = best.indices[choice]
    model.train(was_training)
    return tokenizer.decode(tokens[0].numpy())

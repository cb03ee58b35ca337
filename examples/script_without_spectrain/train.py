"""Trains a small GPT on characters, after the manner of nanoGPT's train.py.

python train.py --max_iters=60
python train.py --max_iters=80 --init_from=resume

It was written without Spectrain in mind: it prints lines, rewrites one checkpoint, and dies at once
of SIGTERM.
"""

import ast
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# -- configuration: --name=value replaces a value -----------------------------------------------
out_dir = "out"
init_from = "scratch"  # or "resume"
eval_interval = 10  # iterations between two evaluations, each of which saves a checkpoint
eval_iters = 4
max_iters = 60
batch_size = 8
block_size = 32
n_layer, n_head, n_embd = 2, 2, 32
dropout = 0.1
learning_rate = 3e-3
seed = 1337
pause = 0.4  # seconds an iteration, as if the model were large
for argument in sys.argv[1:]:
    key, _, text = argument.removeprefix("--").partition("=")
    globals()[key] = text if isinstance(globals()[key], str) else ast.literal_eval(text)

torch.set_num_threads(1)
torch.manual_seed(seed)
ckpt_path = Path(out_dir) / "ckpt.pt"
ckpt_path.parent.mkdir(parents=True, exist_ok=True)
device = "cuda" if torch.cuda.is_available() else "cpu"

# -- data ---------------------------------------------------------------------------------------
text = Path(__file__).with_name("input.txt").read_text()
characters = sorted(set(text))
tokens = torch.tensor([characters.index(character) for character in text])
split = int(0.9 * len(tokens))
data = {"train": tokens[:split], "val": tokens[split:]}


def get_batch(part: str, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Inputs and targets, (batch_size, block_size) each."""
    source = data[part]
    starts = torch.randint(len(source) - block_size, (batch_size,), generator=generator)
    x = torch.stack([source[i : i + block_size] for i in starts])
    y = torch.stack([source[i + 1 : i + 1 + block_size] for i in starts])
    return x.to(device), y.to(device)


# -- model --------------------------------------------------------------------------------------
class Block(nn.Module):
    """Attention and a perceptron, each around a residual stream."""

    def __init__(self) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(n_embd), nn.LayerNorm(n_embd)
        self.qkv, self.proj = nn.Linear(n_embd, 3 * n_embd), nn.Linear(n_embd, n_embd)
        self.mlp = nn.Sequential(
            nn.Linear(n_embd, 4 * n_embd),
            nn.GELU(),
            nn.Linear(4 * n_embd, n_embd),
            nn.Dropout(dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Shape (B, T, n_embd)."""
        heads = [
            part.unflatten(2, (n_head, -1)).transpose(1, 2)  # (B, n_head, T, n_embd / n_head)
            for part in self.qkv(self.ln_1(x)).split(n_embd, dim=2)
        ]
        y = F.scaled_dot_product_attention(*heads, is_causal=True)
        x = x + self.proj(y.transpose(1, 2).flatten(2))
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    """A decoder-only transformer over characters."""

    def __init__(self) -> None:
        super().__init__()
        self.wte = nn.Embedding(len(characters), n_embd)
        self.wpe = nn.Embedding(block_size, n_embd)
        self.blocks = nn.Sequential(*(Block() for _ in range(n_layer)))
        self.head = nn.Linear(n_embd, len(characters))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """The loss, a scalar."""
        hidden = self.wte(x) + self.wpe(torch.arange(block_size, device=device))
        logits = self.head(self.blocks(hidden))  # (B, T, characters)
        return F.cross_entropy(logits.flatten(0, 1), y.flatten())


model = GPT().to(device)
optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)
iter_num = 0
if init_from == "resume":
    checkpoint = torch.load(ckpt_path)
    model.load_state_dict(checkpoint["model"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    iter_num = checkpoint["iter_num"]
    torch.set_rng_state(checkpoint["rng_state"])  # the batches that follow, and dropout
    print(f"resuming training from {ckpt_path} at iteration {iter_num}")


@torch.no_grad()
def estimate_loss() -> dict[str, float]:
    """The mean loss over the same few batches of each part."""
    model.eval()
    generator = torch.Generator().manual_seed(seed)
    losses = {
        part: torch.stack([model(*get_batch(part, generator)) for _ in range(eval_iters)])
        for part in ("train", "val")
    }
    model.train()
    return {part: loss.mean().item() for part, loss in losses.items()}


# -- training loop ------------------------------------------------------------------------------
while iter_num <= max_iters:
    if iter_num % eval_interval == 0:
        estimate = estimate_loss()
        print(
            f"step {iter_num}: train loss {estimate['train']:.4f}, val loss {estimate['val']:.4f}"
        )
        if iter_num > 0:
            checkpoint = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "iter_num": iter_num,
                "rng_state": torch.get_rng_state(),
            }
            torch.save(checkpoint, ckpt_path)
            print(f"saving checkpoint to {ckpt_path}")
    began = time.time()
    loss = model(*get_batch("train"))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    time.sleep(pause)
    print(f"iter {iter_num}: loss {loss.item():.4f}, time {1000 * (time.time() - began):.0f}ms")
    iter_num += 1

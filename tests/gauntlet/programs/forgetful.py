"""Knows nothing of checkpoints: it begins again, and must only finish."""

import json
from pathlib import Path

from ledger import STEPS, final, made, note

import tiny  # isort: skip
import torch

model = tiny.model()
optimizer = tiny.optimizer(model)
note("begun")
losses = []
for step in range(1, STEPS + 1):
    losses.append(tiny.train(model, optimizer, step))
    made(step)
Path("losses.json").write_text(json.dumps(losses))
torch.save(model.state_dict(), "model.pt")
final(model.state_dict())

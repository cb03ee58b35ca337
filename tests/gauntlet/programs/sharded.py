"""Shards and their index in one directory, rewritten in place; they are of use only together."""

import hashlib
import json
from pathlib import Path

from ledger import EVERY, STEPS, final, made, pause, resumed, saved

import tiny  # isort: skip
import torch

root = Path("model")
root.mkdir(exist_ok=True)
index = root / "model.index.json"
model = tiny.model()
optimizer = tiny.optimizer(model)
step = 0


def checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if index.exists():
    entry = json.loads(index.read_text())
    for name, expected in entry["shards"].items():
        assert checksum(root / name) == expected, f"{name} does not belong to the index"
    for name, weights in model.named_parameters():
        weights.data.copy_(torch.load(root / f"{name}.shard"))
    optimizer.load_state_dict(torch.load(root / "optimizer.shard"))
    step = entry["step"]
resumed(step)
while step < STEPS:
    step += 1
    tiny.train(model, optimizer, step)
    if step % EVERY == 0:
        names = []
        for name, weights in model.named_parameters():
            names.append(f"{name}.shard")
            torch.save(weights.data.clone(), root / names[-1])
            if name == "0.bias":
                pause()
        names.append("optimizer.shard")
        torch.save(optimizer.state_dict(), root / names[-1])
        shards = {name: checksum(root / name) for name in names}
        index.write_text(json.dumps({"step": step, "shards": shards}))
        saved(step)
    made(step)
final(model.state_dict())

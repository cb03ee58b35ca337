"""A directory for each checkpoint, of which two are kept, and a marker while one is written."""

import json
import shutil
from pathlib import Path

from ledger import EVERY, STEPS, final, made, pause, resumed, saved

import tiny  # isort: skip
import torch

MARKER = "checkpoint-is-incomplete.txt"
root = Path("results")
root.mkdir(exist_ok=True)
model = tiny.model()
optimizer = tiny.optimizer(model)
step = 0


def checkpoints() -> list[Path]:
    return sorted(root.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))


for found in checkpoints():
    if (found / MARKER).exists():
        print("deleted, since it is incomplete:", found)
        shutil.rmtree(found)
if found := checkpoints():
    last = found[-1]
    model.load_state_dict(torch.load(last / "model.bin"))
    optimizer.load_state_dict(torch.load(last / "optimizer.bin"))
    step = json.loads((last / "trainer_state.json").read_text())["step"]
resumed(step)
while step < STEPS:
    step += 1
    tiny.train(model, optimizer, step)
    if step % EVERY == 0:
        folder = root / f"checkpoint-{step}"
        folder.mkdir(exist_ok=True)
        (folder / MARKER).touch()
        torch.save(model.state_dict(), folder / "model.bin")
        pause()
        torch.save(optimizer.state_dict(), folder / "optimizer.bin")
        (folder / "trainer_state.json").write_text(json.dumps({"step": step}))
        (folder / MARKER).unlink()
        for old in checkpoints()[:-2]:
            shutil.rmtree(old)
        saved(step)
    made(step)
final(model.state_dict())

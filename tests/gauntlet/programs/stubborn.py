"""Ignores SIGTERM and SIGINT, and keeps numbered checkpoints with a link to the last."""

import os
import signal
from pathlib import Path

from ledger import EVERY, STEPS, final, made, resumed, saved

import tiny  # isort: skip
import torch

for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
root = Path(os.environ["SPECTRAIN_RUN_DIR"], "models")
root.mkdir(exist_ok=True)
last = root / "last.ckpt"
model = tiny.model()
optimizer = tiny.optimizer(model)
step = 0
if last.exists():
    state = torch.load(last)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    step = state["step"]
resumed(step)
while step < STEPS:
    step += 1
    tiny.train(model, optimizer, step)
    if step % EVERY == 0:
        path = root / f"epoch-{step}.ckpt"
        torch.save(
            {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, path
        )
        last.unlink(missing_ok=True)
        last.symlink_to(path.name)
        for old in sorted(root.glob("epoch-*"), key=lambda found: found.stat().st_mtime)[:-3]:
            old.unlink()
        saved(step)
    made(step)
final(model.state_dict())

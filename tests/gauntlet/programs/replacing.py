"""Saves on SIGTERM, and by renaming: another name first, `os.replace`, the one before it beside."""

import json
import os
import signal

from ledger import EVERY, STEPS, final, made, note, resumed, saved

import tiny  # isort: skip
import torch

model = tiny.model()
optimizer = tiny.optimizer(model)
step = 0
stopping = []
signal.signal(signal.SIGTERM, lambda *_: stopping.append(True))
os.makedirs("weights", exist_ok=True)


def save() -> None:
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
    torch.save(state, "weights/last.pt.tmp")
    if os.path.exists("weights/last.pt"):
        os.replace("weights/last.pt", "weights/previous.pt")
    os.replace("weights/last.pt.tmp", "weights/last.pt")
    saved(step)


for name in ("weights/last.pt", "weights/previous.pt"):
    if os.path.exists(name):
        state = torch.load(name)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
        break
resumed(step)
history = open("history.jsonl", "a")
while step < STEPS:
    step += 1
    loss = tiny.train(model, optimizer, step)
    print(json.dumps({"step": step, "loss": loss}), file=history, flush=True)
    if step % EVERY == 0 or stopping:
        save()
    if stopping:
        note("stopped", step)
        raise SystemExit(0)
    made(step)
history.close()
final(model.state_dict())

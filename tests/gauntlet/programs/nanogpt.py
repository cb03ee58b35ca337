"""After nanoGPT's train.py: one `ckpt.pt` in `out/`, rewritten in place."""

import os
import sys

from ledger import EVERY, STEPS, final, made, resumed, saved

import tiny  # isort: skip
import torch

out_dir = "out"
init_from = "scratch"  # or 'resume'
for argument in sys.argv[1:]:  # as its configurator.py does
    key, _, value = argument.removeprefix("--").partition("=")
    globals()[key] = value

os.makedirs(out_dir, exist_ok=True)
model = tiny.model()
optimizer = tiny.optimizer(model)
iter_num = 0
if init_from == "resume":
    ckpt_path = os.path.join(out_dir, "ckpt.pt")
    checkpoint = torch.load(ckpt_path, map_location="cpu")
    model.load_state_dict(checkpoint["model"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    iter_num = checkpoint["iter_num"]
resumed(iter_num)

while iter_num < STEPS:
    iter_num += 1
    loss = tiny.train(model, optimizer, iter_num)
    if iter_num % EVERY == 0:
        checkpoint = {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "iter_num": iter_num,
        }
        torch.save(checkpoint, os.path.join(out_dir, "ckpt.pt"))
        saved(iter_num)
        print(f"iter {iter_num}: loss {loss:.4f}", flush=True)
    made(iter_num)
final(model.state_dict())

"""`torch.distributed.checkpoint`: a directory of files for each checkpoint, and a pointer file."""

import shutil
import warnings
from pathlib import Path

from ledger import EVERY, STEPS, final, made, resumed, saved

import tiny  # isort: skip
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

warnings.filterwarnings("ignore")
root = Path("dcp")
root.mkdir(exist_ok=True)
latest = root / "latest"
model = tiny.model()
optimizer = tiny.optimizer(model)
step = 0
if latest.exists():
    weights, moments = get_state_dict(model, optimizer)
    dcp.load({"model": weights, "optimizer": moments}, checkpoint_id=root / latest.read_text())
    set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=moments)
    step = int(latest.read_text().split("-")[1])
resumed(step)
while step < STEPS:
    step += 1
    tiny.train(model, optimizer, step)
    if step % EVERY == 0:
        weights, moments = get_state_dict(model, optimizer)
        place = root / f"step-{step}"
        dcp.save({"model": weights, "optimizer": moments}, checkpoint_id=place)
        latest.write_text(place.name)
        for old in sorted(root.glob("step-*"), key=lambda found: int(found.name[5:]))[:-2]:
            shutil.rmtree(old)
        saved(step)
    made(step)
final(model.state_dict())

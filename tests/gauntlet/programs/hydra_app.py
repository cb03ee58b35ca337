"""Hydra: its run directory is dated by default, and another one in each attempt; here it is not."""

import os

from ledger import final, made, resumed, saved

import tiny  # isort: skip
import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig


@hydra.main(version_base=None, config_path="conf", config_name="config")
def main(cfg: DictConfig) -> None:
    model = tiny.model()
    optimizer = tiny.optimizer(model)
    step = 0
    path = os.path.join(HydraConfig.get().runtime.output_dir, "checkpoint.pt")
    if os.path.exists(path):
        state = torch.load(path)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
    resumed(step)
    while step < cfg.steps:
        step += 1
        tiny.train(model, optimizer, step)
        if step % cfg.every == 0:
            torch.save(
                {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step},
                path,
            )
            saved(step)
        made(step)
    final(model.state_dict())


main()

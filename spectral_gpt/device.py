"""Where a run computes, and how exactly.

`SPECTRAIN_DEVICE` is `auto` (CUDA where there is one), `cpu` or `cuda`. On the CPU everything is
float32, and one machine gives the same bits every time. On CUDA the forward pass runs under bf16
autocast, with float32 weights and optimiser state: half the memory and several times the speed.
`SPECTRAIN_DETERMINISTIC=1` makes a CUDA run repeatable bit for bit as well, by strict
deterministic kernels. It leaves bf16 on, because the rounding is as repeatable as any other and
a repeatable run should be the one that is usually made.
"""

from __future__ import annotations

import os

import torch

from spectral_gpt.errors import WorkloadError


def prepare_device() -> torch.device:
    """The device to train on, its kernels chosen. Raises WorkloadError when it is not there."""
    wish = os.environ.get("SPECTRAIN_DEVICE") or "auto"
    if wish not in {"auto", "cpu", "cuda"}:
        raise WorkloadError(f"SPECTRAIN_DEVICE: {wish!r} is none of auto, cpu, cuda")
    if os.environ.get("SPECTRAIN_DETERMINISTIC") == "1":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
    if wish == "cpu" or (wish == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise WorkloadError("SPECTRAIN_DEVICE is cuda, but torch finds no CUDA device here")
    torch.set_float32_matmul_precision("high")
    return torch.device("cuda")


def autocast(device: torch.device) -> torch.autocast:
    """bf16 for the forward pass on CUDA; no change on the CPU."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")

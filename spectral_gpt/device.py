"""The device of a run and its numerical precision.

`SPECTRAIN_DEVICE` is `auto` (CUDA if available), `cpu` or `cuda`. On the CPU everything is
float32, and one machine gives the same bits every time. On CUDA the forward pass runs under bf16
autocast, with float32 weights and optimiser state: half the memory and several times the speed.
`SPECTRAIN_DETERMINISTIC=1` makes a CUDA run repeatable bit for bit too, with strictly deterministic
kernels. bf16 stays on: its rounding is repeatable, and a repeatable run should compute what a usual
run computes.
"""

from __future__ import annotations

import os

import torch

from spectral_gpt.errors import WorkloadError


def prepare_device() -> torch.device:
    """Choose the device and its kernels. Raises WorkloadError if the device is not available."""
    wish = os.environ.get("SPECTRAIN_DEVICE") or "auto"
    if wish not in {"auto", "cpu", "cuda"}:
        raise WorkloadError(f"SPECTRAIN_DEVICE must be auto, cpu or cuda, not {wish!r}")
    if os.environ.get("SPECTRAIN_DETERMINISTIC") == "1":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
    if wish == "cpu" or (wish == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise WorkloadError("SPECTRAIN_DEVICE is cuda, but torch finds no CUDA device")
    torch.set_float32_matmul_precision("high")
    return torch.device("cuda")


def autocast(device: torch.device) -> torch.autocast:
    """Return the context of the forward pass: bf16 on CUDA, no change on the CPU."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")

"""Spectral GPT, the built-in workload: a wave-based language model beside a standard one.

Names are imported when they are first used: importing the package does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spectral_gpt.config import TrainConfig as TrainConfig
    from spectral_gpt.errors import WorkloadError as WorkloadError
    from spectral_gpt.losses import QFE as QFE
    from spectral_gpt.model import GPT as GPT
    from spectral_gpt.optimizer import RGD as RGD

_HOME = {
    "GPT": "model",
    "QFE": "losses",
    "RGD": "optimizer",
    "TrainConfig": "config",
    "WorkloadError": "errors",
}

__all__ = [*sorted(_HOME)]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__

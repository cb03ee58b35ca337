"""The monitoring library: checkpoints, metrics, plots, configuration and results of a run.

Each name is imported on first use. A process that only reads metrics or commit records therefore
needs neither torch nor matplotlib.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from monitoring import preemption as preemption
    from monitoring.checkpoints.commit import CheckpointCorrupt as CheckpointCorrupt
    from monitoring.checkpoints.manager import CheckpointManager as CheckpointManager
    from monitoring.checkpoints.random_state import restore_rng_state as restore_rng_state
    from monitoring.continuity import verify_loss_continuity as verify_loss_continuity
    from monitoring.disk import check_disk_space as check_disk_space
    from monitoring.ids import create_experiment_directory as create_experiment_directory
    from monitoring.ids import generate_experiment_id as generate_experiment_id
    from monitoring.ids import get_git_hash as get_git_hash
    from monitoring.metrics.logger import MetricsLogger as MetricsLogger
    from monitoring.plots.manager import VisualizationManager as VisualizationManager
    from monitoring.runs.config import ConfigTracker as ConfigTracker
    from monitoring.runs.results import ResultsAggregator as ResultsAggregator
    from monitoring.runs.results import ResultsParser as ResultsParser
    from monitoring.step_counter import heartbeat as heartbeat

_HOME = {
    "CheckpointCorrupt": "monitoring.checkpoints.commit",
    "CheckpointManager": "monitoring.checkpoints.manager",
    "ConfigTracker": "monitoring.runs.config",
    "MetricsLogger": "monitoring.metrics.logger",
    "ResultsAggregator": "monitoring.runs.results",
    "ResultsParser": "monitoring.runs.results",
    "VisualizationManager": "monitoring.plots.manager",
    "check_disk_space": "monitoring.disk",
    "create_experiment_directory": "monitoring.ids",
    "generate_experiment_id": "monitoring.ids",
    "get_git_hash": "monitoring.ids",
    "heartbeat": "monitoring.step_counter",
    "restore_rng_state": "monitoring.checkpoints.random_state",
    "verify_loss_continuity": "monitoring.continuity",
}
_MODULES = ("paths", "preemption", "step_counter")

__all__ = [*sorted(_HOME), *_MODULES]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"monitoring.{name}")
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__

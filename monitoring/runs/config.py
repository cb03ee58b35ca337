"""Configuration and results of a run, as JSON files that can be compared."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from monitoring.files import write_atomically
from monitoring.ids import UNKNOWN, get_git_hash, git, program_directory
from monitoring.json_values import jsonable, restored
from monitoring.paths import RunPaths
from monitoring.runs.environment import describe_hardware, describe_software
from monitoring.runs.redaction import redact

ORIGIN_VARIABLE = "SPECTRAIN_FORKED_FROM"  # JSON, set by the service


class ConfigTracker:
    """Writes and reads `config.json` and `results.json` of a run.

    Args:
        experiment_dir: root directory of the run; its name is the experiment's id.
    """

    def __init__(self, experiment_dir: str | Path) -> None:
        self.experiment_dir = Path(experiment_dir)
        self.paths = RunPaths(self.experiment_dir)
        self.config_file = self.paths.config
        self.results_file = self.paths.results

    def save_config(
        self,
        config: Mapping[str, Any] | Any,
        model: Any = None,
        dataset_info: Mapping[str, Any] | None = None,
    ) -> Path:
        """Write `config.json`; return its path.

        The file has `experiment_id`, `timestamp` (UTC, ISO 8601), `config`, `model` (`type`,
        `num_parameters`, `num_trainable_parameters`, `architecture`), `dataset`, and what is needed
        to repeat the run: `git_hash`, `git_commit` and `git_dirty`, `hardware` (`platform`,
        `python_version`, `cpu_count`, `gpu_available`, `gpu_count`, `gpu_model`, `cuda_version`
        and more), `software` with the installed packages, `seeds` and `command`. The run of a job
        that was forked has `forked_from`: the `job` and the `step` that it began from.

        Secrets are replaced by "***": values of environment variables whose names look like
        secrets, values of entries and options such as `api_key`, and passwords in URLs.

        Raises OSError.
        """
        here = program_directory()
        status = git("status", "--porcelain", directory=here)
        document = {
            **self._identity(),
            "git_commit": git("rev-parse", "HEAD", directory=here) or UNKNOWN,
            "git_dirty": None if status is None else bool(status),
            "config": config,
            "model": _describe_model(model),
            "dataset": dataset_info,
            "hardware": self._get_hardware_info(),
            "software": describe_software(),
            "seeds": _seeds(),
            "command": sys.argv,
            **_origin(),
        }
        return self._write(self.config_file, document)

    def load_config(self) -> dict[str, Any] | None:
        """Read `config.json`; None if there is none. Raises ValueError if it is broken.

        `hardware` describes the GPU in any case, with None for what its writer left out.
        """
        config = _read(self.config_file)
        if config is not None and isinstance(hardware := config.get("hardware"), dict):
            for name in ("gpu_model", "gpu_count", "cuda_version"):
                hardware.setdefault(name, None)
        return config

    def save_results(
        self,
        final_metrics: Mapping[str, Any],
        best_checkpoint: str | Path | None = None,
        generation_samples: Sequence[str] | None = None,
    ) -> Path:
        """Write `results.json`; return its path. Raises OSError.

        The file has `experiment_id`, `timestamp`, `git_hash`, `final_metrics`, `best_checkpoint`
        and `generation_samples` (a list).
        """
        document = {
            **self._identity(),
            "final_metrics": final_metrics,
            "best_checkpoint": best_checkpoint,
            "generation_samples": list(generation_samples or []),
        }
        return self._write(self.results_file, document)

    def load_results(self) -> dict[str, Any] | None:
        """Read `results.json`; None if there is none. Raises ValueError if it is broken."""
        return _read(self.results_file)

    def _get_hardware_info(self) -> dict[str, Any]:
        """The machine's description, under the name that the first implementation gave it."""
        return describe_hardware()

    def _identity(self) -> dict[str, Any]:
        return {
            "experiment_id": self.paths.root.resolve().name,
            "timestamp": datetime.now(UTC).isoformat(),
            "git_hash": get_git_hash(),
        }

    @staticmethod
    def _write(path: Path, document: dict[str, Any]) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(redact(jsonable(document), os.environ), indent=2)
        write_atomically(path, text.encode() + b"\n")
        return path


def _read(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    document = restored(json.loads(path.read_bytes()))
    if not isinstance(document, dict):
        raise ValueError(f"{path} does not contain a JSON object")
    return document


def _describe_model(model: Any) -> dict[str, Any] | None:
    if model is None:
        return None
    from monitoring.checkpoints.wrappers import unwrap  # noqa: PLC0415  torch, which a model needs

    inner = unwrap(model)
    parameters = list(inner.parameters())
    count = sum(parameter.numel() for parameter in parameters)
    trainable = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    return {
        # As the specification's first implementation names them.
        "type": type(inner).__name__,
        "num_parameters": count,
        "num_trainable_parameters": trainable,
        "class": type(model).__qualname__,
        "parameters": count,
        "trainable_parameters": trainable,
        "architecture": str(model),
    }


def _origin() -> dict[str, Any]:
    """The run that this one began from, as the service says."""
    origin = os.environ.get(ORIGIN_VARIABLE)
    return {"forked_from": json.loads(origin)} if origin else {}


def _seeds() -> dict[str, Any]:
    import numpy as np  # noqa: PLC0415  after the model's module, which is slower to import

    seeds: dict[str, Any] = {"python_hash": os.environ.get("PYTHONHASHSEED")}
    # The state of a generator that was seeded and has drawn nothing begins with its seed.
    _kind, key, *_ = np.random.get_state(legacy=True)
    _kind, seeded, *_ = np.random.RandomState(int(key[0])).get_state(legacy=True)
    seeds["numpy"] = int(key[0]) if np.array_equal(seeded, key) else None
    if (torch := sys.modules.get("torch")) is not None:
        seeds["torch"] = torch.initial_seed()
    return seeds

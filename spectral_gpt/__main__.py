"""`python -m spectral_gpt [--config FILE.json] [--run-dir DIR]`: start or resume a training run."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from monitoring import create_experiment_directory, generate_experiment_id
from spectral_gpt.config import TrainConfig
from spectral_gpt.errors import ConfigError, WorkloadError
from workload.json_text import repeated_keys

REFUSED, INTERRUPTED = 2, 128 + 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return 0 if finished, 143 if stopped by SIGTERM, 2 if refused."""
    parser = argparse.ArgumentParser(prog="python -m spectral_gpt", description=__doc__)
    parser.add_argument("--config", type=Path, help="JSON file with the `train` section of a job")
    parser.add_argument(
        "--run-dir",
        type=Path,
        default=os.environ.get("SPECTRAIN_RUN_DIR"),
        help="directory of the run, which is resumed if it has a checkpoint; default: "
        "$SPECTRAIN_RUN_DIR, else a new directory below experiments/",
    )
    arguments = parser.parse_args(argv)
    try:
        config = read_config(arguments.config) if arguments.config else TrainConfig()
        run_dir = arguments.run_dir or new_run_dir(config)

        from spectral_gpt.train import train  # noqa: PLC0415  torch: not to refuse a config

        return train(config, run_dir)
    except WorkloadError as error:
        print(f"spectral_gpt: {error}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        return INTERRUPTED


def read_config(path: Path) -> TrainConfig:
    """The config in a JSON file. Raises ConfigError."""
    try:
        text = path.read_bytes()
        data, repeated = json.loads(text), repeated_keys(text)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is no JSON: {error}") from error
    if repeated:
        raise ConfigError("\n  ".join(map(str, repeated)))
    return TrainConfig.from_dict(data)


def new_run_dir(config: TrainConfig) -> Path:
    """Create a run directory, named after model, optimiser and loss."""
    name = f"{config.model.type}_{config.optimizer.name}_{config.loss.name}"
    return Path(create_experiment_directory("experiments", generate_experiment_id(name))["root"])


if __name__ == "__main__":
    sys.exit(main())

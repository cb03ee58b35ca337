import json
from typing import Any

import pytest

from spectral_gpt.config import TrainConfig
from spectral_gpt.errors import ConfigError


def test_an_empty_object_gives_the_defaults() -> None:
    assert TrainConfig.from_dict({}) == TrainConfig()


def test_a_config_survives_json() -> None:
    config = TrainConfig.from_dict(
        {
            "model": {"type": "standard", "dropout": 0.1},
            "optimizer": {"betas": [0.8, 0.9]},
            "dataset": {"name": "path", "location": "a.txt"},
            "checkpoint": {"every_steps": None, "every_seconds": 30},
        }
    )
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"stepz": 3}, r"stepz: Unknown field; did you mean steps\? \(given: 3\)"),
        ({"zzz": 3}, "zzz: Unknown field; known fields are model, "),
        ({"model": {"heads": 3}}, r"model.heads: Unknown field; did you mean num_heads\?"),
        ({"model": 3}, r"model: Input should be .* \(given: 3\)"),
        ({"model": {"type": "particle"}}, "model.type: Input should be 'wave' or 'standard'"),
        ({"model": {"d_model": 100}}, r"model: d_model \(100\) must be a multiple of num_heads"),
        ({"model": {"tied": 1}}, r"model.tied: Input should be a valid boolean \(given: 1\)"),
        ({"steps": "10"}, r"steps: Input should be a valid integer \(given: \"10\"\)"),
        ({"steps": True}, r"steps: Input should be a valid integer \(given: true\)"),
        ({"steps": 1.5}, r"steps: Input should be a valid integer \(given: 1.5\)"),
        ({"steps": 0}, r"steps: Input should be greater than or equal to 1 \(given: 0\)"),
        ({"seed": -1}, "seed: Input should be greater than or equal to 0"),
        ({"optimizer": {"lr": 0}}, "optimizer.lr: Input should be greater than 0"),
        ({"optimizer": {"lr": float("nan")}}, "optimizer.lr: Input should be a finite number"),
        ({"optimizer": {"min_lr_ratio": 2}}, "optimizer.min_lr_ratio: Input should be less than"),
        ({"optimizer": {"betas": [0.9]}}, r"optimizer.betas\[1\]: Field required"),
        ({"optimizer": {"betas": [0.9, 1.0]}}, r"optimizer.betas\[1\]: Input should be less than"),
        ({"dataset": {"name": "path"}}, "dataset: `location` is the path"),
        ({"dataset": {"location": "x"}}, "dataset: `location` is the path"),
        ({"checkpoint": {"every_steps": 0}}, "checkpoint.every_steps: Input should be greater"),
        ({"checkpoint": {"every_seconds": 0}}, "checkpoint.every_seconds: Input should be greater"),
    ],
)
def test_a_bad_setting_is_refused_by_its_path(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        TrainConfig.from_dict(data)


def test_an_integer_stands_for_a_number() -> None:
    lr = TrainConfig.from_dict({"optimizer": {"lr": 1}}).optimizer.lr
    assert lr == 1.0
    assert type(lr) is float


def test_every_bad_setting_is_named_at_once() -> None:
    with pytest.raises(ConfigError, match=r"(?s)^steps: .*\n  batch_size: "):
        TrainConfig.from_dict({"steps": 0, "batch_size": 0})

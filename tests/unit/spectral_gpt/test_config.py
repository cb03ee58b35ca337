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
        ({"stepz": 3}, "stepz: unknown key; known are model, "),
        ({"model": {"heads": 3}}, "model.heads: unknown key"),
        ({"model": 3}, "model: expected an object, got 3"),
        ({"model": {"type": "particle"}}, "model.type: 'particle' is none of wave, standard"),
        ({"model": {"d_model": 100}}, "model.d_model: 100 is not a multiple of num_heads"),
        ({"model": {"tied": 1}}, "model.tied: expected true or false, got 1"),
        ({"steps": "10"}, "steps: expected an integer, got '10'"),
        ({"steps": True}, "steps: expected an integer, got True"),
        ({"steps": 1.5}, "steps: expected an integer, got 1.5"),
        ({"steps": 0}, "steps: 0 must be at least 1"),
        ({"seed": -1}, "seed: -1 must be at least 0"),
        ({"optimizer": {"lr": 0}}, "optimizer.lr: 0.0 must be above 0"),
        ({"optimizer": {"lr": float("nan")}}, "optimizer.lr: nan must be above 0"),
        ({"optimizer": {"min_lr_ratio": 2}}, "optimizer.min_lr_ratio: 2.0 must be at least 0 and"),
        ({"optimizer": {"betas": [0.9]}}, "optimizer.betas: expected a list of 2 numbers"),
        ({"optimizer": {"betas": [0.9, 1.0]}}, r"optimizer.betas: \[0.9, 1.0\] must lie in"),
        ({"dataset": {"name": "path"}}, "dataset.location: given with"),
        ({"dataset": {"location": "x"}}, "dataset.location: given with"),
        ({"checkpoint": {"every_steps": 0}}, "checkpoint.every_steps: 0 must be at least 1"),
        ({"checkpoint": {"every_seconds": 0}}, "checkpoint.every_seconds: 0.0 must be above 0"),
    ],
)
def test_a_bad_setting_is_refused_by_its_path(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        TrainConfig.from_dict(data)


def test_an_integer_stands_for_a_number() -> None:
    lr = TrainConfig.from_dict({"optimizer": {"lr": 1}}).optimizer.lr
    assert lr == 1.0
    assert type(lr) is float

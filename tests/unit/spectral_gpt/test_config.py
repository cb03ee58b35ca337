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
        ({"stepz": 3}, "stepz: given 3, allowed: unknown field; did you mean steps?"),
        ({"zzz": 3}, "zzz: given 3, allowed: unknown field; known are model, optimizer, "),
        (
            {"model": {"heads": 3}},
            "model.heads: given 3, allowed: unknown field; did you mean num",
        ),
        ({"model": 3}, "model: given 3, allowed: a valid dictionary"),
        (
            {"model": {"type": "particle"}},
            "model.type: given \"particle\", allowed: 'wave' or '",
        ),
        ({"model": {"d_model": 100}}, 'model: given {"d_model": 100}, allowed: d_model (100) must'),
        ({"model": {"tied": 1}}, "model.tied: given 1, allowed: a valid boolean"),
        ({"steps": "10"}, 'steps: given "10", allowed: a valid integer'),
        ({"steps": True}, "steps: given true, allowed: a valid integer"),
        ({"steps": 1.5}, "steps: given 1.5, allowed: a valid integer"),
        ({"steps": 0}, "steps: given 0, allowed: greater than or equal to 1"),
        ({"seed": -1}, "seed: given -1, allowed: greater than or equal to 0"),
        ({"optimizer": {"lr": 0}}, "optimizer.lr: given 0, allowed: greater than 0"),
        ({"optimizer": {"lr": float("nan")}}, "optimizer.lr: given NaN, allowed: a finite number"),
        ({"optimizer": {"min_lr_ratio": 2}}, "optimizer.min_lr_ratio: given 2, allowed: less"),
        ({"optimizer": {"betas": [0.9]}}, "optimizer.betas[1]: given nothing, allowed: Field req"),
        (
            {"optimizer": {"betas": [0.9, 1.0]}},
            "optimizer.betas[1]: given 1.0, allowed: less than",
        ),
        ({"dataset": {"name": "path"}}, 'dataset: given {"name": "path"}, allowed: `location` is'),
        ({"dataset": {"location": "x"}}, 'dataset: given {"location": "x"}, allowed: `location`'),
        ({"checkpoint": {"every_steps": 0}}, "checkpoint.every_steps: given 0, allowed: great"),
        (
            {"checkpoint": {"every_seconds": 0}},
            "checkpoint.every_seconds: given 0, allowed: great",
        ),
    ],
)
def test_a_bad_setting_is_refused_by_its_path(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        TrainConfig.from_dict(data)
    assert str(caught.value).startswith(message)


def test_an_integer_stands_for_a_number() -> None:
    lr = TrainConfig.from_dict({"optimizer": {"lr": 1}}).optimizer.lr
    assert lr == 1.0
    assert type(lr) is float


def test_every_bad_setting_is_named_at_once() -> None:
    with pytest.raises(ConfigError, match=r"(?s)^steps: .*\n  batch_size: "):
        TrainConfig.from_dict({"steps": 0, "batch_size": 0})

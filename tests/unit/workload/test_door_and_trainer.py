"""The service and the trainer agree on the `train` section: one accepts what the other does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from jobs.model.spec import JobSpec
from spectral_gpt.__main__ import read_config
from spectral_gpt.config import TrainConfig
from spectral_gpt.errors import ConfigError
from spectral_gpt.losses import build_loss
from spectral_gpt.model import GPT
from spectral_gpt.optimizer import build_optimizer, learning_rate

VOCABULARY = 16
# Sizes that a test can build; every other number comes from the whole of its range and beyond.
TINY = {
    "d_model": st.integers(-1, 24),
    "num_layers": st.integers(-1, 2),
    "num_heads": st.integers(-1, 8),
    "num_waves": st.integers(-1, 4),
    "num_harmonics": st.integers(-1, 3),
    "block_size": st.integers(-1, 12),
    "batch_size": st.integers(-1, 2),
}
JUNK = st.sampled_from([None, True, "x", "1", [], [1], {}, {"a": 1}, -1, 0, 0.5, 1e308, 2**70])


def numbers(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Numbers in a range, at its ends and just outside of it."""
    ends = [schema[end] for end in schema if end.lower().endswith(("minimum", "maximum"))]
    near = [*ends, *(end + d for end in ends for d in (-1, 1, -1e-9, 1e-9))]
    anything = [st.sampled_from(near)] if near else []
    if schema["type"] == "integer":
        near = [int(n) for n in near]
        return st.one_of(st.sampled_from(near or [0]), st.integers(0, 2**63))
    return st.one_of(*anything, st.floats(0, 1), st.floats(allow_nan=False, allow_infinity=False))


def values(schema: dict[str, Any], name: str, root: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values for a field of the schema; mostly of the right kind."""
    if "$ref" in schema:
        return documents(root["$defs"][schema["$ref"].rpartition("/")[2]], root)
    if "anyOf" in schema:
        return st.one_of(*(values(part, name, root) for part in schema["anyOf"]))
    if name in TINY:
        return TINY[name]
    if "enum" in schema:
        return st.sampled_from([*schema["enum"], "other"])
    if "prefixItems" in schema:
        pair = [values(part, name, root) for part in schema["prefixItems"]]
        return st.one_of(st.tuples(*pair).map(list), st.lists(pair[0], max_size=3))
    kinds: dict[str, st.SearchStrategy[Any]] = {
        "null": st.none(),
        "boolean": st.booleans(),
        "string": st.text(st.characters(codec="utf-8"), max_size=5),
    }
    return kinds[schema["type"]] if schema["type"] in kinds else numbers(schema)


def documents(schema: dict[str, Any], root: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Objects with some of the fields, at times one of them of the wrong kind or unknown."""
    fields = {name: values(field, name, root) for name, field in schema["properties"].items()}
    usual = st.fixed_dictionaries({}, optional=fields)
    odd = st.sampled_from([*fields, "unknown"])
    return st.one_of(usual, usual, usual, st.builds(lambda d, k, v: {**d, k: v}, usual, odd, JUNK))


SCHEMA = TrainConfig.model_json_schema()


def accepted(document: dict[str, Any]) -> TrainConfig | None:
    try:
        return TrainConfig.from_dict(document)
    except ConfigError:
        return None


def submitted(document: dict[str, Any]) -> JobSpec | None:
    train = {k: v for k, v in document.items() if k != "checkpoint"}
    spec = {"name": "a", "train": train}
    spec |= {"checkpoint": document["checkpoint"]} if "checkpoint" in document else {}
    try:
        return JobSpec.model_validate_json(json.dumps(spec))
    except ValidationError:
        return None


@settings(max_examples=150, deadline=None)
@given(documents(SCHEMA, SCHEMA))
def test_the_trainer_refuses_exactly_what_the_service_refuses(document: dict[str, Any]) -> None:
    assert (accepted(document) is None) == (submitted(document) is None)


# Most documents are refused: that is what the test before this one is about.
@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
@given(documents(SCHEMA, SCHEMA).filter(lambda document: submitted(document) is not None))
def test_whatever_is_submitted_can_be_built(document: dict[str, Any]) -> None:
    sizes = {"d_model": 8, "num_heads": 1, "num_layers": 1, "block_size": 4, "num_waves": 2}
    document = {**document, "model": {**sizes, **document.get("model", {})}}
    spec = submitted(document)
    if spec is None or spec.train is None:  # sizes that only go with the defaults
        return
    handed = spec.train.model_dump(mode="json")
    handed["checkpoint"] = spec.checkpoint.model_dump(mode="json")
    config = TrainConfig.from_dict(json.loads(json.dumps(handed)))
    torch.manual_seed(config.seed)
    model = GPT(config.model, VOCABULARY)
    optimizer = build_optimizer(model, config.optimizer)
    criterion = build_loss(config.loss, VOCABULARY, config.seed)
    assert learning_rate(0, config.steps, config.optimizer) >= 0
    tokens = torch.zeros(1, config.model.block_size, dtype=torch.long)
    criterion(model(tokens), tokens).total.backward()
    optimizer.step()


@pytest.mark.parametrize(
    "train",
    [
        {"optimizer": {"betas": [0.9, 1.0]}},
        {"optimizer": {"betas": [-0.1, 0.9]}},
        {"dataset": {"name": "path", "location": ""}},
    ],
)
def test_what_only_the_trainer_refused_is_refused_at_the_door(train: dict[str, Any]) -> None:
    assert submitted(train) is None


def test_a_dropout_near_one_is_trained_with() -> None:
    assert accepted({"model": {"dropout": 0.995}}) is not None


def test_the_config_file_of_a_person_is_read_like_that_of_a_job(tmp_path: Path) -> None:
    file = tmp_path / "train.json"
    file.write_text(json.dumps({"steps": 3, "checkpoint": {"every_steps": None}}))
    assert read_config(file) == TrainConfig.from_dict(json.loads(file.read_text()))
    file.write_text('{"optimizer": {"betas": [0.9, 1.0]}}')
    with pytest.raises(ConfigError, match=r"^optimizer.betas\[1\]: given 1.0, allowed: less"):
        read_config(file)
    file.write_text('{"model": {"tied": true, "tied": false}}')
    with pytest.raises(ConfigError, match=r"^model.tied: given 2 values, allowed: one value$"):
        read_config(file)
    file.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="is no JSON"):
        read_config(file)

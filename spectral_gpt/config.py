"""The settings of a run as frozen values: the `train` section of a job, with its defaults."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import UnionType
from typing import Any, Literal, Self, TypeVar, get_args, get_origin, get_type_hints

from spectral_gpt.errors import ConfigError

T = TypeVar("T")
_WORDS = {int: "an integer", float: "a number", str: "a string", bool: "true or false"}


def _bounded(
    default: float | None, low: float = 0, high: float = math.inf, *, above: bool = False
) -> Any:
    """A number's default with its range [low, high], or (low, high] with `above`."""
    return field(default=default, metadata={"low": low, "high": high, "above": above})


@dataclass(frozen=True)
class ModelConfig:
    """The language model; `num_waves` and `num_harmonics` concern the wave variant only."""

    type: Literal["wave", "standard"] = "wave"
    d_model: int = _bounded(256, 1)
    num_layers: int = _bounded(4, 1)
    num_heads: int = _bounded(8, 1)
    num_waves: int = _bounded(16, 1)
    num_harmonics: int = _bounded(4, 1)
    block_size: int = _bounded(256, 2)
    dropout: float = _bounded(0.0, 0, 0.99)
    tied: bool = True

    def __post_init__(self) -> None:
        if self.d_model % self.num_heads:
            raise ConfigError(
                f"model.d_model: {self.d_model} is not a multiple of num_heads ({self.num_heads})"
            )


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimiser and its schedule: linear warm-up, then a cosine down to min_lr_ratio · lr."""

    name: Literal["rgd", "adamw"] = "rgd"
    lr: float = _bounded(1e-3, 0, above=True)
    weight_decay: float = _bounded(0.1)
    betas: tuple[float, float] = (0.9, 0.95)
    grad_clip: float = _bounded(1.0)  # 0 switches clipping off
    warmup_steps: int = _bounded(100)
    min_lr_ratio: float = _bounded(0.1, 0, 1)
    strength: float = _bounded(0.3, 0, 1)
    resonance_warmup: int = _bounded(500)

    def __post_init__(self) -> None:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"optimizer.betas: {list(self.betas)} must lie in [0, 1)")


@dataclass(frozen=True)
class LossConfig:
    """Cross-entropy alone (`ce`), or with the coherence term (`qfe`)."""

    name: Literal["qfe", "ce"] = "qfe"
    coherence_weight: float = _bounded(0.05)


@dataclass(frozen=True)
class DatasetConfig:
    """The text and how it is cut into tokens; `location` is the path or the URL."""

    name: Literal["stdlib", "tinyshakespeare", "path", "url"] = "stdlib"
    location: str | None = None
    tokens: Literal["byte", "char", "gpt2"] = "byte"

    def __post_init__(self) -> None:
        if (self.name in {"path", "url"}) != bool(self.location):
            raise ConfigError(
                "dataset.location: given with the names `path` and `url`, and with no other"
            )


@dataclass(frozen=True)
class CheckpointConfig:
    """When to save: every so many steps, every so many seconds, or both; always at the end."""

    every_steps: int | None = _bounded(500, 1)
    every_seconds: float | None = _bounded(None, 0, above=True)
    keep_last: int = _bounded(3, 1)


@dataclass(frozen=True)
class TrainConfig:
    """One training run."""

    model: ModelConfig = ModelConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    loss: LossConfig = LossConfig()
    dataset: DatasetConfig = DatasetConfig()
    steps: int = _bounded(2000, 1)
    batch_size: int = _bounded(16, 1)
    gradient_accumulation: int = _bounded(1, 1)
    seed: int = _bounded(1337, 0, 2**63 - 1)
    log_every: int = _bounded(10, 1)
    eval_every: int = _bounded(250, 1)
    eval_batches: int = _bounded(8, 1)
    plot_every: int = _bounded(500, 1)
    sample_tokens: int = _bounded(200)
    sample_prompt: str = "def "
    checkpoint: CheckpointConfig = CheckpointConfig()

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The config that a JSON object describes, defaults for what is missing.

        Raises ConfigError, whose message begins with the field's path, for an unknown key, a
        wrong type or an impossible value.
        """
        return _parse_object(cls, data, "")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON has them; `from_dict` takes them back."""
        return dataclasses.asdict(self) | {
            "optimizer": dataclasses.asdict(self.optimizer) | {"betas": list(self.optimizer.betas)}
        }

    @property
    def tokens_per_step(self) -> int:
        """Tokens that one optimiser step trains on."""
        return self.batch_size * self.gradient_accumulation * self.model.block_size


def _parse_object(cls: type[T], data: object, path: str) -> T:
    """An instance of a config class from a mapping."""
    if not isinstance(data, Mapping):
        raise ConfigError(f"{path or 'config'}: expected an object, got {data!r}")
    hints = get_type_hints(cls)
    fields = {spec.name: spec for spec in dataclasses.fields(cls)}  # type: ignore[arg-type]
    values = {}
    for key, value in data.items():
        where = f"{path}.{key}" if path else str(key)
        if key not in fields:
            raise ConfigError(f"{where}: unknown key; known are {', '.join(fields)}")
        values[key] = _parse(hints[key], value, where)
        _check_range(values[key], fields[key].metadata, where)
    return cls(**values)


def _parse(hint: Any, value: object, path: str) -> Any:
    """A value of the annotated type, or ConfigError; an integer may stand for a float."""
    if dataclasses.is_dataclass(hint):
        return _parse_object(hint, value, path)  # type: ignore[arg-type]
    if get_origin(hint) is Literal:
        if value in get_args(hint):
            return value
        raise ConfigError(f"{path}: {value!r} is none of {', '.join(get_args(hint))}")
    if isinstance(hint, UnionType):  # T | None
        return None if value is None else _parse(get_args(hint)[0], value, path)
    if get_origin(hint) is tuple:
        inner = get_args(hint)
        if not isinstance(value, list | tuple) or len(value) != len(inner):
            raise ConfigError(f"{path}: expected a list of {len(inner)} numbers, got {value!r}")
        pairs = zip(inner, value, strict=True)
        return tuple(_parse(h, v, f"{path}.{i}") for i, (h, v) in enumerate(pairs))
    if hint is float and type(value) is int:
        value = float(value)
    if type(value) is not hint:  # not isinstance: true is no integer here
        raise ConfigError(f"{path}: expected {_WORDS[hint]}, got {value!r}")
    return value


def _check_range(value: object, bounds: Mapping[str, Any], path: str) -> None:
    """ConfigError unless a bounded number lies in its range."""
    if not bounds or not isinstance(value, int | float):
        return
    low, high, above = bounds["low"], bounds["high"], bounds["above"]
    if not math.isfinite(value) or value < low or value > high or (above and value == low):
        allowed = f"{'above' if above else 'at least'} {low}"
        allowed += "" if high == math.inf else f" and at most {high}"
        raise ConfigError(f"{path}: {value!r} must be {allowed}")

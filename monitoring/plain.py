"""State in plain types: numbers, text, lists, dicts and tensors, which a safe load takes."""

from __future__ import annotations

import copy
import dataclasses
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Callable, Collection
from enum import Enum
from functools import singledispatch
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor

_SCALARS = frozenset({bool, int, float, complex, str, bytes, type(None)})
_LEAVES = (torch.dtype, torch.device, torch.Size, np.ndarray)

Place = Callable[[Tensor], Tensor]


def plain(  # noqa: PLR0911  one per kind
    value: Any, place: Place, allowed: Collection[type] = (), where: str = "state"
) -> Any:
    """The same tree in plain types, each tensor replaced by `place(tensor)`.

    Numpy scalars become numbers; paths text; enumerations their value; dataclasses and
    namespaces dicts. Objects of the `allowed` types are deep-copied.

    Raises TypeError for anything else, with the place in the tree where it was found.
    """
    kind = type(value)
    if kind in _SCALARS:
        return value
    if isinstance(value, Tensor):
        return place(value.detach())
    if isinstance(value, dict):
        return _plain_dict(value, place, allowed, where)
    if isinstance(value, list | tuple | set) and kind is not torch.Size:
        family = next(family for family in (list, tuple, set) if isinstance(value, family))
        # Histories are long lists of numbers: a look at their types is all they need.
        if _SCALARS.issuperset(map(type, value)):
            return family(value)
        return family(
            plain(item, place, allowed, f"{where}[{index}]") for index, item in enumerate(value)
        )
    if kind in allowed or isinstance(value, _LEAVES):
        return copy.deepcopy(value)
    simpler = _simpler(value)
    if simpler is value:
        raise TypeError(
            f"{where} is a {kind.__module__}.{kind.__qualname__}, which a safe load would refuse: "
            "store plain values, or name the type in CheckpointManager(..., allowed_types=[...])"
        )
    return plain(simpler, place, allowed, where)


def on_cpu(tensor: Tensor) -> Tensor:
    """The tensor itself where it can be saved as it is, else a copy on the CPU."""
    if tensor.device.type != "cpu":
        return tensor.cpu()
    # torch.save writes the whole storage behind a view.
    if tensor.layout == torch.strided and tensor.untyped_storage().nbytes() > tensor.nbytes:
        return tensor.clone()
    return tensor


def _plain_dict(
    value: dict[Any, Any], place: Place, allowed: Collection[type], where: str
) -> dict[Any, Any]:
    items = (
        (plain(key, place, allowed, where), plain(item, place, allowed, f"{where}[{key!r}]"))
        for key, item in value.items()
    )
    if not isinstance(value, OrderedDict):
        return dict(items)
    ordered = OrderedDict(items)
    # The versions of the modules, by which load_state_dict understands older states.
    if (versions := getattr(value, "_metadata", None)) is not None:
        ordered._metadata = copy.deepcopy(versions)  # type: ignore[attr-defined]
    return ordered


@singledispatch
def _simpler(value: Any) -> Any:
    """A value of a foreign type in a simpler one; the value itself where there is none."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    for scalar in (int, float, complex, str, bytes):
        if isinstance(value, scalar):
            return scalar(value)  # type: ignore[arg-type]
    return value


@_simpler.register
def _(value: np.generic) -> Any:
    return value.item()


@_simpler.register
def _(value: Enum) -> Any:
    return value.value


@_simpler.register
def _(value: PurePath) -> str:
    return str(value)


@_simpler.register
def _(value: Namespace) -> dict[str, Any]:
    return vars(value)

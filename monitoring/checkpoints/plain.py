"""Conversion of state to plain types, which a safe load accepts."""

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
from torch import Tensor, nn

_TENSORS = frozenset({Tensor, nn.Parameter})
_SCALARS = frozenset({bool, int, float, complex, str, bytes, type(None)})
_LEAVES = frozenset({torch.dtype, torch.device, torch.Size})
# The dtypes of numpy arrays that a safe load accepts once they are allowed.
NUMPY_DTYPES = frozenset(type(np.dtype(code)) for code in np.typecodes["All"] if code != "O")

Place = Callable[[Tensor], Tensor]


def plain(  # noqa: PLR0911  one per kind
    value: Any, place: Place, allowed: Collection[type] = (), where: tuple[Any, ...] = ()
) -> Any:
    """Convert a tree to plain types, with each tensor replaced by `place(tensor)`.

    Numpy scalars become numbers, paths strings, enumerations their value, dataclasses and
    namespaces dicts, and subclasses of arrays and tensors plain ones. Objects of the `allowed`
    types are deep-copied.

    Raises TypeError for anything else; the message says where in the tree it is.
    """
    kind = type(value)
    if kind in _SCALARS:
        return value
    if kind in _TENSORS:
        return place(value)
    if isinstance(value, dict):
        return _plain_dict(value, place, allowed, where)
    if isinstance(value, list | tuple | set) and kind is not torch.Size:
        family = next(family for family in (list, tuple, set) if isinstance(value, family))
        # Histories are long lists of numbers: it is enough to check their types.
        if _SCALARS.issuperset(map(type, value)):
            return family(value)
        return family(
            plain(item, place, allowed, (*where, index)) for index, item in enumerate(value)
        )
    if kind in allowed or kind in _LEAVES:
        return copy.deepcopy(value)
    if kind is np.ndarray and _loads(value.dtype):
        return value.copy("K")
    simpler = _simpler(value)
    if simpler is value:
        place_in_tree = "".join(f"[{key!r}]" for key in where)
        raise TypeError(
            f"state{place_in_tree} is a {kind.__module__}.{kind.__qualname__}, which a safe load "
            "refuses; store plain values, or name the type in "
            "CheckpointManager(..., allowed_types=[...])"
        )
    return plain(simpler, place, allowed, where)


def on_cpu(tensor: Tensor) -> Tensor:
    """Return the tensor itself if it can be saved as it is, else a copy on the CPU."""
    tensor = tensor.detach()
    if tensor.device.type != "cpu":
        return tensor.cpu()
    # torch.save writes the whole storage behind a view.
    if tensor.layout == torch.strided and tensor.untyped_storage().nbytes() > tensor.nbytes:
        return tensor.clone()
    return tensor


def _plain_dict(
    value: dict[Any, Any], place: Place, allowed: Collection[type], where: tuple[Any, ...]
) -> dict[Any, Any]:
    items = (
        (
            key if type(key) in _SCALARS else plain(key, place, allowed, where),
            plain(item, place, allowed, (*where, key)),
        )
        for key, item in value.items()
    )
    if not isinstance(value, OrderedDict):
        return dict(items)
    ordered = OrderedDict(items)
    # The versions of the modules, by which load_state_dict understands older states.
    if (versions := getattr(value, "_metadata", None)) is not None:
        ordered._metadata = copy.deepcopy(versions)  # type: ignore[attr-defined]
    return ordered


def _loads(dtype: np.dtype[Any]) -> bool:
    """Whether a safe load accepts arrays of this dtype."""
    if dtype.subdtype is not None:
        return _loads(dtype.subdtype[0])
    if dtype.fields is not None:  # numpy's records are a class of their own
        return dtype.type is np.void and all(_loads(field[0]) for field in dtype.fields.values())
    return type(dtype) in NUMPY_DTYPES and dtype.itemsize > 0


@singledispatch
def _simpler(value: Any) -> Any:
    """Convert a value to a simpler type; return it unchanged if there is none."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    for scalar in (int, float, complex, str, bytes):
        if isinstance(value, scalar):
            return scalar(value)  # type: ignore[arg-type]
    return value


@_simpler.register
def _(value: Tensor) -> Tensor:
    # A tensor with its own operations, such as a distributed one, keeps its numbers elsewhere.
    if type(value).__torch_dispatch__ is not Tensor.__torch_dispatch__:
        return value
    return value.detach().as_subclass(Tensor)


@_simpler.register
def _(value: np.ndarray) -> np.ndarray[Any, Any]:
    if type(value) is np.ndarray or isinstance(value, np.ma.MaskedArray):  # the mask would be lost
        return value
    array = np.asarray(value)
    return array.view((np.void, array.dtype)) if array.dtype.type is np.record else array


@_simpler.register
def _(value: np.generic) -> Any:
    number = value.item()
    return value if isinstance(number, np.generic) else number  # it is wider than Python's own type


@_simpler.register
def _(value: Enum) -> Any:
    return value.value


@_simpler.register
def _(value: PurePath) -> str:
    return str(value)


@_simpler.register
def _(value: Namespace) -> dict[str, Any]:
    return vars(value)

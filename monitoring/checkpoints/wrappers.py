"""The plain model inside DataParallel, DistributedDataParallel and torch.compile.

Checkpoints contain the state of the plain model, so they load on one GPU as well as on eight. Once
this module is imported, every wrapper around a model accepts that plain state too:
`nn.DataParallel(model).load_state_dict(checkpoint['model_state_dict'])`.
"""

from __future__ import annotations

import gc
from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook
from torch.nn.parallel import DataParallel, DistributedDataParallel

_COMPILED = "_orig_mod"  # where torch.compile keeps the module it wraps


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model inside all wrappers."""
    while (name := _wrapped(model)) is not None:
        model = getattr(model, name)
    return model


def plain_state(model: nn.Module) -> dict[str, Any]:
    """Return `state_dict()` of the unwrapped model, without the prefixes of compiled parts."""
    state = unwrap(model).state_dict()
    for key in [key for key in state if f"{_COMPILED}." in key]:
        state[key.replace(f"{_COMPILED}.", "")] = state.pop(key)
    return state


def _wrapped(model: nn.Module) -> str | None:
    if isinstance(model, DataParallel | DistributedDataParallel):
        return "module"
    return _COMPILED if _COMPILED in model._modules else None


def _watch(wrapper: nn.Module, name: str, submodule: nn.Module | None) -> None:
    """Let a wrapper accept the plain state of what it wraps."""
    if name == _COMPILED or (
        name == "module" and isinstance(wrapper, DataParallel | DistributedDataParallel)
    ):
        wrapper.register_load_state_dict_pre_hook(_add_prefix)  # type: ignore[no-untyped-call]


def _add_prefix(wrapper: nn.Module, state: dict[str, Any], prefix: str, *_: object) -> None:
    name = _wrapped(wrapper)
    if name is None or any(key.startswith(f"{prefix}{name}.") for key in state):
        return
    for key in [key for key in state if key.startswith(prefix)]:
        state[f"{prefix}{name}.{key[len(prefix) :]}"] = state.pop(key)


def _watch_earlier() -> None:
    """Find the wrappers that were made before this module was imported."""
    for found in gc.get_objects():
        if issubclass(type(found), nn.Module):
            for name, submodule in found.__dict__.get("_modules", {}).items():
                _watch(found, name, submodule)


register_module_module_registration_hook(_watch)
_watch_earlier()

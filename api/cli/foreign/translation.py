"""Tells whose file it is, and has it translated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from api.cli.foreign import dstack, skypilot
from api.cli.foreign.result import ForeignError, Translation

_DSTACK = {"type", "commands", "repos", "nodes", "max_duration", "spot_policy", "backends"}
_SKYPILOT = {"run", "envs", "num_nodes", "workdir", "file_mounts"}
# A file with one of these at its top is theirs and not ours.
TELLING = (_DSTACK | _SKYPILOT) - {"run", "type"}


def translate(data: object) -> Translation:
    """The job that a file of SkyPilot or dstack says; raises `ForeignError`."""
    if not isinstance(data, dict) or not data:
        raise ForeignError("it is no task of SkyPilot or dstack: it is no mapping")
    found: Mapping[str, Any] = {str(key): value for key, value in data.items()}
    if not found.keys() & (_DSTACK | _SKYPILOT):
        raise ForeignError("it is no task of SkyPilot or dstack: it has neither `run` nor `type`")
    is_dstack = "type" in found or len(found.keys() & _DSTACK) > len(found.keys() & _SKYPILOT)
    return dstack.translated(found) if is_dstack else skypilot.translated(found)

"""The monitoring library under the name that its specification uses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import monitoring

if TYPE_CHECKING:
    from monitoring import *  # noqa: F403

__all__ = monitoring.__all__


def __getattr__(name: str) -> Any:
    return getattr(monitoring, name)


def __dir__() -> list[str]:
    return dir(monitoring)

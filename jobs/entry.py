"""How a process of the service starts, and how it ends when its settings cannot be used."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NoReturn

from jobs.setting_errors import SettingsError

_UNUSABLE = 2


def run(main: Callable[[], str | int | None], *refusals: type[Exception]) -> NoReturn:
    """Calls `main` and exits with what it returns, as `sys.exit` does.

    A `SettingsError` that ends it, or one of `refusals`, is printed as a sentence without a
    traceback, and the exit code is 2.
    """
    unusable: tuple[type[Exception], ...] = (SettingsError, *refusals)
    try:
        code = main()
    except unusable as error:
        print(error, file=sys.stderr)
        sys.exit(_UNUSABLE)
    sys.exit(code or 0)

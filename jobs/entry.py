"""The entry point of each process: reports invalid settings without a traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NoReturn

from jobs.setting_errors import SettingsError

_INVALID_SETTINGS = 2


def run(main: Callable[[], str | int | None], *refusals: type[Exception]) -> NoReturn:
    """Calls `main` and passes its result to `sys.exit`.

    If `main` raises `SettingsError` or one of `refusals`, prints only the message and exits
    with 2.
    """
    expected: tuple[type[Exception], ...] = (SettingsError, *refusals)
    try:
        code = main()
    except expected as error:
        print(error, file=sys.stderr)
        sys.exit(_INVALID_SETTINGS)
    sys.exit(code or 0)

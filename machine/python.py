"""Commands that run a module of ours in a process of its own."""

from __future__ import annotations

import sys


def python_module(name: str, *arguments: str) -> list[str]:
    """The command that runs module `name` with this Python.

    Without -P, Python imports from the working directory first: a jobs.py or json.py there would
    be executed in place of the module of that name.
    """
    return [sys.executable, "-P", "-m", name, *arguments]

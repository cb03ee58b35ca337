"""A layer: a virtual environment that sees all packages of the interpreter beneath it.

`python -m venv --system-site-packages` would see those of the base interpreter only, and not those
of an environment, such as the worker's with its torch. A layer has a line in a `.pth` file for each
directory beneath (https://docs.python.org/3/library/site.html). pip finds their packages on
`sys.path`, so that it installs only what is missing, and never writes to them.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from worker.environment.python import Python

_BENEATH = "_beneath.pth"
_GROUPS = {"[console_scripts]", "[gui_scripts]"}
_ENTRY = re.compile(r"([\w.-]+)\s*=\s*([\w.]+)\s*:\s*([\w.]+)\s*(?:\[.*\])?$")
# The kernel reads no more of the first line of a script.
_LONGEST_FIRST_LINE = 127
# `main` is `__main__`: a process that the program starts may import this file again.
_SCRIPT = """{first}
import sys
from {module} import {top}
if __name__ == {main!r}:
    sys.argv[0] = sys.argv[0].removesuffix(".exe")
    sys.exit({attribute}())
"""


def make_layer(path: Path, beneath: Python) -> Python:
    """Makes an empty layer at `path`, which must not have one; raises `OSError`.

    Written here, since `python -m venv` takes twenty times as long: each attempt makes one.
    """
    layer = layer_at(path, beneath)
    packages = layer.packages[0]
    packages.mkdir(parents=True)
    (path / "lib64").symlink_to("lib")
    (path / "bin").mkdir()
    # PEP 405: Python finds its own library by `home`, and its packages beside this file.
    (path / "pyvenv.cfg").write_text(
        f"home = {beneath.base.parent}\n"
        "include-system-site-packages = false\n"
        f"version = {'.'.join(map(str, beneath.version))}\n"
    )
    layer.executable.symlink_to(beneath.base)
    for name in ("python3", f"python{beneath.short_version}"):
        (path / "bin" / name).symlink_to("python")
    # `addsitedir` also follows the `.pth` files of editable packages there.
    folders = ", ".join(repr(str(folder)) for folder in beneath.packages)
    line = f"import site; list(map(site.addsitedir, ({folders},)))\n"
    if beneath.packages:
        (packages / _BENEATH).write_text(line)
    _write_programs(layer, beneath)
    return layer


def layer_at(path: Path, beneath: Python) -> Python:
    """The layer at `path`, which `make_layer` has made."""
    packages = path / "lib" / f"python{beneath.short_version}" / "site-packages"
    return replace(
        beneath, executable=path / "bin" / "python", packages=(packages, *beneath.packages)
    )


def _write_programs(layer: Python, beneath: Python) -> None:
    """Writes the programs of the packages beneath, such as `torchrun`, for the layer's Python.

    The installed ones would start the interpreter beneath, which lacks the layer's packages.
    """
    first = _first_line(layer.executable)
    for name, module, attribute in _programs(beneath):
        program = layer.executable.with_name(name)
        if not program.exists():
            top = attribute.partition(".")[0]
            program.write_text(
                _SCRIPT.format(
                    first=first, module=module, top=top, attribute=attribute, main="__main__"
                )
            )
            program.chmod(0o755)


def _programs(python: Python) -> Iterator[tuple[str, str, str]]:
    """Name, module and function of each program of the packages."""
    for record in python.records():
        try:
            lines = (record / "entry_points.txt").read_text().splitlines()
        except OSError:
            continue
        group = ""
        for line in map(str.strip, lines):
            if line.startswith("["):
                group = line
            elif group in _GROUPS and (found := _ENTRY.match(line)):
                yield found[1], found[2], found[3]


def _first_line(executable: Path) -> str:
    """The first line of a script; for a path that it cannot hold, a shell's that starts it."""
    line = f"#!{executable}"
    if len(line.encode()) <= _LONGEST_FIRST_LINE and not re.search(r"\s", line):
        return line
    # For Python, the second and third line are a text.
    return f"#!/bin/sh\n'''exec' {shlex.quote(str(executable))} \"$0\" \"$@\"\n' '''"

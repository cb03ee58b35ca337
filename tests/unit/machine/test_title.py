"""The command and the environment that the kernel shows for a process that has changed them."""

from __future__ import annotations

import os
import subprocess
import sys

import psutil
import pytest

SET = """
import os, sys
from machine.title import set_title
started_with = len(open("/proc/self/cmdline").read())
name = "x" * (started_with + int(sys.argv[1]))
set_title([name], {"A": "1", "SPECTRAIN_JOB_ID": "job-23456789", "B": "b" * 10**6})
print(name, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("longer", range(-3, 4))
def test_command_and_environment_are_shown_at_any_length(longer: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SET, str(longer)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "ROOM": "r" * 200},
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        name = process.stdout.readline().strip()
        seen = psutil.Process(process.pid)
        assert [word for word in seen.cmdline() if word] == [name]
        assert seen.environ() == {"SPECTRAIN_JOB_ID": "job-23456789", "A": "1"}
        process.stdin.close()

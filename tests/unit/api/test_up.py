"""What ends `spectrain up`, and what does not."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

HANGS_UP = """
import os, signal
from api.local.service import running
class Service:
    def start(self): print("started")
    def stop(self): print("stopped")
with running(Service()):
    os.kill(os.getpid(), signal.SIGHUP)
    print("still up")
"""


@pytest.mark.parametrize(
    ("handler", "printed"),
    [(signal.SIG_DFL, "started\nstopped\n"), (signal.SIG_IGN, "started\nstill up\nstopped\n")],
    ids=["by itself", "by nohup"],
)
def test_a_terminal_that_is_closed_stops_it_unless_nohup_started_it(
    handler: signal.Handlers, printed: str
) -> None:
    usual = signal.signal(signal.SIGHUP, handler)
    try:
        ended = subprocess.run(
            [sys.executable, "-c", HANGS_UP],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
    finally:
        signal.signal(signal.SIGHUP, usual)
    assert ended.stdout == printed

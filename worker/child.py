"""The training process of one attempt, as the supervisor sees it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from worker.guard import KILL_TREE


class Child:
    """A started command under a guard; its output goes straight to a file.

    `on_exit` is called from another thread when it has ended.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path,
        output: Path,
        on_exit: Callable[[], None],
    ) -> None:
        # -P -E -s: the guard's own imports are no business of the job's files and environment.
        python = [sys.executable, "-P", "-E", "-s"]
        guard = [*python, "-m", "worker.guard", str(os.getpid()), *command]
        with output.open("ab") as file:
            self._process = subprocess.Popen(
                guard,
                env=dict(env),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._on_exit = on_exit
        threading.Thread(target=self._wait, name="child-exit", daemon=True).start()

    @property
    def exit_code(self) -> int | None:
        """The command's exit code, 128 + number for a signal; None while it runs."""
        code = self._process.poll()
        return 128 - code if code is not None and code < 0 else code

    def terminate(self) -> None:
        """Asks it to save and leave (SIGTERM)."""
        self._process.terminate()

    def kill(self) -> None:
        """Kills it and all its descendants."""
        if self._process.poll() is None:
            self._process.send_signal(KILL_TREE)

    def wait(self) -> None:
        """Returns when it has ended."""
        self._process.wait()

    def _wait(self) -> None:
        self._process.wait()
        self._on_exit()

"""A program that starts warm behaves exactly as one that starts cold, only faster."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from worker.launch.child import start_cold
from worker.launch.fork_client import ForkServerClient

# What a program can see of how it was started.
LOOK = """
import json, os, resource, signal, subprocess, sys
main = sys.modules["__main__"]
std = ("stdin", "stdout", "stderr")
def stream(s):
    return [s.name, s.mode, s.encoding, s.errors, s.line_buffering, s.write_through, s.fileno(),
            type(s.buffer).__name__, s.isatty()]
seen = {
    "argv": sys.argv, "orig_argv": sys.orig_argv, "path": sys.path, "flags": list(sys.flags),
    "executable": sys.executable, "prefix": sys.prefix, "environment": dict(os.environ),
    "inherited": sorted(subprocess.check_output("env", text=True).splitlines()),
    "cwd": os.getcwd(), "name": __name__, "file": __file__,
    "main": sorted(main.__dict__), "same": main.__dict__ is globals(), "doc": __doc__,
    "spec": repr(__spec__).split(" at 0x")[0], "package": __package__,
    "loader": type(__loader__).__name__,
    "builtins": repr(__builtins__), "cached": repr(__cached__), "excepthook": repr(sys.excepthook),
    "streams": [stream(getattr(sys, name)) for name in std],
    "descriptors": {n: os.readlink(f"/proc/self/fd/{n}") for n in range(3)},
    "more": [n for n in range(3, 64) if os.path.exists(f"/proc/self/fd/{n}")],
    "signals": {n: repr(signal.getsignal(n)).split(" at ")[0] for n in signal.valid_signals()},
    "blocked": list(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
    "leads": [os.getpid() == os.getpgid(0), os.getpid() == os.getsid(0)],
    "limits": [resource.getrlimit(n) for n in range(16)],
    "priority": os.getpriority(os.PRIO_PROCESS, 0), "umask": os.umask(0o22),
    "threads": len(os.listdir("/proc/self/task")), "recursion": sys.getrecursionlimit(),
    "warnoptions": sys.warnoptions, "traced": [sys.gettrace(), sys.getprofile()],
    "rooms": [name for name in ("worker", "jobs", "machine", "monitoring", "workload")
              if name in sys.modules],
}
print(json.dumps(seen, default=str, indent=1))
"""


@pytest.mark.parametrize(
    "command",
    [
        ["python", "look.py", "a b", "--x"],
        ["python3", "-u", "./look.py"],
        [sys.executable, "sub/link.py", "é"],
        ["python", "-m", "look", "-m"],
        ["python", "-m", "package", "x"],
        ["python", "-P", "look.py"],
    ],
    ids=" ".join,
)
def test_a_program_sees_no_difference(
    warm: ForkServerClient, runner: Any, command: list[str]
) -> None:
    (runner.cwd / "look.py").write_text(LOOK)
    (runner.cwd / "sub").mkdir()
    (runner.cwd / "sub" / "link.py").symlink_to("../look.py")
    (runner.cwd / "package").mkdir()
    (runner.cwd / "package" / "__init__.py").touch()
    (runner.cwd / "package" / "__main__.py").write_text(LOOK)
    assert runner.is_warm(warm.start)
    cold, ours = (runner.run(start, command) for start in (start_cold, warm.start))
    assert cold.code == 0, cold.output
    assert json.loads(ours.output) == json.loads(cold.output)


ENDS = {
    "nothing": "",
    "a number": "import sys; print('x', end=''); sys.exit(7)",
    "a text": "import sys; sys.exit('no more')",
    "None": "raise SystemExit",
    "an exception": "def f():\n    1 / 0\nf()",
    "a chain": "try:\n    {}[1]\nexcept KeyError as e:\n    raise ValueError('é') from e",
    "a syntax error": "x = 1\ny = = 2",
    "an encoding": "# coding: latin-1\nprint(ascii('\xe9'))",
    "Ctrl-C": "raise KeyboardInterrupt",
    "SIGINT": "import os, time\nos.kill(os.getpid(), 2)\ntime.sleep(5)",
    "SIGTERM": "import os; os.kill(os.getpid(), 15)",
    "an abort": "import os; os.abort()",
    "at once": "import os; print('x'); os._exit(9)",
    "no input": "input()",
    "a hook": "import sys\nsys.excepthook = lambda *a: print('hook', a[0], a[2].tb_lineno)\n1 / 0",
    "threads and atexit": """
import atexit, threading, time, pickle
class Mine: pass
def late():
    time.sleep(0.2); print("thread", pickle.loads(pickle.dumps(Mine)) is Mine)
atexit.register(print, "atexit")
threading.Thread(target=late).start()
threading.Thread(target=lambda: time.sleep(600), daemon=True).start()
print("main")""",
    "files and destructors": """
class Mine:
    def __del__(self): print("deleted")
mine = Mine()
file = open("kept.txt", "w")
file.write("kept")""",
    "processes": """
import multiprocessing
def double(x): return 2 * x
if __name__ == "__main__":
    for method in ("fork", "spawn"):
        with multiprocessing.get_context(method).Pool(2) as pool:
            print(pool.map(double, range(3)))""",
}


@pytest.mark.parametrize("script", ENDS.values(), ids=ENDS)
def test_a_program_ends_as_it_would_have_ended(
    warm: ForkServerClient, runner: Any, script: str
) -> None:
    (runner.cwd / "s.py").write_bytes(script.encode("latin-1" if "latin" in script else "utf-8"))
    kept = runner.cwd / "kept.txt"
    for command in (["python", "s.py"], ["python", "-m", "s"]):
        cold, ours = (
            (runner.run(start, command), kept.exists() and (kept.read_text(), kept.unlink()))
            for start in (start_cold, warm.start)
        )
        assert ours == cold


@pytest.mark.parametrize(
    "command",
    [
        ["python", "no.py"],
        ["python", "-m", "no.such.module"],
        ["python", "-m", "textwrap"],
        ["python", "-P", "-m", "s"],
        ["python", "-X", "dev", "-c", "import sys; print(sys.flags)"],
        ["python"],
        ["python", "-m"],
        ["python", "directory.py"],
        ["sh", "-c", "yes | head -1; echo $0 $PATH; pwd"],
        ["no-such-program"],
    ],
    ids=" ".join,
)
def test_any_other_command_is_what_it_was(
    warm: ForkServerClient, runner: Any, command: list[str]
) -> None:
    (runner.cwd / "directory.py").mkdir()
    (runner.cwd / "directory.py" / "__main__.py").write_text("print(__file__)")
    cold, ours = (runner.run(start, command) for start in (start_cold, warm.start))
    assert ours == cold

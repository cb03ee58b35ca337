"""Measures what a workspace adds: from a directory to the first line of its script on a worker.

In turn, through the same service with one warm worker: a job whose script lies on the worker, one
whose directory nobody has seen, one whose directory is as it was the time before, and the same with
an environment that was built before. Each is timed from the call of the client, which packs and
sends the directory, to the first line of the script. The directory is a git work tree of 200 files
and 2 MB of text. The environment is that of a package which the worker has, so that nothing is
fetched; it starts its own interpreter, where the others are forked.
"""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from api.client.client import Client
from bench.report import Report, options
from bench.system.service import TIMEOUT_SECONDS, local_service, wait_for

_SCRIPT = """import time; first = time.time()
import os
with open(os.environ["STAMP"] + ".new", "w") as file:
    file.write(repr(first))
os.replace(file.name, os.environ["STAMP"])
"""
_FILES, _BYTES = 200, 2_000_000
_WARM_UP = 3
# A worker is idle at most this long after its last job.
_IDLE_SECONDS = 0.3
_WITHOUT, _FIRST, _AGAIN = "without a workspace", "a workspace, first time", "a workspace, again"
_BUILT = "an environment, built before"
# The kinds, the one that each adds to, and by how many seconds at most.
_BARS = ((_FIRST, _WITHOUT, 0.3), (_AGAIN, _WITHOUT, 0.1), (_BUILT, _AGAIN, 0.1))


def main(argv: Sequence[str]) -> int:
    """Measure the four kinds in turn; return 1 if a limit is exceeded."""
    arguments = options("submit", jobs=30).parse_args(argv)
    report = Report("submit", {**vars(arguments), "files": _FILES, "bytes": _BYTES})
    with tempfile.TemporaryDirectory() as directory:
        os.environ["XDG_CACHE_HOME"] = directory
        code = _code(Path(directory) / "code")
        taken = _measure(Path(directory), code, arguments.jobs)
    medians = {kind: report.add(f"{kind}: to the first line", "s", taken[kind]) for kind in taken}
    for kind, beside, limit in _BARS:
        more = [a - b for a, b in zip(taken[kind], taken[beside], strict=True)]
        report.add(f"{kind}: more than {beside}", "s", more)
        report.bar(f"s more for {kind}, p50", medians[kind] - medians[beside], limit)
        report.notes.append(f"{kind}: p95 {statistics.quantiles(taken[kind], n=20)[-1]:.3f} s")
    return report.show(keep=arguments.keep)


def _code(root: Path) -> Path:
    """A git work tree of about `_FILES` files and `_BYTES` bytes of text."""
    chance = random.Random(0)
    words = [
        "".join(chance.choices("abcdefghijklmnop_", k=chance.randint(2, 9))) for _ in range(900)
    ]
    for number in range(_FILES - 1):
        path = root / f"package_{number % 10}" / f"module_{number}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        text = " ".join(chance.choices(words, k=_BYTES // _FILES // 6))
        path.write_text(text[: _BYTES // _FILES])
    (root / "train.py").write_text(_SCRIPT)
    (root / "requirements.txt").write_text("click\n")
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message=code"]):
        identity = ["-c", "user.name=bench", "-c", "user.email=bench@example.com"]
        subprocess.run(["git", "-C", root, *identity, *command], check=True)
    return root


def _measure(directory: Path, code: Path, jobs: int) -> dict[str, list[float]]:
    """Seconds to the first line, for each kind of job."""
    stamp, script = directory / "stamp", directory / "script.py"
    script.write_text(_SCRIPT)
    own: dict[str, Any] = {"name": "a", "env": {"STAMP": str(stamp)}}
    here = own | {"command": ["python", str(script)]}
    sent = own | {"command": ["python", "train.py"], "workspace": {"path": str(code)}}
    kinds = {_WITHOUT: here, _FIRST: sent, _AGAIN: sent,
             _BUILT: sent | {"environment": "requirements.txt"}}  # fmt: skip
    taken: dict[str, list[float]] = {kind: [] for kind in kinds}
    with local_service(directory / "data", workers=1) as service, Client(service.url) as client:
        for number in range(_WARM_UP + jobs):
            (code / "package_0" / "module_0.py").write_text(f"VERSION = {number}\n")
            for kind, spec in kinds.items():
                stamp.unlink(missing_ok=True)
                begun = time.time()
                job = client.submit(spec)
                wait_for(stamp.exists)
                taken[kind].append(float(stamp.read_text()) - begun)
                client.wait(job.id, TIMEOUT_SECONDS, poll=0.02)
                time.sleep(_IDLE_SECONDS)
    return {kind: seconds[_WARM_UP:] for kind, seconds in taken.items()}

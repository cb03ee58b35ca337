"""What a program under test reports to the gauntlet, in a file outside its run.

A program imports this first: what is registered first to run at exit runs last. As a program it
takes the inventory of its run, for a shell that has something left to write.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

STEPS = int(os.environ.get("GAUNTLET_STEPS", "240"))
EVERY = int(os.environ.get("GAUNTLET_EVERY", "30"))
_PACE = float(os.environ.get("GAUNTLET_PACE", "0"))
_HOLD = os.environ.get("GAUNTLET_HOLD")
_RANK = os.environ.get("RANK", "0")
_ended: list[bool] = []


def note(event: str, step: int = 0, **more: Any) -> None:
    """Appends an event; a kill leaves a whole line or none."""
    line = {"at": time.time(), "attempt": int(os.environ["SPECTRAIN_ATTEMPT"]), "event": event,
            "step": step, **more}  # fmt: skip
    path = os.environ.get("GAUNTLET_LEDGER")
    if path and _RANK == "0":
        with open(path, "ab", 0) as file:  # appended by one write
            file.write(json.dumps(line).encode() + b"\n")


def resumed(step: int) -> None:
    """The program continues after this step; 0: it begins."""
    print(f"resumed from step {step}", flush=True)
    note("resumed", step, pid=os.getpid(), run=os.environ["SPECTRAIN_RUN_DIR"])


def saved(step: int) -> None:
    """A checkpoint of this step is whole, as the program sees it."""
    note("saved", step)


def made(step: int) -> None:
    """A step is made; takes the time that a step of a larger model takes.

    From the step on that a file names, each takes until the file is gone or names a later one.
    """
    note("step", step)
    time.sleep(_PACE)
    while _is_held(step):
        time.sleep(0.05)


def _is_held(step: int) -> bool:
    try:
        return bool(_HOLD) and step >= int(Path(str(_HOLD)).read_text())
    except FileNotFoundError:
        return False
    except ValueError:  # it is being written
        return True


def stopped(step: int) -> None:
    """The program has saved this step because it was asked to stop, and ends."""
    note("stopped", step)


def curve() -> list[str]:
    """The rows of metrics that the program has logged, without their times."""
    path = Path(os.environ["SPECTRAIN_RUN_DIR"], "logs", "metrics.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [json.dumps({k: v for k, v in row.items() if k != "timestamp"}) for row in rows]


def pause() -> None:
    """In the middle of a checkpoint, where a larger model takes its time."""
    time.sleep(_PACE)


def final(state: Any) -> None:
    """The training has ended in this state."""
    note("final", digest=digest(state))
    _ended.append(True)


def digest(state: Any) -> str:
    """A hash of numbers, texts and tensors in lists and dictionaries, to the last bit."""
    found = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, dict):
            for key in sorted(value, key=str):
                found.update(str(key).encode())
                add(value[key])
        elif isinstance(value, (list, tuple)):
            for one in value:
                add(one)
        elif hasattr(value, "detach"):
            found.update(value.detach().cpu().contiguous().numpy().tobytes())
        else:
            found.update(repr(value).encode())

    add(state)
    return found.hexdigest()


def inventory(root: Path) -> dict[str, list[Any]]:
    """What is below a directory, by path: kind, mode, time of change, and content or target."""
    found: dict[str, list[Any]] = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if "__pycache__" in name.split("/"):
            continue
        status = path.lstat()
        if path.is_symlink():
            found[name] = ["link", os.readlink(path)]
        elif path.is_dir():
            found[name] = ["directory", status.st_mode & 0o7777]
        elif path.is_file():
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            found[name] = ["file", content, status.st_size, status.st_mode & 0o7777,
                           status.st_mtime_ns]  # fmt: skip
    return found


def _take_inventory() -> None:
    note("files", files=inventory(Path(os.environ["SPECTRAIN_RUN_DIR"])))


def _at_exit() -> None:
    if _ended and _RANK == "0":
        _take_inventory()


if __name__ == "__main__":
    _take_inventory()
else:
    atexit.register(_at_exit)

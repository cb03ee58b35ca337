"""`python -m bench gauntlet`: other people's programs, interrupted at random moments.

Each program runs through `spectrain up` twice: undisturbed, and with a SIGTERM to its worker, a
SIGKILL of one of its own processes, a SIGKILL of its worker, and a SIGTERM to all processes at
once, at moments that depend on the seed alone. It must resume each time from its own last whole
checkpoint, end in the state of its twin, and leave in storage exactly the files that it has.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from bench.chaos.service import Service, ServiceError
from bench.gauntlet.course import Course, Result
from bench.gauntlet.kinds import KINDS, Kind
from bench.gauntlet.table import show
from bench.report import options
from bench.system.store import BUCKET, environment, s3_store
from monitoring.storage.open import open_storage

_SETTINGS = {"SPECTRAIN_GRACE_SECONDS": "8", "OMP_WAIT_POLICY": "PASSIVE"}
_LEASE_SECONDS = 5.0
_UP = Path(__file__).with_name("up.py")


def main(argv: Sequence[str]) -> int:
    """Runs all programs whose frameworks are installed; returns 1 if one lost anything."""
    parser = options("gauntlet", parallel=3)
    parser.add_argument("--seed", type=int, help="seed of the strikes (default: random)")
    parser.add_argument("--data", type=Path, help="directory for all files, which are then kept")
    parser.add_argument("--only", action="append", help="part of a program's name; may be repeated")
    arguments = parser.parse_args(argv)
    seed = secrets.randbelow(10**6) if arguments.seed is None else arguments.seed
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    chosen = [
        kind
        for kind in KINDS
        if not arguments.only or any(part.lower() in kind.name.lower() for part in arguments.only)
    ]
    if missing := sorted({kind.needs for kind in chosen if not kind.is_here}):
        print(f"Not installed: {', '.join(missing)}; `make gauntlet` installs what it needs")
        return 2
    directory = arguments.data or Path(tempfile.mkdtemp(prefix="spectrain-gauntlet-"))
    directory.mkdir(exist_ok=True)
    print(f"Seed {seed}; all files are in {directory}", flush=True)
    results, left = run(chosen, directory, seed, arguments.parallel)
    status = show(results, left)
    if status == 0 and arguments.data is None:
        shutil.rmtree(directory)
    else:
        print(f"All files are in {directory}")
    return status


def run(
    chosen: Sequence[Kind], directory: Path, seed: int, parallel: int
) -> tuple[list[Result], list[str]]:
    """The results of the programs, and the processes that were left behind."""
    results: list[Result] = []
    left: list[str] = []
    for bucket in (False, True):
        kinds = [kind for kind in chosen if kind.bucket is bucket]
        if not kinds:
            continue
        place = directory / ("bucket" if bucket else "directory")
        place.mkdir()
        with ExitStack() as stack:
            settings = dict(_SETTINGS)
            store = 0
            if bucket:
                store, port = stack.enter_context(s3_store())
                settings |= environment(port)
                settings["SPECTRAIN_STORAGE_URL"] = f"s3://{BUCKET}/gauntlet"
                os.environ |= {k: v for k, v in settings.items() if "S3" in k or "AWS" in k}
            service = Service(
                place / "data",
                lease=_LEASE_SECONDS,
                workers=parallel + 1,
                program=[sys.executable, "-P", str(_UP)] if bucket else (),
                settings=settings,
            )
            stack.callback(service.kill)
            service.start()
            url = settings.get("SPECTRAIN_STORAGE_URL", service.storage.as_uri())
            course = Course(service, open_storage(url), place, seed)
            with ThreadPoolExecutor(parallel) as pool:
                for result in pool.map(course.run, kinds):
                    results.append(result)
                    print(
                        f"{len(results):3} {result.kind.name}: {result.seconds:.0f} s", flush=True
                    )
            try:
                found = service.stop()
                left += [one for one in found if not one.startswith(f"left behind: {store} ")]
            except ServiceError as error:
                left.append(str(error))
    return results, left

"""What differs between two jobs: specification, code, environment and curves."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Iterator, Mapping
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any

from api.schemas import CodeDifferences, Difference, JobDiff
from api.server.curves.indexes import MetricsIndexes
from api.server.curves.table import Row, number, rows_of
from api.server.runs.metric_pages import key_of, lines_of
from api.server.runs.presentable import presentable
from jobs.model.record import Job
from monitoring.metrics.clocks import is_clock
from monitoring.paths import RunPaths
from monitoring.storage.base import Storage
from monitoring.storage.run_files import RunFiles

_PATHS = RunPaths(Path())
_SECTIONS = ("software", "hardware")
# A larger document is none that the library or the service wrote.
_MOST_BYTES = 8 << 20
_BLOCK = 1 << 20
_LINES = 500  # parsed at once


def diff_of(storage: Storage, indexes: MetricsIndexes, job: Job, other: Job) -> JobDiff:
    """What differs; raises `OSError` and `StorageError`."""
    one, two = StoredRun(storage, job.id), StoredRun(storage, other.id)
    environments = one.environment(), two.environment()
    return JobDiff(
        specification=_differences(*(flat(a.spec.model_dump(mode="json")) for a in (job, other))),
        code=CodeDifferences(
            workspace=_difference(workspace_of(job), workspace_of(other)),
            commit=_difference(one.commit(), two.commit()),
            patch=_difference(one.patch(), two.patch()),
        ),
        environment=_differences(*environments) if all(environments) else {},
        curves=first_differences(one, two, indexes, storage),
    )


class StoredRun:
    """What storage has of a run."""

    def __init__(self, storage: Storage, run: str) -> None:
        self._storage = storage
        self._files = RunFiles(storage, run)
        self.metrics = key_of(storage, run)

    def commit(self) -> Any:
        """The commit that its code comes from."""
        found = self._document(_PATHS.git).get("commit")
        return found if isinstance(found, str) else None

    def patch(self) -> str | None:
        """The SHA-256 of what had changed since; None without such a file."""
        key, position, found = self._files.key(_PATHS.git_patch.as_posix()), 0, hashlib.sha256()
        if self._storage.stat(key) is None:
            return None
        while block := self._storage.read(key, position, _BLOCK):
            found.update(block)
            position += len(block)
        return found.hexdigest()

    def environment(self) -> dict[str, Any]:
        """The software and the hardware that it ran with, by key."""
        config = self._document(_PATHS.config)
        return flat({name: config[name] for name in _SECTIONS if name in config})

    def rows(self) -> Iterator[Row]:
        """Its rows of metrics."""
        lines = lines_of(self._storage, self.metrics, 0)
        while some := [line for _, line in islice(lines, _LINES)]:
            yield from rows_of(some)
            time.sleep(0)  # lets other requests run

    def _document(self, path: Path) -> Mapping[str, Any]:
        """A file of the run as an object; empty if it is none. Its program may have written it."""
        key = self._files.key(path.as_posix())
        file = self._storage.stat(key)
        if file is None or file.size > _MOST_BYTES:
            return {}
        try:
            found = presentable(json.loads(self._storage.read(key)))
        except (ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}


def workspace_of(job: Job) -> str | None:
    """The SHA-256 of the archive that a job brought."""
    return job.spec.workspace.sha256 if job.spec.workspace is not None else None


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The leaves of a tree by their path; a list is a leaf."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


def _differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Difference]:
    pairs = {name: (one.get(name), other.get(name)) for name in sorted({*one, *other})}
    return {
        name: Difference(job=a, other=b)
        for name, (a, b) in pairs.items()
        if a != b or type(a) is not type(b)
    }


def _difference(one: Any, other: Any) -> Difference | None:
    return None if one == other else Difference(job=one, other=other)


def first_differences(
    one: StoredRun, other: StoredRun, indexes: MetricsIndexes, storage: Storage
) -> dict[str, int | None]:
    """For each metric of both, the first step at which it differs; None for none.

    Times and speeds, which differ between any two runs, are left out. Both files are read side by
    side, by step, until each metric has differed.
    """
    names = []
    for run in (one, other):
        with indexes.extended(run.metrics, storage) as index:
            names.append(index.names().keys())
    both = sorted(names[0] & names[1])
    found: dict[str, int | None] = {name: None for name in both if not is_clock(name)}
    pending = set(found)
    for step, a, b in _side_by_side(_by_step(one.rows()), _by_step(other.rows())):
        for name in [name for name in pending if name in a and name in b]:
            left, right = number(a[name]), number(b[name])
            if left is not None and right is not None and not _is_same(left, right):
                found[name] = step
                pending.remove(name)
        if not pending:
            break
    return found


def _is_same(one: float, other: float) -> bool:
    return one == other or (math.isnan(one) and math.isnan(other))


def _by_step(rows: Iterator[Row]) -> Iterator[Row]:
    """The rows, neighbors of the same step as one."""
    for _, some in groupby(rows, itemgetter("step")):
        first, *others = some
        for row in others:
            first |= row
        yield first


def _side_by_side(one: Iterator[Row], other: Iterator[Row]) -> Iterator[tuple[int, Row, Row]]:
    """The rows of the same step."""
    a, b = next(one, None), next(other, None)
    while a is not None and b is not None:
        if a["step"] == b["step"]:
            yield a["step"], a, b
        here, there = a["step"], b["step"]
        if here <= there:
            a = next(one, None)
        if there <= here:
            b = next(other, None)

"""`spectrain reindex`: rebuilds job records from storage after a loss of Redis."""

from __future__ import annotations

import contextlib
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from rich.table import Table

from api.local.redis_server import NoRedisServerError
from api.ops.settings import command_settings, command_storage
from api.render import console
from jobs.errors import STORE_AWAY
from jobs.model.record import Attempt, is_job_id
from jobs.reaper.backup import decode
from jobs.reaper.rebuild import (
    Accepted,
    CannotRebuildError,
    Rebuilt,
    Remains,
    is_forgotten,
    rebuild,
)
from jobs.settings import connect
from jobs.store.jobs import JobStore, open_store
from monitoring.paths import RunPaths, commit_record, step_of
from monitoring.storage.base import FENCE_NAME, Storage, StorageError
from monitoring.storage.run_records import RunRecords

_AT_ONCE = 16
_SHOWN = 50
Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class Outcome:
    """The outcome for the record of one run."""

    run: str
    what: str  # rebuilt, known, behind, deleted or impossible
    state: str = ""
    detail: str = ""


def read_remains(storage: Storage, run: str) -> Remains:
    """Reads what storage holds of a run; raises the errors of `Storage`."""
    paths = RunPaths(Path(run))
    files = {Path(file.key): file for file in storage.list(run)}
    record = None
    if (backup := RunRecords(storage).read(run)) is not None:
        with contextlib.suppress(ValueError):  # the other files of the run suffice
            record = decode(backup)
    numbers = [int(p.stem) for p in files if p.parent == paths.attempts and p.stem.isdigit()]
    receipts = {n: _read(storage, paths.attempt(n), Attempt) for n in numbers}
    accepted = _read(storage, paths.job, Accepted) if paths.job in files else None
    return Remains(
        run=run,
        changed_at=max((file.modified for file in files.values()), default=0.0),
        record=record,
        accepted=accepted,
        receipts={n: found for n, found in receipts.items() if found and found.number == n},
        fence=_fence(storage, run),
        checkpoint_step=_checkpoint_step(files.keys(), accepted),
    )


def _checkpoint_step(files: Set[Path], accepted: Accepted | None) -> int | None:
    """The highest step of a run's checkpoints.

    Those of the built-in workload count only with a commit record.
    """
    steps = {path: step for path in files if (step := step_of(path)) is not None}
    committed = [step for path, step in steps.items() if commit_record(path) in files]
    if not committed and accepted is not None and accepted.spec.train is None:
        committed = list(steps.values())
    return max(committed, default=None)


def _read(storage: Storage, path: Path, model: type[Model]) -> Model | None:
    try:
        return model.model_validate_json(storage.read(path.as_posix()))
    except (FileNotFoundError, ValidationError):
        return None  # a user's program may write anything under these names


def _fence(storage: Storage, run: str) -> int:
    try:
        text = storage.read(f"{run}/{FENCE_NAME}")
    except FileNotFoundError:
        return 0
    return int(text) if text.isdigit() else 0


class Reindex:
    """Rebuilds the records that Redis lacks, and leaves the others unchanged."""

    def __init__(self, store: JobStore, storage: Storage) -> None:
        self._records = store.records
        self._lease_seconds = store.lease_seconds
        self._storage = storage

    def run(self, *, dry_run: bool) -> Iterator[Outcome]:
        """The outcome for each run; raises the errors of storage and Redis; safe to repeat."""
        runs = [run for run in self._storage.runs() if is_job_id(run)]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            found = list(pool.map(self._rebuilt, runs))
        yield from (one for one in found if isinstance(one, Outcome))
        rebuilt = [one for one in found if isinstance(one, Rebuilt)]
        # The last one first, so that jobs submitted meanwhile get higher sequence numbers.
        for one in reversed(self._in_order(rebuilt)):
            yield self._preview(one) if dry_run else self._write(one)

    def _rebuilt(self, run: str) -> Rebuilt | Outcome:
        remains = read_remains(self._storage, run)
        if is_forgotten(remains):
            return Outcome(run, "deleted")
        try:
            return rebuild(remains)
        except CannotRebuildError as error:
            return Outcome(run, "impossible", detail=str(error))

    def _in_order(self, rebuilt: Sequence[Rebuilt]) -> list[Rebuilt]:
        """The records in order of submission, each with a sequence number of its own."""
        known = self._records.sequences()
        last = self._records.last_sequence()
        new = [one for one in rebuilt if one.job_id not in known]
        numbered = sorted((one for one in new if one.sequence), key=lambda one: one.sequence)
        unnumbered = sorted((one for one in new if not one.sequence), key=lambda o: o.submitted_at)
        # Jobs that were submitted to an empty Redis have taken the same numbers.
        taken = set(known.values())
        shift = last if any(one.sequence in taken for one in numbered) else 0
        placed = [_with_sequence(one, one.sequence + shift) for one in numbered]
        last = max([last, *(one.sequence for one in placed)])
        placed += [_with_sequence(one, last + number) for number, one in enumerate(unnumbered, 1)]
        return [*(one for one in rebuilt if one.job_id in known), *placed]

    def _preview(self, one: Rebuilt) -> Outcome:
        known_attempt = self._records.attempt(one.job_id)
        if known_attempt is None:
            return Outcome(one.job_id, "rebuilt", one.state, one.source)
        if known_attempt < one.newest_attempt:
            return Outcome(one.job_id, "behind", detail=_behind(known_attempt, one))
        return Outcome(one.job_id, "known")

    def _write(self, one: Rebuilt) -> Outcome:
        status, detail = self._records.rebuild(
            one.job_id,
            one.fields,
            one.events,
            newest_attempt=one.newest_attempt,
            lease_seconds=self._lease_seconds,
            event={"attempt": one.newest_attempt, "message": f"rebuilt from {one.source}"},
        )
        if status == "changed":
            return Outcome(one.job_id, "behind", detail=_behind(detail, one))
        return Outcome(one.job_id, detail, one.state, one.source)


def _with_sequence(one: Rebuilt, sequence: int) -> Rebuilt:
    return replace(one, fields={**one.fields, "sequence": str(sequence)})


def _behind(known_attempt: int | str, one: Rebuilt) -> str:
    return (
        f"Redis had {known_attempt} attempts, storage {one.newest_attempt}: the next attempt gets "
        "a higher number"
    )


def reindex(*, data: Path | None, dry_run: bool, as_json: bool) -> int:
    """Rebuilds the records, prints the outcome, and returns the exit code."""
    try:
        settings = command_settings(data)
        store = open_store(connect(settings), settings)
        storage = command_storage(settings)
        outcomes = list(Reindex(store, storage).run(dry_run=dry_run))
    except (*STORE_AWAY, NoRedisServerError, OSError, StorageError) as error:
        print(f"Cannot reindex: {error}", file=sys.stderr)
        return 1
    if as_json:
        print(json.dumps([vars(one) for one in outcomes], indent=2))
    else:
        _show(outcomes, dry_run=dry_run)
    return 1 if any(one.what == "impossible" for one in outcomes) else 0


def _show(outcomes: Sequence[Outcome], *, dry_run: bool) -> None:
    shown: list[Any] = [one for one in outcomes if one.what not in {"known", "deleted"}]
    if shown:
        table = Table("job", "outcome", "state", "rebuilt from", box=None, pad_edge=False)
        for one in shown[:_SHOWN]:
            table.add_row(one.run, one.what, one.state, one.detail)
        console().print(table)
        if len(shown) > _SHOWN:
            print(f"… and {len(shown) - _SHOWN} more")
    count = Counter(one.what for one in outcomes)
    verb = "would be rebuilt" if dry_run else "rebuilt"
    print(
        f"{len(outcomes)} runs in storage: {count['rebuilt']} {verb}"
        f"{_states(one for one in outcomes if one.what == 'rebuilt')}, {count['known']} known, "
        f"{count['deleted']} deleted, {count['behind']} newer in storage than in Redis, "
        f"{count['impossible']} impossible."
    )


def _states(rebuilt: Iterable[Outcome]) -> str:
    counts = Counter(one.state for one in rebuilt)
    text = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    return f" ({text})" if text else ""

"""Backs up the record of each job to storage, beside its run, for the case that Redis is lost.

A script that changes a record adds the job to `dirty`. The reaper at work copies those records,
the oldest change first. So a copy is a moment old, or older when many records change at once:
copying is limited to a share of a processor. `jobs.reaper.rebuild` restores records from the
copies and from the other files of the runs.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from dataclasses import dataclass
from typing import Protocol

from jobs.errors import STORE_AWAY
from jobs.model.record import Attempt
from jobs.model.states import State
from jobs.store.jobs import JobStore
from jobs.store.records import RawEvent, raw_event

log = logging.getLogger(__name__)

FORMAT = 1
_PAGE = 100
# After each copy the backup rests for this many times the time that the copy took.
_REST = 4


class Records(Protocol):
    """Where copies are stored: `monitoring.storage.run_records.RunRecords`."""

    def put(self, run: str, data: bytes) -> None:
        """Stores the record of a run."""

    def put_receipt(self, run: str, number: int, data: bytes) -> None:
        """Stores the receipt of an attempt, unless storage has the same one."""

    def remove_alone(self, run: str) -> None:
        """Removes a record beside which there is nothing but receipts."""


@dataclass(frozen=True)
class RecordCopy:
    """The hash of a job and its events, as Redis had them."""

    fields: dict[str, str]
    events: list[RawEvent]

    def last_receipts(self) -> dict[int, bytes]:
        """The receipts of a job that has ended, by number.

        They are written here because a killed worker could not write its own, and an attempt that
        never had a child wrote none.
        """
        if not State(self.fields["state"]).is_final:
            return {}
        found = {k.partition(":")[2]: v for k, v in self.fields.items() if k.startswith("attempt:")}
        return {int(n): Attempt.model_validate_json(v).receipt() for n, v in found.items()}

    def encode(self) -> bytes:
        """The content of the copy in storage."""
        value = {"format": FORMAT, "fields": self.fields, "events": self.events}
        return json.dumps(value, indent=1).encode()


def decode(data: bytes) -> RecordCopy:
    """The record in a copy; raises ValueError for other data."""
    value = json.loads(data)
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise ValueError("not a record of this version")
    try:
        fields = {str(k): str(v) for k, v in value["fields"].items()}
        events = [raw_event(event) for event in value["events"]]
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"not a record: {error!r}") from None
    return RecordCopy(fields, events)


class Backup:
    """Copies changed records; the lock of the reaper keeps it to one process at a time."""

    def __init__(self, store: JobStore, records: Records) -> None:
        self._raw = store.records
        self._records = records
        self._away = False

    def run_once(self, stop: threading.Event) -> int:
        """Copies until no record is left or storage refuses one; returns the number of copies.

        Raises one of `jobs.errors.STORE_AWAY` while Redis is away.
        """
        copied = 0
        while not stop.is_set():
            changed = self._raw.dirty(_PAGE)
            if not changed:
                break
            for job_id, at in changed:
                start = time.monotonic()
                if stop.is_set() or not self._copied(job_id, at):
                    return copied
                copied += 1
                stop.wait(_REST * (time.monotonic() - start))
        return copied

    def copy(self, job_id: str) -> None:
        """Copies one record now; raises the errors of storage."""
        if (record := self._read(job_id)) is not None:
            self._put(job_id, record)

    def _put(self, job_id: str, record: RecordCopy) -> None:
        self._records.put(job_id, record.encode())
        for number, data in record.last_receipts().items():
            self._records.put_receipt(job_id, number, data)

    def _copied(self, job_id: str, at: float) -> bool:
        try:
            if (record := self._read(job_id)) is not None:
                self._put(job_id, record)
            if self._raw.backed_up(job_id, at) == "missing" and record is not None:
                self._records.remove_alone(job_id)
        except STORE_AWAY:
            raise
        except Exception as error:  # an error of storage must not stop the copies of other records
            if not self._away:
                log.warning("cannot back up the record of job %s to storage: %s", job_id, error)
            self._away = True
            self._raw.postpone(job_id)
            return False
        if self._away:
            log.info("storage accepts the records of jobs again")
        self._away = False
        return True

    def _read(self, job_id: str) -> RecordCopy | None:
        found = self._raw.read(job_id)
        return RecordCopy(*found) if found else None

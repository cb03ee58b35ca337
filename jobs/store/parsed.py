"""Parsed records, so that a record which has not changed is validated once."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Mapping

from pydantic import ValidationError

from jobs.model.record import Job, job_from_hash

log = logging.getLogger(__name__)

_MOST = 1000


class ParsedRecords:
    """The jobs of the hashes that were read last, by id."""

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._known: OrderedDict[str, tuple[Mapping[str, str], Job | None]] = OrderedDict()

    def job(self, fields: Mapping[str, str]) -> Job | None:
        """The job; None for no record, or with a warning for one that cannot be read.

        One unreadable record must not hide the others. The same fields give the same object.
        """
        if not fields:
            return None
        job_id = fields.get("id", "")
        with self._lock:
            known = self._known.get(job_id)
            if known is not None and known[0] == fields:
                self._known.move_to_end(job_id)
                return known[1]
        job = _readable(fields)
        with self._lock:
            self._known[job_id] = (fields, job)
            while len(self._known) > self._most:
                self._known.popitem(last=False)
        return job


def _readable(fields: Mapping[str, str]) -> Job | None:
    try:
        return job_from_hash(fields)
    except ValidationError as error:
        log.warning("the record of job %s cannot be read: %s", fields.get("id"), error)
        return None

"""Loads a service over HTTP: many connections, few threads, and the time of each answer."""

from __future__ import annotations

import heapq
import http.client
import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode, urlsplit

from jobs.store.jobs import JobStore

_TIMEOUT = 60.0
# As api/page/static/js/poll.js: seconds between two polls, longer while nothing changes.
_FAST, _SLOW, _LONGER = 2.0, 30.0, 1.4
_SHOWN = 200

# Makes finished jobs as copies of one, inside Redis: their calls are not what is measured.
_COPY = """
local prefix, id, from, to = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local fields = redis.call('HGETALL', prefix .. 'job:' .. id)
for number = from, to do
  local copy = string.format('wave-%08d', number):gsub('0', 'b'):gsub('1', 'c')
  redis.call('HSET', prefix .. 'job:' .. copy, unpack(fields))
  redis.call('HSET', prefix .. 'job:' .. copy, 'id', copy, 'sequence', number)
  redis.call('ZADD', prefix .. 'jobs:all', number, copy)
  redis.call('ZADD', prefix .. 'jobs:state:succeeded', number, copy)
end
redis.call('SET', prefix .. 'sequence', to)
"""


class Caller:
    """One connection to a service, kept open."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(parts.netloc, timeout=_TIMEOUT)
        self._tags: dict[str, tuple[str, Any]] = {}

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """The JSON that a POST answers."""
        text = json.dumps(body).encode()
        self._connection.request("POST", path, text, {"Content-Type": "application/json"})
        return self._answer(path)

    def get(self, path: str, *, raw: bool = False, **query: Any) -> Any:
        """The JSON that a GET answers; what is known already is not sent again.

        `raw`: its bytes, since the pages that read them are on other machines.
        """
        if query:
            path = f"{path}?{urlencode(query)}"
        tag, _ = self._tags.get(path, ("", None))
        self._connection.request("GET", path, headers={"If-None-Match": tag} if tag else {})
        return self._answer(path, raw=raw)

    def _answer(self, path: str, *, raw: bool = False) -> Any:
        answer = self._connection.getresponse()
        data = answer.read()
        if answer.status == 304:
            return self._tags[path][1]
        if answer.status >= 400:
            raise RuntimeError(f"{path} answers {answer.status}: {data[:200]!r}")
        found = data if raw else json.loads(data)
        if tag := answer.headers.get("ETag"):
            self._tags[path] = tag, found
        return found

    def close(self) -> None:
        """Closes the connection."""
        self._connection.close()


@dataclass
class Page:
    """An open page of the dashboard's jobs: what it asks, and how long it waits in between."""

    caller: Caller
    after: str | None = None
    wait: float = _FAST
    seen: Any = None

    def poll(self) -> None:
        """One turn of its polling."""
        changed = False
        if self.after is None:
            self.after = self.caller.get("/v1/events", limit=1)["after"] or "0-0"
            self.caller.get("/v1/jobs", raw=True, limit=_SHOWN)
            changed = True
        page = self.caller.get("/v1/events", after=self.after, limit=1000)
        self.after = page["after"] or self.after
        touched = {event["job"] for event in page["events"]}
        if touched:
            changed = True
            self.caller.get("/v1/jobs", raw=True, limit=_SHOWN)
        running = self.caller.get("/v1/jobs", raw=True, state="running", limit=_SHOWN)
        changed = changed or running is not self.seen
        self.seen = running
        self.wait = _FAST if changed else min(_SLOW, self.wait * _LONGER)


@dataclass
class Pages:
    """Many open pages, each with a connection of its own, polled by a few threads."""

    url: str
    count: int
    threads: int = 8
    polls: int = 0
    took: list[float] = field(default_factory=list)  # milliseconds of each turn
    late: list[float] = field(default_factory=list)  # seconds after its time

    @contextmanager
    def open(self) -> Iterator[Pages]:
        """Polls until the end of the block."""
        lock, ended = threading.Lock(), threading.Event()
        now = time.monotonic()
        due = [
            (now + random.uniform(0, _FAST), number, Page(Caller(self.url)))
            for number in range(self.count)
        ]
        heapq.heapify(due)

        def work() -> None:
            while not ended.is_set():
                with lock:
                    at, number, page = heapq.heappop(due) if due else (0.0, 0, None)
                if page is None or (pause := at - time.monotonic()) > 0:
                    if page is not None:
                        with lock:
                            heapq.heappush(due, (at, number, page))
                    ended.wait(min(0.01, pause) if page is not None else 0.01)
                    continue
                begun = time.monotonic()
                page.poll()
                with lock:
                    self.late.append(begun - at)
                    self.took.append((time.monotonic() - begun) * 1e3)
                    self.polls += 1
                    heapq.heappush(due, (begun + page.wait, number, page))

        threads = [threading.Thread(target=work) for _ in range(self.threads)]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            ended.set()
            for thread in threads:
                thread.join()
            for _, _, page in due:
                page.caller.close()


def measured(
    url: str, call: Callable[[Caller], object], *, threads: int, times: int, pause: float = 0.0
) -> tuple[list[float], float]:
    """The milliseconds of each call, made `times` in all from several connections, and per second.

    `pause` are the seconds between two calls of a connection.
    """
    took: list[float] = []

    def work() -> None:
        caller = Caller(url)
        for _ in range(times // threads):
            begun = time.perf_counter()
            call(caller)
            took.append((time.perf_counter() - begun) * 1e3)
            if pause:
                time.sleep(pause)
        caller.close()

    workers = [threading.Thread(target=work) for _ in range(threads)]
    begun = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return took, len(took) / (time.perf_counter() - begun)


def fill(store: JobStore, job_id: str, count: int) -> None:
    """Makes so many copies of a finished job."""
    first = int(store.redis.get(store.keys.sequence)) + 1
    for start in range(first, first + count, 1000):
        end = min(start + 999, first + count - 1)
        store.redis.eval(_COPY, 0, store.prefix, job_id, start, end)


def percentile(values: list[float], part: float) -> float:
    """The value that so large a part of the values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]

"""Limits in the memory of a process: of requests, and of attempts with wrong tokens."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TypeVar

log = logging.getLogger(__name__)

_MOST = 10_000  # callers or addresses that are remembered
_BURST_SECONDS = 2.0
_FREE_ATTEMPTS, _LONGEST_DELAY, _FORGET_SECONDS = 5, 60.0, 900.0
_IPV6_BITS = 64  # one customer has at least so large a network

Clock = Callable[[], float]
Key = TypeVar("Key")
Value = TypeVar("Value")


class Rates:
    """Token buckets: a caller may save up the requests of two seconds."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # requests, and when

    def wait(self, key: str, per_second: float) -> int:
        """Takes one request; 0 if it is allowed, else the seconds after which one would be."""
        now, most = self._clock(), max(1.0, per_second * _BURST_SECONDS)
        with self._lock:
            left, since = self._left.get(key, (most, now))
            left = min(most, left + (now - since) * per_second)
            allowed = left >= 1
            _keep(self._left, key, (left - 1 if allowed else left, now))
        return 0 if allowed else math.ceil((1 - left) / per_second)


@dataclass(frozen=True)
class _Wrong:
    """Wrong tokens from one address, and until when it has to wait."""

    count: int
    last: float
    until: float


class Guesses:
    """Makes an address wait that sends wrong tokens again and again.

    A token that worked from there before goes on working: behind one address may be many people.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._wrong: OrderedDict[str, _Wrong] = OrderedDict()
        self._good: OrderedDict[tuple[str, str], None] = OrderedDict()

    def wait(self, address: str, token_id: str | None) -> int:
        """The seconds for which a request from an address is refused unseen; 0 for none."""
        place = _place(address)
        found = self._wrong.get(place)
        if found is None or (token_id is not None and (place, token_id) in self._good):
            return 0
        return max(0, math.ceil(found.until - self._clock()))

    def note_wrong(self, address: str) -> None:
        """Counts a wrong token; logs the fifth, the fiftieth and so on."""
        place, now = _place(address), self._clock()
        with self._lock:
            before = self._wrong.get(place)
            old = before is None or now - before.last > _FORGET_SECONDS
            count = 1 if before is None or old else before.count + 1
            over = count - _FREE_ATTEMPTS
            delay = 0.0 if over < 0 else min(_LONGEST_DELAY, 2.0 ** min(over, 10))
            _keep(self._wrong, place, _Wrong(count, now, now + delay))
        if over >= 0 and math.log10(count / _FREE_ATTEMPTS).is_integer():
            log.warning(
                "%d wrong tokens from %s: its next attempts wait up to %.0f s",
                count, address, _LONGEST_DELAY,
            )  # fmt: skip

    def note_good(self, address: str, token_id: str) -> None:
        """Notes that a token is used from an address."""
        pair = (_place(address), token_id)
        if pair not in self._good:
            with self._lock:
                _keep(self._good, pair, None)


def _keep(found: OrderedDict[Key, Value], key: Key, value: Value) -> None:
    """Sets an entry; forgets the one that was set longest ago if there are too many."""
    found[key] = value
    found.move_to_end(key)
    if len(found) > _MOST:
        found.popitem(last=False)


def _place(address: str) -> str:
    """An IPv4 address, or the network of an IPv6 address."""
    try:
        found = ip_address(address)
    except ValueError:
        return address
    if found.version == 4:
        return address
    return str(int(found) >> (128 - _IPV6_BITS))

"""The metadata services of clouds: each is asked whether this machine is about to go away."""

from __future__ import annotations

import contextlib
import http.client
import logging
import socket
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol
from urllib.parse import urlsplit

from worker.spot.notices import (
    Cloud,
    Notice,
    NotUnderstoodError,
    aws_notice,
    aws_rebalance,
    azure_notice,
    gcp_maintenance,
    gcp_preempted,
    http_time,
)

log = logging.getLogger(__name__)

# The same for all three; a name would have to be resolved, which may hang.
_ADDRESS = "http://169.254.169.254"
_SECONDS = 2.0
_MOST_BYTES = 1 << 20
_TOKEN_SECONDS = 21600
_GCP_WAIT_SECONDS = 10.0
# Azure's first answer may take two minutes: it enables the service for the machine.
_AZURE_FIRST_SECONDS = 150.0


@dataclass(frozen=True)
class Answer:
    """What the service said, and when by its own clock: that of the machine may be wrong."""

    status: int
    body: bytes
    headers: http.client.HTTPMessage

    @property
    def now(self) -> datetime:
        """The time at the service."""
        return http_time(self.headers.get("Date", "")) or datetime.now(UTC)


class MetadataService(Protocol):
    """The metadata service of one cloud; `pause` is the seconds between two looks."""

    pause: float

    def look(self) -> Notice | None:
        """The notice that stands; raises `OSError`, `HTTPException`, `NotUnderstoodError`."""


class Http:
    """Asks one address, never through a proxy, and never for longer than `seconds` a call."""

    def __init__(self, address: str, seconds: float) -> None:
        url = urlsplit(address or _ADDRESS)
        if url.scheme != "http" or not url.hostname:
            raise ValueError(f"no address of a metadata service: {address!r}")
        self._host, self._port = url.hostname, url.port or 80
        self._root = url.path.rstrip("/")
        self.seconds = seconds

    def ask(
        self, path: str, headers: dict[str, str], *, method: str = "GET", longer: float = 0.0
    ) -> Answer:
        """The answer; raises `OSError` or `HTTPException`. It may take so many seconds longer."""
        seconds = self.seconds + longer
        connection = http.client.HTTPConnection(self._host, self._port, timeout=seconds)
        late = threading.Event()
        try:
            connection.connect()
            # A time-out of the socket is one for each byte that drips in.
            timer = threading.Timer(seconds, _hang_up, [connection.sock, late])
            timer.daemon = True
            timer.start()
            try:
                connection.request(method, self._root + path, headers=headers)
                response = connection.getresponse()
                body = response.read(_MOST_BYTES)
            finally:
                timer.cancel()
            if response.length:  # half a word may be another one
                raise http.client.IncompleteRead(body)
        except (OSError, http.client.HTTPException):
            if not late.is_set():
                raise
        finally:
            connection.close()
        if late.is_set():
            raise TimeoutError(f"no whole answer within {seconds:g} s")
        return Answer(response.status, body, response.headers)

    def get(self, path: str, headers: dict[str, str], *, longer: float = 0.0) -> Answer:
        """The answer with status 200; raises `NotUnderstoodError` for every other one too."""
        answer = self.ask(path, headers, longer=longer)
        if answer.status != http.HTTPStatus.OK:
            raise NotUnderstoodError(f"status {answer.status} for {path}")
        return answer


def _hang_up(connected: socket.socket, late: threading.Event) -> None:
    late.set()
    with contextlib.suppress(OSError):
        connected.shutdown(socket.SHUT_RDWR)


class Aws:
    """IMDSv2: a token first; the notice is not there (404) until there is one."""

    pause = 5.0  # as AWS recommends

    def __init__(self, asked: Http) -> None:
        self._http = asked
        self._token = ""
        self._recommended = False

    def look(self) -> Notice | None:
        """The notice that stands."""
        answer = self._ask("/latest/meta-data/spot/instance-action")
        if answer is not None:
            return aws_notice(answer.body, answer.now)
        if not self._recommended:
            with contextlib.suppress(NotUnderstoodError):  # it would only be told
                self._look_for_recommendation()
        return None

    def _look_for_recommendation(self) -> None:
        answer = self._ask("/latest/meta-data/events/recommendations/rebalance")
        if answer is not None:
            at = aws_rebalance(answer.body)
            log.info("AWS recommends since %s to leave this machine, which it may take sooner than "
                     "others; the worker goes on", f"{at:%H:%M:%S} UTC")  # fmt: skip
            self._recommended = True

    def _ask(self, path: str) -> Answer | None:
        """The answer with the token of this session, or a new one; None for what is not there."""
        if not self._token:
            self._token = self._new_token()
        answer = self._http.ask(path, {"X-aws-ec2-metadata-token": self._token})
        if answer.status == http.HTTPStatus.UNAUTHORIZED:  # it has expired
            self._token = self._new_token()
            answer = self._http.ask(path, {"X-aws-ec2-metadata-token": self._token})
        if answer.status == http.HTTPStatus.NOT_FOUND:
            return None
        if answer.status != http.HTTPStatus.OK:
            raise NotUnderstoodError(f"status {answer.status} for {path}")
        return answer

    def _new_token(self) -> str:
        headers = {"X-aws-ec2-metadata-token-ttl-seconds": str(_TOKEN_SECONDS)}
        answer = self._http.ask("/latest/api/token", headers, method="PUT")
        token = answer.body.decode("latin-1").strip()
        if answer.status != http.HTTPStatus.OK or not token.isprintable() or not token:
            raise NotUnderstoodError(f"status {answer.status} for a token")
        return token


class Gcp:
    """A call that comes back when the value changes, so that 30 seconds are 30 seconds."""

    pause = 0.5

    def __init__(self, asked: Http, wait_seconds: float) -> None:
        self._http = asked
        self._wait_seconds = wait_seconds
        self._etag = ""

    def look(self) -> Notice | None:
        """The notice that stands; waits for one for some seconds."""
        path, longer = "preempted", 0.0
        if self._etag:
            longer = self._wait_seconds
            path += f"?wait_for_change=true&timeout_sec={longer:g}&last_etag={self._etag}"
        preempted = self._get(path, longer=longer)
        if (notice := gcp_preempted(preempted.body)) is not None:
            return notice
        etag = preempted.headers.get("ETag", "").strip()
        self._etag = etag if etag.isalnum() else ""
        return gcp_maintenance(self._get("maintenance-event").body)

    def _get(self, path: str, *, longer: float = 0.0) -> Answer:
        answer = self._http.get(
            f"/computeMetadata/v1/instance/{path}", {"Metadata-Flavor": "Google"}, longer=longer
        )
        if answer.headers.get("Metadata-Flavor") != "Google":
            raise NotUnderstoodError("this is not the metadata server of Google")
        return answer


class Azure:
    """Scheduled Events; they are never acknowledged, for that would let them begin sooner."""

    pause = 1.0

    def __init__(self, asked: Http) -> None:
        self._http = asked
        self._name = ""
        self._enabled = False

    def look(self) -> Notice | None:
        """The notice that stands for this virtual machine."""
        if not self._name:
            name = self._get("instance/compute/name?api-version=2021-02-01&format=text")
            self._name = name.body.decode(errors="replace").strip()
            if not self._name:
                raise NotUnderstoodError("a virtual machine without a name")
        longer = 0.0 if self._enabled else _AZURE_FIRST_SECONDS
        answer = self._get("scheduledevents?api-version=2020-07-01", longer=longer)
        notice = azure_notice(answer.body, self._name, answer.now)
        self._enabled = True
        return notice

    def _get(self, path: str, *, longer: float = 0.0) -> Answer:
        return self._http.get(f"/metadata/{path}", {"Metadata": "true"}, longer=longer)


def open_service(
    cloud: Cloud,
    address: str,
    *,
    seconds: float = _SECONDS,
    wait_seconds: float = _GCP_WAIT_SECONDS,
) -> MetadataService:
    """The metadata service of a cloud, at another address than its own where one is given.

    A call takes `seconds` at most, and `wait_seconds` more where it waits for a change.
    """
    asked = Http(address, seconds)
    match cloud:
        case "aws":
            return Aws(asked)
        case "gcp":
            return Gcp(asked, wait_seconds)
        case "azure":
            return Azure(asked)

"""Clients of the clouds' metadata services, which announce the end of a spot machine."""

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
    InvalidAnswerError,
    Notice,
    aws_notice,
    aws_rebalance,
    azure_notice,
    gcp_maintenance,
    gcp_preempted,
    http_time,
)

log = logging.getLogger(__name__)

# The same for all three clouds. Not a host name, since resolving one may hang.
_ADDRESS = "http://169.254.169.254"
_SECONDS = 2.0
_MOST_BYTES = 1 << 20
_TOKEN_SECONDS = 21600
_GCP_WAIT_SECONDS = 10.0
# Azure's first answer may take two minutes: it enables the service for the machine.
_AZURE_FIRST_SECONDS = 150.0


@dataclass(frozen=True)
class Answer:
    """An answer of the service, with its own time: the machine's clock may be wrong."""

    status: int
    body: bytes
    headers: http.client.HTTPMessage

    @property
    def now(self) -> datetime:
        """The time by the service's clock."""
        return http_time(self.headers.get("Date", "")) or datetime.now(UTC)


class MetadataService(Protocol):
    """The metadata service of one cloud; `pause` is the time between two polls in seconds."""

    pause: float

    def poll(self) -> Notice | None:
        """The current notice; raises `OSError`, `HTTPException`, `InvalidAnswerError`."""


class Http:
    """Calls one address, never through a proxy, and for at most `seconds` per call."""

    def __init__(self, address: str, seconds: float) -> None:
        url = urlsplit(address or _ADDRESS)
        if url.scheme != "http" or not url.hostname:
            raise ValueError(f"not the address of a metadata service: {address!r}")
        self._host, self._port = url.hostname, url.port or 80
        self._root = url.path.rstrip("/")
        self.seconds = seconds

    def call(
        self, path: str, headers: dict[str, str], *, method: str = "GET", longer: float = 0.0
    ) -> Answer:
        """The answer; raises `OSError` or `HTTPException`. It may take `longer` seconds more."""
        seconds = self.seconds + longer
        connection = http.client.HTTPConnection(self._host, self._port, timeout=seconds)
        expired = threading.Event()
        try:
            connection.connect()
            # The socket's timeout starts anew with every byte: a slow answer never reaches it.
            timer = threading.Timer(seconds, _hang_up, [connection.sock, expired])
            timer.daemon = True
            timer.start()
            try:
                connection.request(method, self._root + path, headers=headers)
                response = connection.getresponse()
                body = response.read(_MOST_BYTES)
            finally:
                timer.cancel()
            if response.length:  # a truncated answer may look like another one
                raise http.client.IncompleteRead(body)
        except (OSError, http.client.HTTPException):
            if not expired.is_set():
                raise
        finally:
            connection.close()
        if expired.is_set():
            raise TimeoutError(f"no complete answer within {seconds:g} s")
        return Answer(response.status, body, response.headers)

    def get(self, path: str, headers: dict[str, str], *, longer: float = 0.0) -> Answer:
        """The answer with status 200; also raises `InvalidAnswerError` for any other status."""
        answer = self.call(path, headers, longer=longer)
        if answer.status != http.HTTPStatus.OK:
            raise InvalidAnswerError(f"status {answer.status} for {path}")
        return answer


def _hang_up(connected: socket.socket, expired: threading.Event) -> None:
    expired.set()
    with contextlib.suppress(OSError):
        connected.shutdown(socket.SHUT_RDWR)


class Aws:
    """IMDSv2: needs a session token; without a notice the answer is 404."""

    pause = 5.0  # as AWS recommends

    def __init__(self, client: Http) -> None:
        self._http = client
        self._token = ""
        self._recommended = False

    def poll(self) -> Notice | None:
        """The current notice."""
        answer = self._get("/latest/meta-data/spot/instance-action")
        if answer is not None:
            return aws_notice(answer.body, answer.now)
        if not self._recommended:
            with contextlib.suppress(InvalidAnswerError):  # it would only be logged
                self._poll_recommendation()
        return None

    def _poll_recommendation(self) -> None:
        answer = self._get("/latest/meta-data/events/recommendations/rebalance")
        if answer is not None:
            at = aws_rebalance(answer.body)
            log.info("AWS recommends a rebalance (since %s): it may interrupt this machine "
                     "sooner than others; the worker continues", f"{at:%H:%M:%S} UTC")  # fmt: skip
            self._recommended = True

    def _get(self, path: str) -> Answer | None:
        """The answer, with a new session token if the last one has expired; None for status 404."""
        if not self._token:
            self._token = self._new_token()
        answer = self._http.call(path, {"X-aws-ec2-metadata-token": self._token})
        if answer.status == http.HTTPStatus.UNAUTHORIZED:  # it has expired
            self._token = self._new_token()
            answer = self._http.call(path, {"X-aws-ec2-metadata-token": self._token})
        if answer.status == http.HTTPStatus.NOT_FOUND:
            return None
        if answer.status != http.HTTPStatus.OK:
            raise InvalidAnswerError(f"status {answer.status} for {path}")
        return answer

    def _new_token(self) -> str:
        headers = {"X-aws-ec2-metadata-token-ttl-seconds": str(_TOKEN_SECONDS)}
        answer = self._http.call("/latest/api/token", headers, method="PUT")
        token = answer.body.decode("latin-1").strip()
        if answer.status != http.HTTPStatus.OK or not token.isprintable() or not token:
            raise InvalidAnswerError(f"status {answer.status} for a session token")
        return token


class Gcp:
    """Long polling: the call returns when the value changes, so no part of the 30 s is lost."""

    pause = 0.5

    def __init__(self, client: Http, wait_seconds: float) -> None:
        self._http = client
        self._wait_seconds = wait_seconds
        self._etag = ""

    def poll(self) -> Notice | None:
        """The current notice; waits a few seconds for one."""
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
            raise InvalidAnswerError("this is not Google's metadata server")
        return answer


class Azure:
    """Scheduled Events; never acknowledged, since that would let them begin sooner."""

    pause = 1.0

    def __init__(self, client: Http) -> None:
        self._http = client
        self._name = ""
        self._enabled = False

    def poll(self) -> Notice | None:
        """The current notice for this virtual machine."""
        if not self._name:
            name = self._get("instance/compute/name?api-version=2021-02-01&format=text")
            self._name = name.body.decode(errors="replace").strip()
            if not self._name:
                raise InvalidAnswerError("the virtual machine has no name")
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
    """The metadata service of a cloud, at `address` or, if that is empty, at its usual address.

    A call takes at most `seconds`, and `wait_seconds` more if it waits for a change.
    """
    client = Http(address, seconds)
    match cloud:
        case "aws":
            return Aws(client)
        case "gcp":
            return Gcp(client, wait_seconds)
        case "azure":
            return Azure(client)

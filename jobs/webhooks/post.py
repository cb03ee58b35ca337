"""Sends one POST to an address that a stranger chose: checked, timed, without redirects.

The address that was checked is the one that is connected to. So a name that points elsewhere a
moment later (DNS rebinding) leads nowhere else.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

import httpcore
import httpx

from jobs.webhooks.address import resolve

_SECONDS = 10.0  # from the first byte to the status, however slowly they come


class NotDeliveredError(Exception):
    """A notice was not accepted; the message says why. `for_good`: it never will be."""

    def __init__(self, why: str, *, for_good: bool = False) -> None:
        super().__init__(why)
        self.for_good = for_good


class Poster:
    """Sends notices; `anywhere`: also to private addresses."""

    def __init__(self, *, anywhere: bool, seconds: float = _SECONDS) -> None:
        self._anywhere = anywhere
        self._seconds = seconds
        self._ssl = httpx.create_ssl_context()

    def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> None:
        """Sends a body; raises `NotDeliveredError` unless the answer is a 2xx."""
        backend = _Guarded(anywhere=self._anywhere, until=time.monotonic() + self._seconds)
        timeout = dict.fromkeys(("connect", "read", "write", "pool"), self._seconds)
        try:
            with (
                httpcore.ConnectionPool(self._ssl, network_backend=backend) as pool,
                pool.stream(
                    "POST", url, headers=_pairs(url, headers, body), content=body,
                    extensions={"timeout": timeout},
                ) as answer,
            ):  # fmt: skip
                status = answer.status
        except Exception as error:  # whatever an odd host or answer causes is a failed try
            raise NotDeliveredError(_why(error)) from error
        if 300 <= status < 400:
            raise NotDeliveredError(f"it answers {status}, and redirects are not followed")
        if not 200 <= status < 300:
            raise NotDeliveredError(f"it answers {status}", for_good=status == 410)


class _Guarded(httpcore.NetworkBackend):
    """Connects to the addresses that were checked, until a deadline (monotonic seconds)."""

    def __init__(self, *, anywhere: bool, until: float) -> None:
        self._anywhere = anywhere
        self._until = until
        self._plain = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """A connection to the first address that answers."""
        failed: Exception = OSError(f"{host} has no address")
        for address in resolve(host, port, anywhere=self._anywhere):
            try:
                stream = self._plain.connect_tcp(
                    address, port, _left(self._until), local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failed = error
            else:
                return _Timed(stream, self._until)
        raise failed

    def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore.NetworkStream:
        """No URL leads to one."""
        raise OSError("no webhook goes to a socket of this machine")


class _Timed(httpcore.NetworkStream):
    """A connection whose operations end by a deadline, however slowly the other side sends."""

    def __init__(self, stream: httpcore.NetworkStream, until: float) -> None:
        self._stream = stream
        self._until = until

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Reads what is there."""
        return self._stream.read(max_bytes, _left(self._until))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Writes all of it."""
        self._stream.write(buffer, _left(self._until))

    def close(self) -> None:
        """Closes the connection."""
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        """The same connection, encrypted; the certificate is that of the host's name."""
        stream = self._stream.start_tls(ssl_context, server_hostname, _left(self._until))
        return _Timed(stream, self._until)

    def get_extra_info(self, info: str) -> Any:
        """What is known of the connection."""
        return self._stream.get_extra_info(info)


def _left(until: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise httpcore.ReadTimeout("it took too long")
    return left


def _pairs(url: str, headers: Mapping[str, str], body: bytes) -> list[tuple[bytes, bytes]]:
    whole = {"Host": urlsplit(url).netloc, **headers, "Content-Length": str(len(body))}
    return [(name.encode(), value.encode()) for name, value in whole.items()]


def _why(error: Exception) -> str:
    if isinstance(error, httpcore.TimeoutException):
        return "it did not answer in time"
    return str(error) or repr(error)

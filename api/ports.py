"""Ports of this machine: bind one, or name the process that already holds it."""

from __future__ import annotations

import errno
import socket

import psutil

_BACKLOG = 2048
_NEIGHBOURS = 100


class CannotListenError(Exception):
    """No server can listen on the address; the message says why, and what to change."""


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens on `host` and `port` (0: any free port).

    It reserves the port even before a server accepts connections on it. Raises
    `CannotListenError`.
    """
    try:
        family, address = _resolve(host, port)
        return _bound(family, address)
    except socket.gaierror as error:
        raise CannotListenError(
            f"host {host!r} is not an address of this machine ({error.strerror}); change --host"
        ) from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise CannotListenError(in_use(port, f"try --port {_next_free(host, port)}")) from None
        option = "--host" if error.errno == errno.EADDRNOTAVAIL else "--port"
        raise CannotListenError(
            f"cannot listen on {join(host, port)} ({error.strerror}); change {option}"
        ) from None


def in_use(port: int, advice: str) -> str:
    """A message that names the process on `port`, if the system reveals it."""
    name = holder(port)
    return f"port {port} is in use{f' (by {name})' if name else ''}; {advice}"


def holder(port: int) -> str | None:
    """The name and id of the process that listens on `port`; None if there is none."""
    try:
        found = [c for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    except psutil.Error:
        return None
    pids = {c.pid for c in found if c.laddr and c.laddr.port == port}
    for pid in sorted(pid for pid in pids if pid is not None):
        try:
            return f"{psutil.Process(pid).name()}, process {pid}"
        except psutil.Error:
            continue
    return "a process of another user" if pids else None


def join(host: str, port: int) -> str:
    """`host:port` as in a URL: an IPv6 address gets brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _resolve(host: str, port: int) -> tuple[socket.AddressFamily, tuple[object, ...]]:
    """Family and address of `host`; IPv4 if a name has both."""
    name = host.removeprefix("[").removesuffix("]") or None
    found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, *_, address = min(found, key=lambda one: one[0] is not socket.AF_INET)
    return family, address


def _bound(family: socket.AddressFamily, address: tuple[object, ...]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        # Closed connections of an earlier server (TIME_WAIT) do not block the port.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(_BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _next_free(host: str, port: int) -> int:
    """The next free port after `port`, or any free one."""
    for number in (*range(port + 1, min(port + _NEIGHBOURS, 65536)), 0):
        try:
            with _bound(*_resolve(host, number)) as sock:
                return int(sock.getsockname()[1])
        except OSError:
            continue
    return 0

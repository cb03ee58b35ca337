"""Ports of this machine: a socket that holds one, or the name of the process that already does."""

from __future__ import annotations

import errno
import socket

import psutil

_BACKLOG = 2048
_NEIGHBOURS = 100


class CannotListenError(Exception):
    """No server can listen on the address; the message says why and what to change."""


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens on `host` and `port` (0: any that is free).

    From here on no other process can take the port, however late the server starts that accepts the
    connections. Raises `CannotListenError`.
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
    """A sentence that says which process holds `port`, as far as that can be known."""
    name = holder(port)
    return f"port {port} is in use{f' (by {name})' if name else ''}; {advice}"


def holder(port: int) -> str | None:
    """The process that listens on `port`, in words; None where no process does."""
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
    """`host:port`, as a URL writes it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _resolve(host: str, port: int) -> tuple[socket.AddressFamily, tuple[object, ...]]:
    """Family and address of `host`: IPv4 where a name has both."""
    name = host.removeprefix("[").removesuffix("]") or None
    found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, *_, address = min(found, key=lambda one: one[0] is not socket.AF_INET)
    return family, address


def _bound(family: socket.AddressFamily, address: tuple[object, ...]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        # Connections that an earlier server has closed do not hold the port.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(_BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _next_free(host: str, port: int) -> int:
    """The next port that is free, or any."""
    for number in (*range(port + 1, min(port + _NEIGHBOURS, 65536)), 0):
        try:
            with _bound(*_resolve(host, number)) as sock:
                return int(sock.getsockname()[1])
        except OSError:
            continue
    return 0

"""Certificates of an authority of one's own, and a proxy that ends TLS before a plain server."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import select
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_BLOCK = 1 << 16


def make_certificate(directory: Path, host: str = "127.0.0.1") -> tuple[Path, Path]:
    """A certificate for an address that nobody else has signed, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a store of ones own")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address(host))
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    directory.mkdir(parents=True, exist_ok=True)
    public, private = directory / "cert.pem", directory / "key.pem"
    public.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return public, private


@contextlib.contextmanager
def tls_in_front_of(port: int, certificate: tuple[Path, Path]) -> Iterator[int]:
    """The port of a proxy that speaks TLS and passes all on to a plain port of this machine."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_accept, args=(listener, context, port), daemon=True).start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def _accept(listener: socket.socket, context: ssl.SSLContext, port: int) -> None:
    with contextlib.suppress(OSError):
        while True:
            plain, _ = listener.accept()
            threading.Thread(target=_serve, args=(plain, context, port), daemon=True).start()


def _serve(plain: socket.socket, context: ssl.SSLContext, port: int) -> None:
    with contextlib.suppress(OSError), plain:
        plain.settimeout(60)
        with (
            context.wrap_socket(plain, server_side=True) as outer,
            socket.create_connection(("127.0.0.1", port)) as inner,
        ):
            outer.setblocking(False)
            _relay(outer, inner)


def _relay(outer: ssl.SSLSocket, inner: socket.socket) -> None:
    """Passes bytes on until one side closes. One thread: a TLS socket takes no two at once."""
    to_inner, to_outer = b"", b""
    inner.setblocking(False)
    while True:
        wanted = [s for s, pending in ((outer, to_inner), (inner, to_outer)) if not pending]
        full = [s for s, pending in ((inner, to_inner), (outer, to_outer)) if pending]
        if not outer.pending() or to_inner:
            select.select(wanted, full, [], 60)
        with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError):
            if not to_inner and not (to_inner := outer.recv(_BLOCK)):
                return
        with contextlib.suppress(BlockingIOError):
            if to_inner:
                to_inner = to_inner[inner.send(to_inner) :]
        with contextlib.suppress(BlockingIOError):
            if not to_outer and not (to_outer := inner.recv(_BLOCK)):
                return
        with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):
            if to_outer:
                to_outer = to_outer[outer.send(to_outer) :]

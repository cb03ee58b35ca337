"""The API of Kubernetes, as far as our programs call it, over TLS by an authority of its own."""

from __future__ import annotations

import datetime
import ipaddress
import json
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

Object = dict[str, Any]


class KubernetesServer:
    """Objects by their path, for the bearer of a token.

    `refuses` is the status of every answer until it is None again; `calls` holds those that were.
    """

    def __init__(self, directory: Path, address: str = "127.0.0.1") -> None:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                token, kind = self.headers["Authorization"], self.headers["Content-Type"]
                status, found = server.answer(self.command, self.path, token, kind, body)
                text = json.dumps(found).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def do_GET(self) -> None:
                self._answer()

            def do_POST(self) -> None:
                self._answer()

            def do_PATCH(self) -> None:
                self._answer()

            def log_message(self, *_: object) -> None:
                pass

        self.address = address
        self.credentials = directory / "credentials"
        self.credentials.mkdir()
        self.token("first")
        certificate, key = _certificate(directory, address)
        (self.credentials / "ca.crt").write_bytes(certificate.read_bytes())
        self.objects: dict[str, Object] = {}
        self.calls: list[int] = []
        self.refuses: int | None = None
        self._server = ThreadingHTTPServer((address, 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=[0.05])
        self._thread.start()

    def token(self, text: str) -> None:
        """Sets the token that the server accepts, and that is mounted."""
        self._token = text
        (self.credentials / "token").write_text(text + "\n")

    @property
    def environment(self) -> dict[str, str]:
        """What a pod of the namespace `ml` finds in its environment."""
        return {
            "POD_NAMESPACE": "ml",
            "KUBERNETES_SERVICE_HOST": self.address,
            "KUBERNETES_SERVICE_PORT": str(self._server.server_port),
        }

    def answer(
        self, method: str, path: str, token: str, kind: str, body: bytes
    ) -> tuple[int, Object]:
        """Status and body of the answer to a call."""
        status, found = (
            (self.refuses, {}) if self.refuses else self._call(method, path, token, kind, body)
        )
        self.calls.append(status)
        return status, found or {"kind": "Status", "code": status}

    def _call(
        self, method: str, path: str, token: str, kind: str, body: bytes
    ) -> tuple[int, Object]:
        if token != f"Bearer {self._token}":
            return 401, {}
        if method == "POST":
            made = json.loads(body)
            path = f"{path}/{made['metadata']['name']}"
            if path in self.objects:
                return 409, {}
            self.objects[path] = made
            return 201, made
        if path not in self.objects:
            return 404, {}
        if method == "PATCH":
            if kind != "application/merge-patch+json":
                return 415, {}
            self.objects[path] = _merged(self.objects[path], json.loads(body))
        return 200, self.objects[path]

    def close(self) -> None:
        """Ends the server."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _merged(old: Any, change: Any) -> Any:
    """A JSON merge patch (RFC 7386)."""
    if not isinstance(change, dict):
        return change
    merged = dict(old) if isinstance(old, dict) else {}
    for key, value in change.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merged(merged.get(key), value)
    return merged


def _certificate(directory: Path, address: str) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kubernetes")])
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    host = x509.IPAddress(ipaddress.ip_address(address))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .add_extension(x509.SubjectAlternativeName([host]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        # Python 3.13 asks for these of an authority.
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.KeyUsage(
                digital_signature=True,
                key_cert_sign=True,
                crl_sign=True,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (directory / "tls.crt").write_bytes(certificate.public_bytes(pem))
    private = serialization.PrivateFormat.PKCS8
    (directory / "tls.key").write_bytes(
        key.private_bytes(pem, private, serialization.NoEncryption())
    )
    return directory / "tls.crt", directory / "tls.key"

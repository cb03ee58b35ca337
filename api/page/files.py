"""The files of the dashboard, read once, compressed and named by their content."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template

STATIC = Path(__file__).parent / "static"
_INDEX = "index.html"
_KINDS = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    "": "text/plain; charset=utf-8",  # licences
}


@dataclass(frozen=True)
class PageFile:
    """One file as it is sent."""

    body: bytes
    compressed: bytes
    kind: str
    etag: str
    immutable: bool


def read_page(root: Path = STATIC) -> Mapping[str, PageFile]:
    """Every file of the dashboard, by the path at which it is served.

    All but the first page lie below `/page/VERSION/`, where VERSION is a hash of them all. So a
    browser keeps them for good, and a new version of the service never mixes with an old one.
    """
    bodies = {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.suffix in _KINDS
    }
    whole = hashlib.sha256()
    for name, body in bodies.items():
        whole.update(f"{name} {len(body)}\n".encode() + body)
    version = whole.hexdigest()[:16]
    modules = [name for name in bodies if name.startswith("js/")]
    links = [f'<link rel="modulepreload" href="page/{version}/{name}">' for name in modules]
    index = Template(bodies.pop(_INDEX).decode())
    page = index.substitute(files=f"page/{version}", preload="\n    ".join(links)).encode()
    kept = {
        f"/page/{version}/{name}": _file(name, body, immutable=True)
        for name, body in bodies.items()
    }
    return {"/": _file(_INDEX, page, immutable=False), **kept}


def _file(name: str, body: bytes, *, immutable: bool) -> PageFile:
    return PageFile(
        body=body,
        compressed=gzip.compress(body, mtime=0),
        kind=_KINDS[Path(name).suffix],
        etag=hashlib.sha256(body).hexdigest()[:32],
        immutable=immutable,
    )

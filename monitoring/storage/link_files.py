"""Links on file systems without symbolic links: small files that name their target.

Their format is that of macOS and of Linux's `mount.cifs -o mfsymlinks` ("XSym"): what knows it
shows them as symbolic links. They are told by their size, so that no other file is read to find
them.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

_SIZE = 1067  # bytes, always
_LONGEST = 1024  # bytes of a target


def encode(target: str) -> bytes:
    """The content of a link to `target`; raises ValueError if that is too long."""
    name = target.encode()
    if len(name) > _LONGEST:
        raise ValueError(f"a link to {target!r} is too long")
    # Hex digits of an MD5 sum belong to the format; they protect nothing.
    digest = hashlib.md5(name, usedforsecurity=False).hexdigest()
    text = f"XSym\n{len(name):04d}\n{digest}\n".encode() + name
    return (text if len(name) == _LONGEST else text + b"\n").ljust(_SIZE)


def decode(data: bytes) -> str | None:
    """The target in the content of a link file, which is a neighbor; None for any other file."""
    try:
        target = data[43 : 43 + int(data[5:9])].decode()
        is_link = len(data) == _SIZE and encode(target) == data
    except ValueError:
        return None
    return target if is_link and "/" not in target and target not in {"", ".", ".."} else None


def target_of(path: Path, size: int) -> str | None:
    """The target of a file of this size if it is a link; raises `OSError`."""
    return decode(path.read_bytes()) if size == _SIZE else None

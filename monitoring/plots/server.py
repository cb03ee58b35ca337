"""The drawing process: reads requests on its standard input and answers on its output.

A request is four bytes of length and a pickle of `(function, path, arguments)`. An answer is the
same with an error message or None. Requests come from the parent, the training process, through a
pipe that no other process has. This process ends when the pipe is closed.
"""

from __future__ import annotations

import gc
import os
import pickle
import signal
import struct
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import IO, Any

LENGTH = struct.Struct("<I")
_NICENESS = 10  # drawing must not slow down training


def send(stream: IO[bytes], message: Any) -> None:
    """Write one message. Raises OSError if the other end is closed."""
    data = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    rest = memoryview(LENGTH.pack(len(data)) + data)
    while rest:  # an unbuffered pipe may accept only a part
        rest = rest[stream.write(rest) :]
    stream.flush()


def receive(stream: IO[bytes]) -> Any:
    """Read one message. Raises EOFError if the other end is closed."""
    length = LENGTH.unpack(_read(stream, LENGTH.size))[0]
    return pickle.loads(_read(stream, length))  # noqa: S301  the parent wrote it


def _read(stream: IO[bytes], size: int) -> bytes:
    parts = []
    while size:
        part = stream.read(size)
        if not part:
            raise EOFError
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def draw(function: str, path: Path, arguments: dict[str, Any]) -> str | None:
    """Draw one figure; return an error message or None."""
    try:
        from monitoring.plots import figures  # noqa: PLC0415  matplotlib is imported here only

        path.parent.mkdir(parents=True, exist_ok=True)
        figures.save(getattr(figures, function), path, arguments)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def main() -> None:
    """Serve requests until the pipe is closed."""
    # A stop request goes to the whole process group, but the last plots are still to be drawn.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(_NICENESS)
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    # The output of a library must not be read as an answer.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    with suppress(ImportError):  # reported with the first picture
        import_module("monitoring.plots.figures")
    gc.freeze()  # the modules of matplotlib are never collected
    gc.disable()  # garbage is collected after each picture
    while True:
        try:
            function, path, arguments = receive(requests)
            send(answers, draw(function, path, arguments))
        except (EOFError, OSError):
            return
        gc.collect()


if __name__ == "__main__":
    main()

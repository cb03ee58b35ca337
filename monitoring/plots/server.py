"""The process that draws: reads figures' data on its standard input, answers on its output.

A message is four bytes of length and a pickle of `(function, path, arguments)`; the answer is
the same with an error text or None. It comes from the training process that started this one,
through a pipe nobody else has. The process ends when that pipe does, whatever ended the other.
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
_NICENESS = 10  # drawing must not take the processor from training


def send(stream: IO[bytes], message: Any) -> None:
    """Write one message. Raises OSError when nobody reads."""
    data = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    rest = memoryview(LENGTH.pack(len(data)) + data)
    while rest:  # a pipe without a buffer may take a part
        rest = rest[stream.write(rest) :]
    stream.flush()


def receive(stream: IO[bytes]) -> Any:
    """Read one message. Raises EOFError when nobody writes any more."""
    length = LENGTH.unpack(_read(stream, LENGTH.size))[0]
    return pickle.loads(_read(stream, length))  # noqa: S301  our own parent wrote it


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
    """Draw one figure; what went wrong, if anything did."""
    try:
        from monitoring.plots import figures  # noqa: PLC0415  matplotlib, only where something is drawn

        path.parent.mkdir(parents=True, exist_ok=True)
        figures.save(getattr(figures, function), path, arguments)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def main() -> None:
    """Draw until the other end of the pipe is closed."""
    # A stop request goes to the whole process group, but the last plots are still wanted.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(_NICENESS)
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints is no answer
    with suppress(ImportError):  # which the first picture says
        import_module("monitoring.plots.figures")
    gc.freeze()  # matplotlib stays
    gc.disable()  # what a picture leaves is collected after it
    while True:
        try:
            function, path, arguments = receive(requests)
            send(answers, draw(function, path, arguments))
        except (EOFError, OSError):
            return
        gc.collect()


if __name__ == "__main__":
    main()

"""The command, environment and directory of a training process, as sent to its guard."""

from __future__ import annotations

import json
import signal
import socket
import struct
from dataclasses import asdict, dataclass
from pathlib import Path

from worker.launch.rights import AS_THE_WORKER, Rights

_LENGTH = struct.Struct("<I")


@dataclass(frozen=True)
class Launch:
    """How to start an attempt's child."""

    command: list[str]
    env: dict[str, str]
    cwd: Path
    stop_signal: signal.Signals = signal.SIGTERM
    note: Path | None = None  # of the attempt; the guard holds it (`worker.losses.note`)
    group: Path | None = None  # the control group that the program joins (`worker.launch.group`)
    rights: Rights = AS_THE_WORKER

    def send(self, to: socket.socket) -> None:
        """Sends the launch to a guard; raises `OSError`."""
        paths = [None if path is None else str(path) for path in (self.note, self.group)]
        rights = asdict(self.rights)
        fields = [self.command, self.env, str(self.cwd), self.stop_signal, rights, *paths]
        data = json.dumps(fields).encode()
        to.sendall(_LENGTH.pack(len(data)) + data)

    @classmethod
    def receive(cls, source: socket.socket) -> Launch | None:
        """Receives a launch; None if the other end has closed."""
        with source.makefile("rb", buffering=0) as file:
            head = _read(file, _LENGTH.size)
            data = _read(file, _LENGTH.unpack(head)[0]) if head else b""
        if not data:
            return None
        command, env, cwd, stop_signal, rights, *paths = json.loads(data)
        note, group = (None if path is None else Path(path) for path in paths)
        taken = Rights(**{**rights, "groups": tuple(rights["groups"])})
        return cls(command, env, Path(cwd), signal.Signals(stop_signal), note, group, taken)


def _read(file: socket.SocketIO, size: int) -> bytes:
    """Exactly `size` bytes, or none at the end."""
    data = bytearray()
    while len(data) < size:
        piece = file.read(size - len(data))
        if not piece:
            return b""
        data += piece
    return bytes(data)

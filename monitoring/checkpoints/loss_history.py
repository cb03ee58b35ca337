"""The loss history in a checkpoint file: a list for every reader, at the cost of copying bytes.

`torch.load` returns a list of floats. But `torch.save` calls back into Python for each number of a
list, which holds the interpreter lock for 0.6 s per million, and a safe load parses each number in
Python, which takes 7 s. So the opcodes that pickle would write (`G` and eight bytes for each
number) are computed in bulk and written at the end of the pickle, and they are replaced before
torch reads the file here.
"""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, cast

import numpy as np

from monitoring.arrays import Array

KEY = "loss_history"
# Opcodes: a string, an empty list and a mark; a float; append them, set the item, stop.
_BEGIN = b"X\x0c\x00\x00\x00loss_history]("
_FLOAT = ord("G")
_WIDTH = 9
_END = b"es."
_TEXT = b"X"  # a string with four bytes of length, which replaces the list
_AT_ONCE = 4096  # losses converted at once, in the processor's cache
_MANY = 10_000  # losses; fewer are left to torch
_ROOT = "data.pkl"
_HEADER = 30  # bytes of a zip record's header before its name; its last four are two lengths


class Losses:
    """The losses of a checkpoint: a float64 array that does not change."""

    def __init__(self, values: Array) -> None:
        self.values = values

    def opcodes(self) -> Iterator[memoryview]:
        """Yield the opcodes of these floats in parts; in between, other threads may run."""
        for start in range(0, len(self.values), _AT_ONCE):
            values = self.values[start : start + _AT_ONCE]
            written = np.empty((len(values), _WIDTH), np.uint8)
            written[:, 0] = _FLOAT
            written[:, 1:] = values.astype(">f8").view(np.uint8).reshape(-1, _WIDTH - 1)
            yield written.data.cast("B")


class LossHistory:
    """Converts the losses of a run to `Losses`; each save converts only the new ones."""

    def __init__(self) -> None:
        self._floats: list[float] = []
        self._packed = np.empty(0)

    def pack(self, losses: Sequence[Any]) -> Losses | list[Any]:
        """Return all losses, bit for bit; as a list if not all of them are floats."""
        losses = losses if type(losses) is list else list(losses)
        try:
            same = losses[: len(self._floats)] == self._floats
        except (RuntimeError, ValueError):  # tensors and arrays of several numbers
            same = False
        if not same:
            self._forget()
        new = losses[len(self._floats) :]
        if not {float}.issuperset(map(type, new)):
            return list(losses)
        self._floats += new
        self._packed = np.concatenate((self._packed, np.fromiter(new, np.float64, len(new))))
        return Losses(self._packed)

    def _forget(self) -> None:
        self._floats = []
        self._packed = np.empty(0)


class _Pickler(pickle.Pickler):
    """Pickles a checkpoint, with its `Losses` as the last item."""

    def __init__(self, file: IO[bytes], protocol: int) -> None:
        self._file = file
        self._pickled = io.BytesIO()
        super().__init__(self._pickled, protocol)

    def dump(self, state: dict[str, Any]) -> None:
        losses = state.get(KEY)
        if not isinstance(losses, Losses):
            super().dump(state)
            self._file.write(self._pickled.getbuffer())
            return
        super().dump({name: value for name, value in state.items() if name != KEY})
        self._file.write(self._pickled.getbuffer()[:-1])  # all but the stop
        self._file.write(_BEGIN)
        for part in losses.opcodes():
            self._file.write(part)
        self._file.write(_END)


# The `pickle_module` of torch.save.
PICKLE = SimpleNamespace(__name__="pickle", Pickler=_Pickler)


class _WithoutLosses(io.RawIOBase):
    """A checkpoint file in which a range of bytes is replaced."""

    def __init__(self, path: Path, place: int, instead: bytes) -> None:
        self._file = path.open("rb", buffering=0)
        self._place = place
        self._instead = memoryview(instead)

    def readinto(self, buffer: Any) -> int:
        """Read into the buffer, up to the end of the file."""
        view = memoryview(buffer).cast("B")
        start, count = self._file.tell(), 0
        while count < len(view) and (read := self._file.readinto(view[count:])):
            count += read
        first = max(start, self._place)
        last = min(start + count, self._place + len(self._instead))
        if first < last:
            view[first - start : last - start] = self._instead[
                first - self._place : last - self._place
            ]
        return count

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move to an offset of the file."""
        return self._file.seek(offset, whence)

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()


def cut_out(path: Path) -> tuple[IO[bytes], list[float] | None]:
    """Return a file for `torch.load` without the losses, which it parses slowly, and the losses.

    If there are few losses, or another program wrote the file, return the file itself and None.
    Raises OSError.
    """
    with path.open("rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                root = next(info for info in archive.infolist() if info.filename.endswith(_ROOT))
        except (zipfile.BadZipFile, StopIteration):
            return path.open("rb"), None
        if root.file_size < _MANY * _WIDTH or root.compress_type != zipfile.ZIP_STORED:
            return path.open("rb"), None
        file.seek(root.header_offset + _HEADER - 4)
        start = file.tell() + 4 + sum(struct.unpack("<2H", file.read(4)))
        file.seek(start)
        pickled = file.read(root.file_size)
    end = len(pickled) - len(_END)
    begin = pickled.rfind(_BEGIN, 0, end)
    first = begin + len(_BEGIN)
    if begin < 0 or not pickled.endswith(_END) or (end - first) % _WIDTH:
        return path.open("rb"), None
    written = np.frombuffer(pickled, np.uint8, end - first, first).reshape(-1, _WIDTH)
    if len(written) < _MANY or not (written[:, 0] == _FLOAT).all():
        return path.open("rb"), None
    losses: list[float] = written[:, 1:].copy().view(">f8")[:, 0].tolist()
    # Replaces the list, from its opcode to the one that fills it: a string of the same length.
    size = end + 1 - (first - 2)
    instead = (_TEXT + (size - 5).to_bytes(4, "little")).ljust(size, b"\0")
    return cast(IO[bytes], _WithoutLosses(path, start + first - 2, instead)), losses

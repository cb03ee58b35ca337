"""Checkpoint files read without torch: their tensors, and whether a file is whole.

`torch.save` writes a zip archive: a pickle that describes the state, and a record for each storage
with its bytes. The pickle is read with every class replaced by one that does nothing, so no file
can run code here.
"""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

_BLOCK = 1 << 20
# What stands before each record of a zip archive; the sizes of its name and extra field come last.
_HEADER = struct.Struct("<4s5H3I2H")
_ROOT = "data.pkl"
_ZIP = b"PK"
# How a file begins that torch wrote without its zip format (before 1.6): a pickled number.
_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
# Bytes of a number, by the type of storage that holds it.
_WIDTHS = {
    "UntypedStorage": 1, "BoolStorage": 1, "ByteStorage": 1, "CharStorage": 1, "ShortStorage": 2,
    "HalfStorage": 2, "BFloat16Storage": 2, "IntStorage": 4, "FloatStorage": 4, "LongStorage": 8,
    "DoubleStorage": 8, "ComplexFloatStorage": 8, "ComplexDoubleStorage": 16,
}  # fmt: skip


class NoTorchFileError(Exception):
    """`torch.save` did not write this file, or it is damaged."""


def begins_as_zip(path: Path) -> bool:
    """Whether a file begins as the archives of `torch.save` do. Raises OSError."""
    with path.open("rb") as file:
        return file.read(len(_ZIP)) == _ZIP


def is_legacy(path: Path) -> bool:
    """Whether a file begins as those that torch writes without its zip format. Raises OSError."""
    with path.open("rb") as file:
        return file.read(len(_LEGACY)) == _LEGACY


def looks_whole(path: Path) -> bool:
    """Whether a file has a beginning and an end; what lies between is not read. Raises OSError."""
    if not begins_as_zip(path):
        return is_legacy(path)
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.rpartition("/")[2] == _ROOT for name in archive.namelist())
    except (zipfile.BadZipFile, ValueError, struct.error):
        return False


@dataclass(frozen=True)
class Tensor:
    """Where the bytes of a tensor are and how they are read."""

    dtype: str
    key: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def form(self) -> tuple[object, ...]:
        """All but its bytes."""
        return self.dtype, self.offset, self.shape, self.stride


class TorchFile:
    """A checkpoint file that is open; a context manager. Raises `NoTorchFileError`.

    Opening it compares no checksums: a checkpoint has one in its commit record. `verify` does.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise NoTorchFileError(f"{path.name} cannot be read: {error}") from error
        try:
            with zipfile.ZipFile(self._file) as archive:
                self._records = {info.filename: info for info in archive.infolist()}
            root = next(name for name in self._records if name.rpartition("/")[2] == _ROOT)
            self._folder = root.removesuffix(_ROOT)
            structure = _Structure(io.BytesIO(b"".join(self._read(root))))
            self.content = structure.load()
            self._storages = structure.storages
        except Exception as error:  # a damaged pickle may raise anything
            self._file.close()
            raise NoTorchFileError(f"{path.name} is no whole checkpoint: {error!r}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def verify(self, on_block: Callable[[], None] = lambda: None) -> None:
        """Read every byte. Raises NoTorchFileError if one is missing or changed, and OSError.

        Compares each record with its CRC-32, unless the writer left those out, and the size of
        each storage with what the pickle says. `on_block` is called between blocks and ends it
        all by raising.
        """
        has_sums = any(info.CRC for info in self._records.values())  # without them torch writes 0
        for name, info in self._records.items():
            found = 0
            for block in self._read(name):
                on_block()
                found = zlib.crc32(block, found)
            if has_sums and found != info.CRC:
                raise NoTorchFileError(f"{self.path.name}: record {name} is damaged")
        for key, (kind, count) in self._storages.items():
            record = self._records.get(f"{self._folder}data/{key}")
            width = _WIDTHS.get(kind)
            if record is None or (width is not None and record.file_size != count * width):
                raise NoTorchFileError(f"{self.path.name} lacks bytes of storage {key}")

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by their names, such as `model_state_dict.head.weight`."""
        return dict(_walk(self.content, ""))

    def blocks(self, tensor: Tensor) -> Iterator[bytes]:
        """The bytes of the storage that holds the tensor, in pieces of 1 MiB."""
        return self._read(f"{self._folder}data/{tensor.key}")

    def _read(self, name: str) -> Iterator[bytes]:
        record = self._records.get(name)
        if record is None or record.compress_type != zipfile.ZIP_STORED:
            raise NoTorchFileError(f"{self.path.name} has no plain record {name}")
        self._file.seek(record.header_offset)
        *_, name_size, extra_size = _HEADER.unpack(self._file.read(_HEADER.size))
        place = record.header_offset + _HEADER.size + name_size + extra_size
        left = record.file_size
        while left > 0:
            self._file.seek(place)  # each piece anew: two tensors may be read by turns
            block = self._file.read(min(_BLOCK, left))
            if not block:
                raise NoTorchFileError(f"{self.path.name} ends within {name}")
            place, left = place + len(block), left - len(block)
            yield block


class _Inert(OrderedDict[Any, Any]):
    """An instance of any class but those of tensors: takes what it is given and does nothing."""

    def __new__(cls, *_: Any, **__: Any) -> Self:
        return super().__new__(cls)

    def __init__(self, *arguments: Any, **_: Any) -> None:
        super().__init__()
        if arguments:
            self["arguments"] = arguments

    def __setstate__(self, state: Any) -> None:
        self["state"] = state

    def append(self, value: Any) -> None:
        """Takes a value, as a list does."""
        self[len(self)] = value

    def extend(self, values: Any) -> None:
        """Takes values, as a list does."""
        for value in values:
            self.append(value)


class _Structure(pickle.Unpickler):
    """Reads the pickle; makes no object of any class that the file names."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.storages: dict[str, tuple[str, int]] = {}  # type and count of numbers, by key

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch._utils" and name.startswith("_rebuild_tensor"):
            return _tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda tensor, *_: tensor
        return type(name, (_Inert,), {})

    def persistent_load(self, pid: Any) -> tuple[str, str]:
        """Type and key of a storage."""
        _, kind, key, _, count = pid
        self.storages[str(key)] = kind.__name__, int(count)
        return kind.__name__, str(key)


def _tensor(
    storage: tuple[str, str], offset: int, shape: tuple[int, ...], stride: tuple[int, ...],
    *others: Any,
) -> Tensor:  # fmt: skip
    kind, key = storage
    if kind == "UntypedStorage":  # the type of the numbers comes apart
        kind = " ".join(o.__name__ for o in others if isinstance(o, type)) or kind
    return Tensor(kind, key, offset, tuple(shape), tuple(stride))


def _walk(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
        return
    if isinstance(value, Mapping):
        parts = value.items()
    elif isinstance(value, list | tuple):
        parts = enumerate(value)  # type: ignore[assignment]
    else:
        return
    for key, part in parts:
        yield from _walk(part, f"{name}.{key}" if name else str(key))

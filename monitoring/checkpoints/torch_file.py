"""The tensors of a checkpoint file, read without torch.

`torch.save` writes a zip archive: a pickle that says what there is, and one record a storage with
its bytes. The pickle is read with every class replaced by one that does nothing, so that no file
can run code here.
"""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

_BLOCK = 1 << 20
# What stands before each record of a zip archive; the sizes of its name and extra field come last.
_HEADER = struct.Struct("<4s5H3I2H")
_ROOT = "data.pkl"


class NoTorchFileError(Exception):
    """The file is none that `torch.save` wrote, or a damaged one."""


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

    The archive's own CRC-32 is not looked at: torch may leave it out, and a checkpoint has a
    checksum of its own in its commit record.
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
            self.content = _Structure(io.BytesIO(b"".join(self._read(root)))).load()
        except Exception as error:  # a damaged pickle may raise anything
            self._file.close()
            raise NoTorchFileError(f"{path.name} is no whole checkpoint: {error!r}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

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
        _, kind, key, *_ = pid
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

"""Tries in storage what will be needed later, by the operations that will need it."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Sequence
from pathlib import Path

from monitoring.storage.base import CONTENTS_FOLDER, Fence, OvertakenError, Storage, StorageError

_LARGE = 5 << 20  # bytes, above which an object store adds to a file in another way


def try_out(storage: Storage, folder: str, *, thoroughly: bool = False) -> Sequence[str]:
    """Uses a folder as a run is used, and removes it.

    What the store lacks and is done without is in its `lacks` afterwards. `thoroughly`: also with a
    large file, and returns what an operator should know of the place. Raises `OSError` and
    `StorageError` for what nothing can be done without.
    """
    storage = storage.for_trial()
    try:
        _use(storage, folder, thoroughly=thoroughly)
        return storage.inspect(folder, thoroughly=thoroughly)
    finally:
        with contextlib.suppress(OSError, StorageError):
            storage.delete_run(folder)


def _use(storage: Storage, folder: str, *, thoroughly: bool) -> None:
    earlier, fence = Fence(folder, 1), Fence(folder, 2)
    data, log, kept = f"{folder}/data", f"{folder}/log", f"{folder}/{CONTENTS_FOLDER}/kept"
    link = f"{folder}/latest"
    storage.seize(fence)
    with tempfile.TemporaryDirectory() as directory:
        source = Path(directory) / "source"
        for content in (b"older", b"newer"):
            source.write_bytes(content)
            storage.put(data, source, fence)
            if content == b"older":
                storage.keep(data, kept, fence)
    storage.append(log, 0, b"one", fence)
    storage.append(log, 3, b"two", fence)
    storage.point(link, "data", fence)
    expected = {data: b"newer", kept: b"older", log: b"onetwo", link: b"newer"}
    if thoroughly:
        large = b"x" * _LARGE
        storage.append(log, 0, large, fence)
        storage.append(log, _LARGE, b"end", fence)
        storage.append(log, _LARGE + 3, b".", fence)
        expected[log] = large + b"end."
    for key, content in expected.items():
        if storage.read(key) != content:
            raise StorageError(f"storage returned other bytes than were written ({key})")
    with contextlib.suppress(OvertakenError):
        storage.delete(data, earlier)
        raise StorageError("storage lets an overtaken attempt write: it does not keep its fence")
    storage.delete_all([data, log], fence)
    if any(storage.stat(key) is not None for key in (data, log)):
        raise StorageError("storage still has files that were removed")

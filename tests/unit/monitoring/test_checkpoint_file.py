"""ChecksummedFile: what was written, whatever the pieces, and its checksum."""

import errno
import fcntl
import mmap
import os
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitoring.checkpoints.file import BLOCK, ChecksummedFile

MEMORY = mmap.mmap(-1, 64 * BLOCK)
MEMORY[:] = os.urandom(len(MEMORY))
# Lengths and addresses on both sides of a block's edge, and of the buffer's.
EDGES = st.builds(
    lambda blocks, beside: max(0, blocks * BLOCK + beside),
    st.integers(0, 60),
    st.sampled_from([-1, 0, 0, 1]),
)
NEAR = st.integers(0, 3) | EDGES
PIECES = st.lists(st.tuples(NEAR, NEAR), max_size=30)


@pytest.mark.parametrize("direct", [False, True])
@given(pieces=PIECES)
def test_a_file_is_what_was_written_whatever_the_pieces(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[tuple[int, int]], *, direct: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "pieces"
    expected = b""
    with ChecksummedFile(path, direct=direct) as file, memoryview(MEMORY) as memory:
        for start, length in pieces:
            piece = memory[start : start + length]
            assert file.write(piece) == len(piece)
            expected += piece
        file.sync()
    assert path.read_bytes() == expected
    assert file.size == len(expected)
    assert file.checksum == f"crc32:{zlib.crc32(expected):08x}"


def is_direct(descriptor: int) -> bool:
    return bool(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT)


def test_large_aligned_memory_is_written_past_the_kernels_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    past = []
    write = os.write

    def watched(descriptor: int, data: memoryview) -> int:
        past.append(is_direct(descriptor))
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", watched)
    with ChecksummedFile(tmp_path / "file", direct=True) as file, memoryview(MEMORY) as memory:
        file.write(b"head")
        file.write(memory[:])
        file.sync()
    assert past[:-1] == [True] * (len(past) - 1)
    assert past[-1] is False  # the last part of a block


def test_a_file_system_that_refuses_a_direct_write_gets_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write

    def refusing(descriptor: int, data: memoryview) -> int:
        if is_direct(descriptor):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", refusing)
    with ChecksummedFile(tmp_path / "file", direct=True) as file, memoryview(MEMORY) as memory:
        file.write(memory[:])
        file.sync()
        assert file.error is None
    assert (tmp_path / "file").read_bytes() == MEMORY[:]

"""The checksum of a whole from those of its pieces."""

from __future__ import annotations

import zlib
from functools import reduce

from hypothesis import given
from hypothesis import strategies as st

from monitoring.crc import combined


@given(st.lists(st.binary(max_size=200)))
def test_pieces_in_a_row_have_the_checksum_of_the_whole(pieces: list[bytes]) -> None:
    sums = [(zlib.crc32(piece), len(piece)) for piece in pieces]
    whole = reduce(lambda crc, piece: combined(crc, *piece), sums, 0)
    assert whole == zlib.crc32(b"".join(pieces))

"""The CRC-32 of a file from those of its pieces, so that they may come in any order.

A CRC is the remainder of a polynomial over GF(2): appending n bytes multiplies what came before
by x to the power of 8n. Bits are reflected, as `zlib.crc32` has them: the highest is the constant.
"""

from __future__ import annotations

from functools import lru_cache

_POLYNOMIAL = 0xEDB88320
_ONE, _X = 1 << 31, 1 << 30


def crc32_text(crc: int) -> str:
    """A CRC-32 as records spell it."""
    return f"crc32:{crc:08x}"


def combined(first: int, second: int, size: int) -> int:
    """The CRC-32 of two pieces in a row from that of each; `size` bytes are in the second."""
    return _times(_power(8 * size), first) ^ second


@lru_cache(maxsize=16)  # pieces are of few sizes
def _power(exponent: int) -> int:
    """That power of x."""
    result, square = _ONE, _X
    while exponent:
        if exponent & 1:
            result = _times(result, square)
        square = _times(square, square)
        exponent >>= 1
    return result


def _times(a: int, b: int) -> int:
    product = 0
    for bit in range(31, -1, -1):
        if a >> bit & 1:
            product ^= b
        b = b >> 1 ^ (_POLYNOMIAL if b & 1 else 0)
    return product

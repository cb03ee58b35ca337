"""The CRC-32 of a file from the CRC-32s of its pieces, which may arrive in any order.

A CRC is the remainder of a polynomial over GF(2): to append n bytes multiplies the preceding
polynomial by x to the power of 8n. Bits are reflected, as in `zlib.crc32`: the highest bit is the
constant.
"""

from __future__ import annotations

from functools import lru_cache

_POLYNOMIAL = 0xEDB88320
_ONE, _X = 1 << 31, 1 << 30


def crc32_text(crc: int) -> str:
    """A CRC-32 in the format of commit records."""
    return f"crc32:{crc:08x}"


def combined(first: int, second: int, size: int) -> int:
    """The CRC-32 of two adjacent pieces from the CRC-32 of each; the second has `size` bytes."""
    return _times(_power(8 * size), first) ^ second


@lru_cache(maxsize=16)  # pieces are of few sizes
def _power(exponent: int) -> int:
    """x to the power of `exponent`."""
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

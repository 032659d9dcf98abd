"""The checksum CRC-32C, fast for structures that end in many zeros.

Source: Castagnoli; RFC 3720, 12.1 and B.4 (examples).
"""

from __future__ import annotations

from functools import cache


def crc32c(data: bytes) -> int:
    """Return the checksum."""
    table, value = _table(), 0xFFFFFFFF
    used = data.rstrip(b"\0")
    for byte in used:
        value = table[(value ^ byte) & 0xFF] ^ (value >> 8)
    zeros = len(data) - len(used)
    for bit in range(zeros.bit_length()):
        if zeros >> bit & 1:
            value = _times(_zeros(bit), value)
    return value ^ 0xFFFFFFFF


def vhdx_checksum(data: bytes) -> int:
    """Return the checksum of a VHDX structure; the field for the checksum itself counts as zeros."""
    return crc32c(data[:4] + bytes(4) + data[8:])


@cache
def _table() -> tuple[int, ...]:
    table = []
    for number in range(256):
        value = number
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


@cache
def _zeros(power: int) -> tuple[int, ...]:
    """Return a matrix that appends 2 ** ``power`` zero bytes, as in zlib's ``crc32_combine``."""
    if power == 0:
        return tuple(_table()[(1 << bit) & 0xFF] ^ ((1 << bit) >> 8) for bit in range(32))
    half = _zeros(power - 1)
    return tuple(_times(half, column) for column in half)


def _times(matrix: tuple[int, ...], value: int) -> int:
    result = 0
    while value:
        lowest = value & -value
        result ^= matrix[lowest.bit_length() - 1]
        value ^= lowest
    return result

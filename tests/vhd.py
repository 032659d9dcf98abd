"""Checksums of VHD images that a test has changed."""

from __future__ import annotations


def right_checksums(image: bytearray) -> None:
    """Gives both footers, or the only one, the checksum that fits: the sum of all other bytes, inverted."""
    for start in (0, len(image) - 512):
        if start >= 0 and image.startswith(b"conectix", start):
            image[start + 64 : start + 68] = bytes(4)
            image[start + 64 : start + 68] = (~sum(image[start : start + 512]) & 0xFFFFFFFF).to_bytes(4, "big")

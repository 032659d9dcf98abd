"""The size of a new LUKS header.

::

    | header | key material of slot 0 | slot 1 ... slot 7, not in use |
      4 KiB    4,000 stripes of the key, in whole pages

Source: LUKS1 On-Disk Format Specification 1.2.3; QEMU ``crypto/block-luks.c`` (``qcrypto_block_luks_create``).
"""

from __future__ import annotations

from batchdiff.units import KIB, align_up

_PAGE, _STRIPES, _SLOTS = 4 * KIB, 4000, 8


def _key_bytes(cipher_alg: str, cipher_mode: str) -> int:
    """Return the length in bytes of the key for a cipher such as aes-256; the mode xts needs two keys."""
    bits = int(cipher_alg.rpartition("-")[2])
    return bits // 8 * (2 if cipher_mode == "xts" else 1)


def luks_header_bytes(cipher_alg: str, cipher_mode: str) -> int:
    """Return the length in bytes of a LUKS header."""
    return _PAGE + _SLOTS * align_up(_key_bytes(cipher_alg, cipher_mode) * _STRIPES, _PAGE)


def luks_written_bytes(cipher_alg: str, cipher_mode: str) -> int:
    """Return the bytes of the nonzero pages of a new LUKS header: QEMU fills only one key slot."""
    return _PAGE + align_up(_key_bytes(cipher_alg, cipher_mode) * _STRIPES, _PAGE)

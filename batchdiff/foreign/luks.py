"""LUKS: a header with eight key slots, each of which can hold the encrypted master key.

::

    | 592 bytes | key slot 0, in 4,000 stripes | ... | key slot 7 | payload: the disk, in sectors of 512 bytes |

QEMU reads only version 1. In a qcow2 image, a header extension points to the LUKS header.

Source: "LUKS On-Disk Format Specification", version 1.2.3; QEMU ``crypto/block-luks.c``.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from batchdiff.foreign.header import ReadAt, exactly
from batchdiff.qcow2.faults import CONVERT_ELSEWHERE, WRONG_FORMAT, require, require_opened
from batchdiff.units import SECTOR, align_up

_HEADER = struct.Struct(">6sH32s32s32sII20s32sI40s")
_SLOT = struct.Struct(">II32sII")
_SLOTS, _STRIPES, _FIRST_SLOT_AT = 8, 4000, 4096
_ACTIVE, _INACTIVE = 0x00AC71F3, 0x0000DEAD
_LONGEST_KEY = 64
"""In bytes: two AES-256 keys, for XTS. No cipher in QEMU has a longer key."""

_MOST_ITERATIONS = 1 << 30
"""The maximum number of rounds of PBKDF2 to open an image: four minutes at five million a second.

By default, cryptsetup and QEMU choose as many rounds as take two seconds: ten to twenty million on a fast CPU.
A header can demand almost 2^32 in each slot, and QEMU tries every active slot before it rejects a passphrase.
"""

LONGEST_ITER_TIME = 30_000
"""In milliseconds, for a new image.

QEMU gives the slot as many rounds as the CPU does in that time, and the master key as many as in an eighth of
it. So a new image stays below `_MOST_ITERATIONS` if the CPU does at most 30 million rounds a second.
"""

_LUKS2 = (
    "Shut its VM down and back the image up. If `cryptsetup luksDump IMAGE` shows sectors of 512 bytes,"
    " run `cryptsetup luksConvertKey --pbkdf pbkdf2 IMAGE` and then `cryptsetup convert --type luks1 IMAGE`"
    " to convert the header. Otherwise open the image with `cryptsetup open`, and copy the resulting device into a"
    " new image with `qemu-img convert -O luks`."
)

_FEWER = (
    "In a LUKS image, `cryptsetup luksChangeKey --pbkdf-force-iterations 1000000 IMAGE` reduces a key slot's"
    " rounds. If that does not help, or in a qcow2 image, copy the disk into a new encrypted image with"
    " `qemu-img convert`."
)


class KeySlot(NamedTuple):
    """A key slot, and the place of its key material in bytes."""

    is_active: bool
    iterations: int
    start: int
    end: int


def inspect_luks(read: ReadAt, size: int) -> int:
    """Inspect a header, and return the offset of the payload in bytes.

    ``size``: of the file or, in qcow2, as the header extension gives it.

    :raises FormatError: the header cannot be used.
    """
    fields = _HEADER.unpack(exactly(read, 0, _HEADER.size, "header"))
    magic, version, *names, payload, key_bytes, _, _, iterations, _ = fields
    start = int(payload) * SECTOR
    require(magic == b"LUKS\xba\xbe", "it is not a LUKS image: its magic number is missing", remedy=WRONG_FORMAT)
    require(version != 2, "it uses LUKS version 2, but QEMU reads version 1 only", remedy=_LUKS2)
    require(version == 1, f"LUKS version {version} is unknown (1 is known)", remedy=CONVERT_ELSEWHERE)
    require_opened(all(map(_is_text, names)), "the name of its cipher or hash is not text")
    require_opened(0 < key_bytes <= _LONGEST_KEY, f"a key of {key_bytes} bytes is invalid")
    require(start <= size, f"its LUKS header is truncated: it takes {start} bytes, but only {size} are there")
    slots = [_slot(read, number, key_bytes) for number in range(_SLOTS)]
    _check_places(slots, start)
    _check_iterations([each.iterations for each in slots if each.is_active], iterations)
    return start


def _slot(read: ReadAt, number: int, key_bytes: int) -> KeySlot:
    data = exactly(read, _HEADER.size + number * _SLOT.size, _SLOT.size, "header")
    state, iterations, _, sector, stripes = _SLOT.unpack(data)
    require_opened(state in {_ACTIVE, _INACTIVE}, f"key slot {number} is neither active nor inactive")
    require_opened(stripes == _STRIPES, f"key slot {number} has {stripes} instead of {_STRIPES} stripes")
    start = sector * SECTOR
    return KeySlot(state == _ACTIVE, iterations, start, start + align_up(key_bytes * _STRIPES, _FIRST_SLOT_AT))


def _check_places(slots: list[KeySlot], payload: int) -> None:
    end = _FIRST_SLOT_AT
    for each in sorted(slots, key=lambda slot: slot.start):
        require_opened(each.start >= end, "a key slot overlaps the header or another key slot")
        end = each.end
    require_opened(end <= payload, "a key slot overlaps the data")


def _check_iterations(of_slots: list[int], of_master_key: int) -> None:
    require_opened(of_slots, "it has no active key slot, so no passphrase can open it")
    require_opened(of_master_key > 0 and all(of_slots), "a key slot or the master key has 0 rounds of PBKDF2")
    rounds = sum(of_slots) + len(of_slots) * of_master_key
    require(
        rounds <= _MOST_ITERATIONS,
        f"opening it takes up to {rounds} rounds of PBKDF2, more than the limit of {_MOST_ITERATIONS}",
        remedy=_FEWER,
    )


def _is_text(field: bytes) -> bool:
    """Return whether a field is null-terminated, printable ASCII text; QEMU rejects any other."""
    text, null, _ = field.partition(b"\0")
    return bool(null) and text.isascii() and text.decode("ascii").isprintable()


def inspect_luks_image(read: ReadAt, file_size: int) -> None:
    """Inspect an image.

    :raises FormatError: the image cannot be used.
    """
    require(file_size % SECTOR == 0, "it is truncated: its last sector is incomplete")
    inspect_luks(read, file_size)

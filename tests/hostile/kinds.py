"""Kinds of hostile images: a sound image, one change of it, and what becomes of it when it is planned.

``test_hostile_fleets.py`` plans and applies all kinds of a table in one fleet. To add a format, write a module
with its table, as ``vdi_kinds.py`` has one, and add the format there.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

READ = ""
"""Expected of an image that is accepted: it reads as QEMU reads it."""

Change = Callable[[bytearray], object]
"""It changes the bytes of an image, and may return the size of a file that ends in a hole."""
Value = int | bytes


class Kind(NamedTuple):
    """One kind. ``expected``: a part of the reason for which it is refused, or READ."""

    name: str
    change: Change
    expected: str
    base: str = ""
    """The options of `qemu-img convert` for the sound image; the format's defaults if empty."""


class Field(NamedTuple):
    """A field of a header, and its hostile values with what is expected of each."""

    at: int
    form: str
    values: dict[Value, str]


def put(at: int, form: str, *values: Value) -> Change:
    """A change that writes values, in a form of :mod:`struct`, at an offset; negative ones count from the end."""

    def change(image: bytearray) -> None:
        start = at if at >= 0 else len(image) + at
        if len(image) < start + struct.calcsize(form):
            image.extend(bytes(start + struct.calcsize(form) - len(image)))
        struct.pack_into(form, image, start, *values)

    return change


def cut(length: int) -> Change:
    """A change that truncates the image; negative lengths count from the end."""

    def change(image: bytearray) -> None:
        del image[length:]

    return change


def grow(length: int) -> Change:
    """A change that adds zeros at the end."""
    return lambda image: image.extend(bytes(length))


def cuts(expected: dict[int, str], base: str = "") -> list[Kind]:
    """One kind for each length to which the image is truncated."""
    return [Kind(f"cut-to-{length}", cut(length), what, base) for length, what in expected.items()]


def both(*changes: Change) -> Change:
    """Several changes, one after the other."""

    def change(image: bytearray) -> None:
        for each in changes:
            each(image)

    return change


def of_fields(fields: dict[str, Field], *, after: Change = lambda _: None) -> list[Kind]:
    """One kind for each hostile value of each field; ``after``: a change that follows, such as a new checksum."""
    return [
        Kind(
            f"{name}={value if isinstance(value, bytes) else hex(value)}",
            both(put(at, form, value), after),
            expected,
        )
        for name, (at, form, values) in fields.items()
        for value, expected in values.items()
    ]


NAMES_OUTSIDE = {
    "a-file": "{outside}/secret",
    "a-fifo": "{outside}/fifo",
    "a-socket": "{outside}/socket",
    "a-parent-folder": "../../outside/secret",
    "a-link": "../links/link",
    "passwd": "/etc/passwd",
    "shadow": "/etc/shadow",
    "environment": "/proc/self/environ",
    "descriptor": "/proc/self/fd/0",
    "a-device": "/dev/zero",
    "a-loop-device": "/dev/loop0",
    "nbd": "nbd://127.0.0.1:{port}/",
    "nbd-socket": "nbd+unix:///?socket={outside}/socket",
    "http": "http://127.0.0.1:{port}/image",
    "json": 'json:{"driver":"raw","file":{"driver":"file","filename":"{outside}/secret"}}',
    "file-protocol": "file:{outside}/secret",
    "fat-folder": "fat:{outside}",
    "self": "{self}",
    "the-template": "../template.img",
    "control-characters": "{outside}/\x1b]0;secret\n",
}
"""Names of other files that an image may bring, by what they are; :func:`hostile_fleet.baits` completes them."""


def of_data(outside: dict[str, str]) -> dict[str, str]:
    """The same names, of a file that nothing opens: the search for dependents opens backing files, but no data."""
    return {
        what: name.replace("/secret", "/data").replace("links/link", "links/data")
        for what, name in outside.items()
    }


def of_data_name(name: str) -> str:
    """The reason for which a file outside is not opened for its data."""
    plain = ":" not in name.split("/", 1)[0] and "\n" not in name
    return "neither beside the image nor in a folder" if plain else "not a plain path"


def named(prefix: str, outside: dict[str, str]) -> Iterator[tuple[str, str]]:
    """The name of a kind for each name of another file, and that name; an image's own file has its kind's name."""
    for what, name in outside.items():
        yield f"{prefix}-{what}", name.replace("{self}", f"{prefix}-{what}")


def of_backing(name):
    """Returns the outcome for an image with a backing file of that name, which the manifest does not declare."""
    if name == "../template.img":
        return READ  # it is skipped: it is an overlay of the template
    plain = name.removeprefix("file:")
    return "not a plain path" if ":" in plain.split("/")[0] or "\n" in plain else "the manifest does not declare"

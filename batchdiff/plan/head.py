"""The parts of a plan file that are found without parsing it.

::

    {"format_version": "1.6",
     "generator": "batchdiff 0.1.0",
     "created": "2026-11-28T18:31:38Z",
     "checksum": "sha256:...",
     ...
     "guests": [
      {"name": "web01", ...
"""

from __future__ import annotations

import json
import os
import re
import stat
from typing import NamedTuple

_LENGTH = 4096
BEGINNING = b'{"format_version"'
"""The first bytes of every plan that batchdiff writes."""
_CREATED = re.compile(rb'"created": "([0-9A-Za-z:.+-]{1,40})"')
_CHECKSUM = re.compile(rb'"checksum": "(sha256:[0-9a-f]{64})"')


_NAME = re.compile(rb',?\s*\{"name": ("(?:[^"\\]|\\.){0,4096}")')
_LONGEST_NAME_LINE = 1 << 14


class PlanHead(NamedTuple):
    """The checksum and creation time (ISO 8601 in UTC) of a plan."""

    checksum: str
    created: str


def plan_head(path: str) -> PlanHead | None:
    """Return the head of a plan file, unchecked.

    None if the file is unreadable or not in the form that batchdiff writes.
    """
    head = beginning(path)
    created, checksum = _CREATED.search(head), _CHECKSUM.search(head)
    if not head.startswith(BEGINNING) or created is None or checksum is None:
        return None
    return PlanHead(checksum[1].decode("ascii"), created[1].decode("ascii"))


def guests_named_in(path: str) -> list[str]:
    """Return the names of the guests in a plan file, unchecked.

    Empty if the file is unreadable or not in the form that batchdiff writes. Names that take more than
    about 4,096 bytes in the file are left out.
    """
    if not beginning(path).startswith(BEGINNING):
        return []
    names = []
    try:
        with open(path, "rb") as file:
            for line in file:
                found = _NAME.match(line[:_LONGEST_NAME_LINE])
                if found is not None:
                    names.append(str(json.loads(found[1])))
    except (OSError, ValueError):
        return []
    return names


def beginning(path: str) -> bytes:
    """Return the first 4 KiB of a file; nothing if it is unreadable or not a regular file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError):
        return b""
    try:
        return os.read(fd, _LENGTH) if stat.S_ISREG(os.fstat(fd).st_mode) else b""
    except OSError:
        return b""
    finally:
        os.close(fd)

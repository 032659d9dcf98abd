"""Find files that belong to two images of a manifest."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from batchdiff.files.identity import Identity, identity_of

PART = "a part of the guest"
"""The role of a guest's other file, such as an extent of a VMDK image."""


class _Owner(NamedTuple):
    """An owner of a file; ``name`` is empty for the template."""

    name: str
    role: str


class Owners:
    """The owners of files, by the identity of each file."""

    def __init__(self) -> None:
        self._owners: dict[Identity, list[_Owner]] = {}

    def add(self, path: str, name: str, role: str) -> None:
        """Add an owner of a file; do nothing if the file cannot be examined."""
        identity = identity_of(path)
        if identity is not None:
            self._owners.setdefault(identity, []).append(_Owner(name, role))

    def conflict(self, name: str, own: str, parts: Iterable[str]) -> str:
        """Return the objection to retiring a guest that has a file of another image; empty if it has none.

        ``own``: the guest's own file; it counts here only if it is a part of another guest.
        """
        for path in (own, *parts):
            identity = identity_of(path)
            others = [each for each in self._owners.get(identity, []) if each.name != name] if identity else []
            if path == own:
                others = [each for each in others if each.role == PART]
            if others:
                owner = " ".join(filter(None, (others[0].role, others[0].name)))
                advice = "leave this guest out" if not others[0].name else "leave one of the two guests out"
                return f"its file {path} is also {owner}, which would be lost without it; {advice} of the manifest"
        return ""

"""The plan that converted a guest: the text that names it, and the search for its file by checksum.

A plan that was kept aside no longer has the name that the sidecar recorded, so folders are searched.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping

from batchdiff.plan.head import plan_head
from batchdiff.plan.sidecar import OverlayOrigin

_DONE_BY = "done by "
_SUFFIX = ".json"


def plan_in(reason: str) -> str:
    """Return the path of the plan that a skipped guest's reason names; empty if it names none."""
    path = reason.removeprefix(_DONE_BY)
    return path if path != reason and os.path.isabs(path) else ""


def is_done(reason: str) -> bool:
    """Return True if the reason is that an earlier plan, even if its file was not found, converted the guest."""
    return reason.startswith(_DONE_BY)


class EarlierPlans:
    """A search for plans by checksum: at the path in the sidecar, in that folder, and in further folders.

    ``renamed``: the paths that plans are about to get, by their present paths; all are absolute.
    """

    def __init__(self, folders: Iterable[str] = (), *, renamed: Mapping[str, str] | None = None) -> None:
        self._folders = tuple(folders)
        self._renamed = renamed or {}
        self._by_folder: dict[str, dict[str, str]] = {}

    def reason(self, origin: OverlayOrigin) -> str:
        """Return why a guest that was converted is skipped: ``done by PLAN``."""
        path = self.path_of(origin)
        if path:
            return f"{_DONE_BY}{path}"
        where = f" (it was {origin.plan_path})" if origin.plan_path else ""
        return f"{_DONE_BY}an earlier plan, whose file was not found{where}"

    def path_of(self, origin: OverlayOrigin) -> str:
        """Return the path of the plan that made an overlay; empty if it is not found."""
        recorded = origin.plan_path if os.path.isabs(origin.plan_path) else ""
        if recorded:
            head = plan_head(recorded)
            if head is not None and head.checksum == origin.plan:
                return self._renamed.get(recorded, recorded)
        for folder in (os.path.dirname(recorded), *self._folders) if recorded else self._folders:
            path = self._plans(folder).get(origin.plan)
            if path is not None:
                return self._renamed.get(path, path)
        return ""

    def _plans(self, folder: str) -> dict[str, str]:
        """Return the plans in a folder by their checksums; a copy that has a journal takes precedence."""
        if folder not in self._by_folder:
            names: list[str] = []
            with contextlib.suppress(OSError, ValueError):
                names = sorted(name for name in os.listdir(folder) if name.endswith(_SUFFIX))
            paths = [os.path.join(folder, name) for name in names]
            found: dict[str, str] = {}
            for path in sorted(paths, key=lambda each: not os.path.exists(f"{each}.journal")):
                head = plan_head(path)
                if head is not None:
                    found.setdefault(head.checksum, path)
            self._by_folder[folder] = found
        return self._by_folder[folder]

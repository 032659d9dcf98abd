"""The search for the plan that converted a guest.

A plan that a newer one replaced may have a different name from the one that the sidecar records. So folders are
searched for a plan with the recorded checksum. For an original in quarantine, they are searched for a journal that
names it::

    {"time": "...", "guest": "web01", "step": "retired", ..., "aside": "/images/web01.img.batchdiff-original", ...}
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from batchdiff.files.filenames import shell_option, shell_word
from batchdiff.files.own_documents import LARGEST_DOCUMENT
from batchdiff.plan.file import read_regular
from batchdiff.plan.head import plan_head
from batchdiff.plan.sidecar import OverlayOrigin

_DONE_BY = "done by "
_SUFFIX = ".json"
_JOURNAL = ".journal"


class _Quarantined(NamedTuple):
    """An original in quarantine; ``time`` is that of the guest's last step, ISO 8601 in UTC."""

    time: str
    plan: str
    guest: str


def plan_in(reason: str) -> str:
    """Return the path of the plan that a skipped guest's reason names; empty if it names none."""
    path = reason.removeprefix(_DONE_BY)
    return path if path != reason and os.path.isabs(path) else ""


def is_done(reason: str) -> bool:
    """Return True if an earlier plan, found or not, converted the guest."""
    return reason.startswith(_DONE_BY)


class EarlierPlans:
    """A search for plans: at the paths that a sidecar records, in the folders of these paths, and in ``folders``.

    ``renamed``: the paths that plans are about to get, by their present paths; all are absolute.
    """

    def __init__(self, folders: Iterable[str] = (), *, renamed: Mapping[str, str] | None = None) -> None:
        self._folders = tuple(folders)
        self._renamed = renamed or {}
        self._by_folder: dict[str, dict[str, str]] = {}
        self._quarantined: dict[str, _Quarantined] | None = None

    def reason(self, origin: OverlayOrigin) -> str:
        """Return why a converted guest is skipped."""
        path = self.path_of(origin)
        if path:
            return f"{_DONE_BY}{path}"
        where = f" (recorded as {origin.plan_path})" if origin.plan_path else ""
        return f"{_DONE_BY}an earlier plan, whose file was not found{where}"

    def path_of(self, origin: OverlayOrigin) -> str:
        """Return the path, after renaming, of the plan that made an overlay; empty if it is not found."""
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

    def way_out_of_quarantine(self, aside: str) -> str:
        """Return advice, as a clause, on the original in quarantine at ``aside``."""
        if self._quarantined is None:
            self._quarantined = {}
            for folder in dict.fromkeys(self._folders):
                for path, each in _quarantined_by_plans_in(folder):
                    self._quarantined[path] = max(each, self._quarantined.get(path, each))
        found = self._quarantined.get(aside)
        if found is None:
            where = " or ".join(dict.fromkeys(self._folders))
            searched = f" (no journal in {where} names it)" if where else ""
            return f"find out which plan put it there{searched}, and purge it with that plan"
        plan = self._renamed.get(found.plan, found.plan)
        guest = shell_option("--guest", found.guest)
        return f"delete it with `batchdiff purge {shell_word(plan)} {guest} --used`"

    def _plans(self, folder: str) -> dict[str, str]:
        """Return the paths of a folder's plans by checksum; of several copies, one with a journal is preferred."""
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


def _quarantined_by_plans_in(folder: str) -> Iterator[tuple[str, _Quarantined]]:
    names: list[str] = []
    with contextlib.suppress(OSError, ValueError):
        names = [name for name in os.listdir(folder) if name.endswith(_JOURNAL)]
    for name in sorted(names):
        path = os.path.join(folder, name)
        last: dict[str, tuple[str | None, str]] = {}
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
            for line in read_regular(path, LARGEST_DOCUMENT).splitlines():
                record = json.loads(line)
                # Only the line of a step has a goal.
                if isinstance(record, dict) and "goal" in record:
                    last[str(record["guest"])] = record.get("aside"), str(record["time"])
        for guest, (aside, time) in last.items():
            if aside is not None:
                yield str(aside), _Quarantined(time, path.removesuffix(_JOURNAL), guest)

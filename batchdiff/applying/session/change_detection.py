"""Refuse files that change while a command works on them.

A descriptor does not show that another file has taken its path, so the template's paths are checked, too.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from batchdiff.applying.guests.file_names import require_examinable
from batchdiff.applying.journal.file import Journal, MemoryJournal
from batchdiff.errors import PlanError
from batchdiff.files.fingerprint import REPLACED, Fingerprint, fingerprint_at
from batchdiff.files.identity import identity_in, identity_of
from batchdiff.image.image import Image


@dataclass(slots=True)
class ChangeDetector:
    """The expected fingerprint of each file: the first one seen, or a later one if batchdiff changed the ctime."""

    journal: Journal | MemoryJournal
    seen: dict[str, Fingerprint] = field(default_factory=dict)

    def check(self, key: str, now: Fingerprint | None, path: str) -> None:
        """Compare a file with its expected fingerprint; at the first call for ``key``, only note the fingerprint.

        :raises PlanError: the file is gone, or something other than batchdiff has changed it.
        :raises ImageError: the file cannot be examined.
        """
        if now is None:
            require_examinable(path)
            raise PlanError(f"{path} is gone", remedy="Bring it back, then run the same command again.")
        before = self.seen.setdefault(key, now)
        if now in self.journal.history.changed and before.is_unwritten(now):
            self.seen[key] = now
        elif before != now:
            cure = "Stop whatever changes it" if before.is_same_file(now) else "Bring the former file back"
            raise PlanError(
                f"{path} changed while this command ran",
                why=before.changes(now),
                remedy=f"{cure}, then run the same command again.",
            )

    def check_chain(self, image: Image) -> None:
        """Check that the open files of an image's chain are unchanged.

        The image's own file may have a different path at each call.

        :raises PlanError: one of the files has changed.
        """
        for number, layer in enumerate(image.layers):
            self.check(layer.path if number else "", layer.fingerprint(), layer.path)

    def check_at_paths(self, image: Image) -> None:
        """Check that the open files of the template are still at their paths, unchanged since the first call.

        :raises PlanError: one is not there, or has changed.
        :raises ImageError: a path cannot be examined.
        """
        for layer in image.layers:
            self.check(layer.path, fingerprint_at(layer.path), layer.path)
            if identity_of(layer.path) != identity_in(os.fstat(layer.fd)):
                raise PlanError(
                    f"{layer.path} changed while this command ran",
                    why=REPLACED,
                    remedy="Bring the planned template back, then run the same command again.",
                )

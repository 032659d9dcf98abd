"""The incoming file, which takes the place of the outgoing one."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import replace

from batchdiff.applying.swap import retire
from batchdiff.errors import (
    GuestError,
    ImageError,
    IncomparableError,
    SecretError,
    VerificationError,
)
from batchdiff.files.fingerprint import NO_FILE, Fingerprint, fingerprint_at
from batchdiff.image.files import identify, open_image_file
from batchdiff.image.in_use.check import Purpose
from batchdiff.image.in_use.hold import Held
from batchdiff.image.open import open_image
from batchdiff.image_source import ImageSource
from batchdiff.linux.call_failures import AGAIN


class IncomingFile:
    """The incoming file of one task.

    ``source``: its image under its own name. ``was_published``: whether it had that name before this command, so
    that a VM may have changed it. ``ready``: its path while it is complete under another name. ``known``: its
    identity once it is complete. ``compared``: its identity when it was compared under its own name.
    ``data_file``: the identity of its new data file.
    """

    def __init__(
        self,
        source: ImageSource,
        known: Fingerprint | None = None,
        quarantined: str | None = None,
        *,
        was_published: bool = False,
    ) -> None:
        self.source, self.was_published = source, was_published
        self.known, self.ready = known, quarantined
        self.compared: Fingerprint | None = None
        self.data_file: Fingerprint | None = None
        self._quarantined = quarantined
        self._parts: dict[str, Fingerprint] = {}
        self._opened = ExitStack()
        self._held: Held | None = None

    @property
    def path(self) -> str:
        """The file's path once it is published."""
        return self.source.path

    @property
    def is_quarantined(self) -> bool:
        """True while it is an original that was set aside."""
        return self.ready is not None and self.ready == self._quarantined

    @property
    def present(self) -> ImageSource | None:
        """The image at its present path; None if it is still to be written."""
        if self.ready is not None:
            return replace(self.source, path=self.ready)
        return self.source if self.known is not None or self.was_published else None

    def to_compare(self) -> ImageSource:
        """Return the image at its present path for a comparison, and note the identities of its files."""
        self._parts = {path: fingerprint_at(path) or NO_FILE for path in self.source.other_files}
        if self.ready is not None:
            return replace(self.source, path=self.ready)
        self.compared = fingerprint_at(self.path)
        return self.source

    def changed_part(self) -> str | None:
        """Return the path of any extent or data file that was changed after the comparison, but not by a VM."""
        for path, known in self._parts.items():
            now = fingerprint_at(path) or NO_FILE
            if not (known.is_same_file(now) if self.was_published else known.is_unwritten(now)):
                return path
        return None

    def hold(self) -> None:
        """Hold the image's own files, so that a write after the comparison is noticed before a deletion.

        :raises IncomparableError: one of them cannot be held.
        :raises VerificationError: the image cannot be opened.
        :raises SecretError: a secret of its chain cannot be used.
        """
        try:
            image = self._opened.enter_context(open_image(self.source))
        except SecretError:
            raise
        except ImageError as error:
            raise VerificationError(
                f"{self.path} cannot be verified", why=error.reason, remedy=error.remedy
            ) from error
        held = Held()
        self._opened.callback(held.release)
        try:
            for layer in image.own_files:
                held.take(layer.path, layer.fd, Purpose.TEMPLATE)
        except ImageError as error:
            raise not_comparable(self.path, error.why) from error
        self._held = held  # last, because another thread may check it at any time

    def check_held(self) -> None:
        """Release the held files if a program is writing to one of them, or waiting to do so.

        :raises IncomparableError: there is such a program.
        """
        try:
            if self._held is not None:
                self._held.check()
        except ImageError as error:
            raise not_comparable(self.path, error.why) from error

    def is_wanted(self) -> bool:
        """Return whether a program is known to want to write to a held file."""
        return self._held is not None and self._held.is_broken()

    def close(self) -> None:
        """Release and close the held files."""
        self._held = None
        self._opened.close()

    def discarded(self) -> None:
        """Forget a new file; an original that was set aside stays ready."""
        if self.ready is not None and not self.is_quarantined:
            self.ready, self.known = None, None

    def _data_has_changed(self) -> bool:
        known = self.data_file
        return known is not None and not all(
            known.is_unwritten(fingerprint_at(path) or NO_FILE) for path in self.source.other_files
        )

    def publish(self) -> Fingerprint:
        """Give the file its own name, durably and without replacing another file.

        :raises GuestError: it or its data file is not as verified.
        :raises ImageError: it cannot be opened.
        :raises OSError: it cannot be renamed.
        """
        source = str(self.ready)
        also = "" if self.data_file is None else " or its data file"
        fd = open_image_file(source)
        try:
            if self.known is None or not self.known.is_unwritten(identify(fd)) or self._data_has_changed():
                raise GuestError(
                    f"{source} was not given its final name",
                    why=f"it is not the file that was verified, or it{also} has changed since",
                    remedy=f"Stop whatever is changing it, {AGAIN}",
                )
            try:
                retire.move(fd, source, self.path)
            finally:
                # If only making the rename durable failed, the file has its name, and counts as published.
                if retire.is_open_file(fd, self.path):
                    self.ready, self.known = None, identify(fd)
            return identify(fd)
        finally:
            os.close(fd)


def not_comparable(path: str, why: str) -> IncomparableError:
    """Return the error for an image in use, which counts as different."""
    return IncomparableError(f"{path} is in use, so the original cannot be compared with the VM's disk", why=why)

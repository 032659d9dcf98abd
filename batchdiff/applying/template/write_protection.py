"""Remove the write bits of a template's files: an accidental write could damage all its overlays.

This changes the files' ctime, and so their fingerprints. The journal announces the change, then records the new
fingerprints.
"""

from __future__ import annotations

import errno
import os
import stat

from batchdiff.applying.journal.file import Journal, MemoryJournal
from batchdiff.files.filenames import shell_word
from batchdiff.files.fingerprint import Fingerprint
from batchdiff.image.image import Image
from batchdiff.image.storage.copy_up import is_writable
from batchdiff.linux.call_failures import reason
from batchdiff.linux.inode_locks import lock_in
from batchdiff.linux.permissions import WRITE_BITS, Deed, lacking_ownership


def protect(template: Image, journal: Journal | MemoryJournal) -> tuple[str, ...]:
    """Remove the write bits of all regular files of a template's chain; return notices about those that keep them.

    :raises OSError: the change cannot be recorded or made durable.
    """
    notices = []
    for layer in template.layers:
        if not is_writable(layer):
            continue
        lock = lock_in(layer.fd)
        if lock is not None:  # then chmod would be refused, even for root
            notices.append(
                f"the template's file {layer.path} is already {lock.word}, which protects it better than its mode"
                " could"
            )
            continue
        journal.record_protecting()
        try:
            os.fchmod(layer.fd, stat.S_IMODE(os.fstat(layer.fd).st_mode) & ~WRITE_BITS)
        except OSError as error:
            why = reason(error, Deed.CHANGE_MODE, layer.path)
            notices.append(
                f"the template's file {layer.path} keeps its write permission: {why}. {_advice(layer.path, error)}"
            )
            continue
        os.fsync(layer.fd)
        journal.record_changed(layer.fingerprint())
    return tuple(notices)


def _advice(path: str, error: OSError) -> str:
    remove = "have root run" if lacking_ownership(Deed.CHANGE_MODE, path) else "remove the permission yourself:"
    if error.errno == errno.EROFS:  # a read-only filesystem protects the file, too
        remove = f"once files there can be changed, {remove}"
    return f"{remove[0].upper()}{remove[1:]} `chmod a-w {shell_word(path)}`"


def record_interrupted_protection(
    template: Image, planned: tuple[Fingerprint, ...], journal: Journal | MemoryJournal
) -> None:
    """Record the new fingerprints that an interrupted apply may have left unrecorded."""
    for layer, before in zip(template.layers, planned, strict=False):
        now = layer.fingerprint()
        if not journal.history.protecting or now == before or now in journal.history.changed or is_writable(layer):
            continue
        if before.is_unwritten(now):
            journal.record_changed(now)

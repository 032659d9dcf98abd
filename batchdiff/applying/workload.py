"""Predict how many bytes a verb will write and compare, to show its progress.

::

    apply      a new overlay        write its data; verify the whole disk or, with `--verify changed`, only what
                                    the overlay stores, unless an image is on a block device
               a published one      verify the whole disk, if its original is to be quarantined or deleted
    restore    compare the whole disk, or write and verify it if there is nothing to compare with;
               nothing if changes are discarded
    purge      verify the whole disk
    verify     verify the whole disk, if there is an original

If restore finds a difference, which cannot be predicted, writing and verifying the disk are added.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence

from batchdiff.applying.guests.file_names import original_names, where_is
from batchdiff.applying.guests.guest_files import find_original, rebuilt_is_in_place
from batchdiff.applying.guests.next_action import Action, IncomingAt, OutgoingAt, Scene, next_action
from batchdiff.applying.journal.records import GuestState
from batchdiff.applying.restore_without_template import GuestWithState
from batchdiff.applying.session.session import Session
from batchdiff.applying.swap.apply_task import ApplyOptions
from batchdiff.applying.swap.rebuild_task import expect_rebuild
from batchdiff.choices import Retire, VerifyMode
from batchdiff.errors import GuestError, ImageError
from batchdiff.image_source import ImageSource
from batchdiff.plan.plan import GuestToConvert
from batchdiff.progress import Meter, Phase


def expect_apply(session: Session, guests: Iterable[GuestToConvert], options: ApplyOptions) -> None:
    """Expect the work of an apply."""
    for guest in guests:
        state = session.journal.state(guest.name)
        size = guest.image.virtual_size
        if state is None or not state.published:
            data = guest.diff.data.units * guest.diff.unit
            session.meter.expect(guest.name, Phase.WRITE, data)
            images = guest.source, session.plan.template.source
            if options.verify is VerifyMode.CHANGED and not _is_on_device(*images):
                size = min(data + guest.diff.zero.units * guest.diff.unit, size)
            session.meter.expect(guest.name, Phase.VERIFY, size)
        elif _is_to_be_retired(guest, guest.retired(options.retire)):
            session.meter.expect(guest.name, Phase.VERIFY, size)


def expect_restore(session: Session, found: Sequence[GuestWithState], *, discarding: bool) -> None:
    """Expect the work of a restore."""
    expect_dry_restore(session, found, discarding=discarding)
    for guest, state in found:
        if not discarding and not _is_compared(guest, state):
            expect_rebuild(session.meter, guest)


def expect_dry_restore(session: Session, found: Iterable[GuestWithState], *, discarding: bool) -> None:
    """Expect the comparisons of a restore."""
    for guest, state in found:
        if not discarding and _is_compared(guest, state):
            session.meter.expect(guest.name, Phase.COMPARE, guest.image.virtual_size)


def _is_compared(guest: GuestToConvert, state: GuestState) -> bool:
    return rebuilt_is_in_place(guest, state) or _has_original(guest, state)


def _has_original(guest: GuestToConvert, state: GuestState) -> bool:
    try:
        return find_original(guest, state) is not None
    except (GuestError, ImageError):
        return False  # either of two files could be the original, or it cannot be examined: reported later


def expect_health_check(meter: Meter, found: Iterable[GuestWithState]) -> None:
    """Expect the comparisons of a verify."""
    expect_comparisons(meter, [guest for guest, state in found if _has_original(guest, state)])


def expect_comparisons(meter: Meter, guests: Iterable[GuestToConvert]) -> None:
    """Expect a comparison of each guest's whole disk."""
    for guest in guests:
        meter.expect(guest.name, Phase.VERIFY, guest.image.virtual_size)


def _is_to_be_retired(guest: GuestToConvert, how: Retire) -> bool:
    names = original_names(guest.source.path)
    where = where_is(names, guest.image.fingerprints[0])
    if where is OutgoingAt.DELETING:  # an apply died: the original is put back first
        where = OutgoingAt.ASIDE if os.path.lexists(names.own) else OutgoingAt.NAMED
    scene = Scene(where, IncomingAt.PUBLISHED, verified=False, retire=how, one_name=False)
    return next_action(scene) is Action.VERIFY


def _is_on_device(*images: ImageSource) -> bool:
    for path in (path for image in images for path in image.files):
        try:
            if stat.S_ISBLK(os.stat(path).st_mode):
                return True
        except OSError:
            continue  # whatever opens the file will report this
    return False

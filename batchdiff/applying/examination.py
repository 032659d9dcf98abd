"""Are template and overlays still what they were? Only looks; what `batchdiff verify` tells.

::

    template   fingerprints as planned -> same      else its digest: same content, only touched -> or changed
    overlay    is it there, does qemu-img check pass, does it rest on this template
               the original is there and the overlay unused -> qemu-img compare of every byte
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace

from batchdiff.applying.executor import chosen
from batchdiff.applying.notes import Notes, Standing
from batchdiff.applying.overlaying import overlay_source, planned_parts
from batchdiff.applying.places import is_same_file, original_names, where_is
from batchdiff.applying.steps import OutgoingAt
from batchdiff.applying.stopping import Stop
from batchdiff.applying.template import check_planned, known_digest
from batchdiff.applying.verification import Comparison, require_judges, verify
from batchdiff.applying.verify_mode import VerifyMode
from batchdiff.errors import BatchdiffError, PlanError, StopError, VerificationError
from batchdiff.image import qemu_img
from batchdiff.image.digest import content_digest
from batchdiff.image.fingerprint import fingerprint_at
from batchdiff.image.image import Image
from batchdiff.image.opening import inspect, open_image
from batchdiff.model.finding import Finding, Health
from batchdiff.model.plan import GuestPlan, Plan


def examined(plan: Plan, notes: Notes, names: tuple[str, ...] | None, stop: Stop) -> Iterator[Finding]:
    """What is found of the template first, then of each guest whose overlay was published.

    :raises UsageError: there is no guest of that name.
    :raises ProgramError: qemu-img is missing.
    :raises ImageError: the template cannot be read.
    """
    guests = chosen(plan, names)
    require_judges(VerifyMode.FULL)
    with open_image(plan.template.source) as template:
        inspect(template)
        yield _template(plan, notes, template, stop)
        for guest in guests:
            standing = notes.standings.get(guest.name)
            if standing is not None and standing.published:
                yield _guest(guest, standing, plan, stop)


def _template(plan: Plan, notes: Notes, template: Image, stop: Stop) -> Finding:
    path = plan.template.source.path
    try:
        check_planned(template, plan.template, notes)
    except PlanError as error:
        known = known_digest(plan)
        if not known:
            return Finding("template", path, Health.UNKNOWN, f"{error.why}; its digest was never taken")
        if content_digest(template, check=stop.check) == known:
            return Finding("template", path, Health.TOUCHED, f"{error.why}; its content is what it was")
        damage = "all overlays on it are damaged: start no VM on them; bring the template back from a backup"
        return Finding("template", path, Health.DAMAGED, f"its content changed ({error.why}); {damage}")
    return Finding("template", path, Health.SOUND, "as planned")


def _guest(guest: GuestPlan, standing: Standing, plan: Plan, stop: Stop) -> Finding:
    path = guest.overlay_path
    now = fingerprint_at(path)
    if now is None or not is_same_file(standing.overlay, now):
        gone = "it is gone" if now is None else "another file stands in its place"
        return Finding(guest.name, path, Health.DAMAGED, gone)
    try:
        return _judged(guest, standing, plan, stop)
    except StopError:
        raise
    except VerificationError as error:
        return Finding(guest.name, path, Health.DAMAGED, str(error))
    except BatchdiffError as error:
        return Finding(guest.name, path, Health.UNKNOWN, str(error))
    except OSError as error:
        return Finding(guest.name, path, Health.UNKNOWN, error.strerror or str(error))


def _judged(guest: GuestPlan, standing: Standing, plan: Plan, stop: Stop) -> Finding:
    source = overlay_source(guest, plan.template.source)
    record, _ = planned_parts(guest)
    names = original_names(guest.source.path)
    where = where_is(names, record.fingerprints[0])
    now = fingerprint_at(guest.overlay_path)
    used = standing.overlay is None or now is None or not standing.overlay.differs_in_ctime_only(now)
    if where is OutgoingAt.GONE or used:
        with open_image(source) as overlay:
            inspect(overlay)
        qemu_img.check(source, record.virtual_size, stopped=lambda: stop.is_asked)
        stop.check()
        why = "a VM has written to it since" if used else "no original is there to compare it with"
        return Finding(guest.name, guest.overlay_path, Health.SOUND, f"no error in it; {why}")
    original = replace(guest.source, path=names.at(where))
    verify(Comparison(original, source), VerifyMode.FULL, lambda: stop.is_asked)
    place = os.path.basename(original.path)
    return Finding(guest.name, guest.overlay_path, Health.SOUND, f"every byte as in its original ({place})")

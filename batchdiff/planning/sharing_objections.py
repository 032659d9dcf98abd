"""Refusal, before the scan, of guests that are to share blocks in place but cannot."""

from __future__ import annotations

import os

from batchdiff.choices import Strategy, Verdict
from batchdiff.errors import ImageError
from batchdiff.files.filenames import shell_word
from batchdiff.image.files import ReadObserver
from batchdiff.image.image import Image
from batchdiff.image.layer import Layer
from batchdiff.image.storage.sharing_obstacle import obstacle_to_sharing
from batchdiff.linux.inode_locks import lock_in
from batchdiff.linux.permissions import Deed, lacking_access
from batchdiff.linux.reflinks import why_not_shared
from batchdiff.planning.candidates import Candidate, Part
from batchdiff.planning.guest_plans import untouched_guest
from batchdiff.planning.scan.exports import is_exported
from batchdiff.planning.scan.reopening import reopen

_INSTEAD = f"use `strategy: {Strategy.OVERLAY}` for this guest"


def without_unshareable(parts: list[Part], template: Image, observer: ReadObserver | None = None) -> list[Part]:
    """Return the parts; refuse guests that are to share blocks but cannot do so or cannot be opened."""
    return [
        _decided(part, template, observer)
        if isinstance(part, Candidate) and part.entry.strategy is Strategy.SHARE
        else part
        for part in parts
    ]


def _decided(candidate: Candidate, template: Image, observer: ReadObserver | None) -> Part:
    try:
        with reopen(candidate.record, observer) as guest:
            reason = why_not_shareable(template, guest) or _why_unchangeable(guest)
    except ImageError as error:
        reason = str(error)
    return untouched_guest(candidate.entry, candidate.record, Verdict.REFUSE, reason) if reason else candidate


def why_not_shareable(template: Image, guest: Image) -> str:
    """Return why two images cannot share any block, and what to do instead; empty if they may be able to."""
    if is_exported(template) or is_exported(guest):
        whose = "the template's" if is_exported(template) else "its"
        return f"only QEMU can read {whose} data, because it is compressed or encrypted; {_INSTEAD}"
    fault = obstacle_to_sharing(template, guest)
    return "" if fault is None else f"{fault.why}. {fault.remedy}".rstrip(".")


def can_be_shared(template: Image) -> bool:
    """Return whether other files could share blocks with some file of a template."""
    files = [layer.fd for layer in template.layers]
    return not is_exported(template) and any(why_not_shared(each, each) is None for each in files)


def _why_unchangeable(guest: Image) -> str:
    return next(filter(None, map(_why_fixed, guest.own_files)), "")


def _why_fixed(layer: Layer) -> str:
    path = layer.path
    if os.fstatvfs(layer.fd).f_flag & os.ST_RDONLY:
        return f"the filesystem of {path} is mounted read-only; mount it read-write, or {_INSTEAD}"
    if (lock := lock_in(layer.fd)) is not None and lock.letter == "i":
        unlock = f"`chattr -{lock.letter} {shell_word(path)}`"
        return f"{path} is {lock.word} (attribute {lock.letter}, see lsattr), which stops even root; run {unlock}"
    is_owner = os.geteuid() in {0, os.fstat(layer.fd).st_uid}
    lacking = "" if is_owner else lacking_access(Deed.WRITE, path)
    return (
        f"{lacking}; plan and apply as root, as the owner of the file, or as another user with that permission"
        if lacking
        else ""
    )

"""Write the sidecar of a template without losing the entries that other processes write."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from batchdiff.errors import PlanError
from batchdiff.files.atomic_write import discard_leftovers, write_whole
from batchdiff.image.image import Image
from batchdiff.plan.file import read_regular
from batchdiff.plan.plan import Plan
from batchdiff.plan.sidecar import (
    LARGEST,
    MOST_BEFORE,
    Chain,
    OverlayOrigin,
    Sidecar,
    encode_sidecar,
    origin_fields,
    read_sidecar,
    sidecar_path,
    sidecar_paths,
    to_document,
)
from batchdiff.units import few

_MOST_EARLIER = 16


def record_overlay(
    template: Image, digest: str, overlay_path: str, origin: OverlayOrigin, *, earlier: tuple[Chain, ...]
) -> None:
    """Record an overlay of the template, and the digest of the template's content.

    After ``rethin``, the replaced overlay's origin is kept, too. ``earlier``: former fingerprints of the chain,
    with the same content.

    :raises PlanError: other overlays need different content, or the sidecar cannot be read.
    :raises OSError: the sidecar cannot be written.
    """

    def change(before: Sidecar) -> Sidecar:
        if before.digest != digest:
            _require_no_overlays(before, template.path, but=overlay_path)
        known = (*before.earlier, before.fingerprints) if before.digest == digest else ()
        return Sidecar(
            digest,
            template.fingerprints(),
            before.overlays | {overlay_path: _after(before.overlays.get(overlay_path), origin, overlay_path)},
            _distinct((*known, *earlier), but=template.fingerprints()),
        )

    _rewrite(template, sidecar_path(template.path, overlay_path), change)


def _after(last: OverlayOrigin | None, origin: OverlayOrigin, overlay_path: str) -> OverlayOrigin:
    if last is None or origin.original != overlay_path:
        return origin
    # A later run of the same plan may record the same overlay again.
    known = last.before if last.made_by(origin.plan, origin.guest) else last.lineage
    return replace(origin, before=tuple(replace(each, before=()) for each in known[:MOST_BEFORE]))


def check_other_overlays(template_path: str, digest: str, overlay_path: str) -> None:
    """Make sure that no existing overlay in the sidecar needs different content.

    ``digest``: empty if unknown; then only make sure that the sidecar can be read.

    :raises PlanError: one does, or the sidecar cannot be read.
    """
    before = _known(sidecar_path(template_path, overlay_path))
    if before is not None and digest not in {before.digest, ""}:
        _require_no_overlays(before, template_path)


def _require_no_overlays(before: Sidecar, template_path: str, *, but: str = "") -> None:
    others = [path for path in before.overlays if path != but and os.path.lexists(path)]
    if others:
        raise _other_content(template_path, others)


def _known(path: str) -> Sidecar | None:
    before = read_sidecar(path)
    if before is None and os.path.lexists(path):
        raise PlanError(
            f"{path} cannot be read",
            why="it is damaged, is not a regular file, was written by a newer batchdiff, or cannot be read"
            " by this user, so the overlays of the template are not known",
            remedy="If it names no overlay that you need, move it away, then run the same command again.",
        )
    return before


def _other_content(template_path: str, overlays: list[str]) -> PlanError:
    need, which = ("needs", "that overlay") if len(overlays) == 1 else ("need", "those overlays")
    return PlanError(
        f"the content of {template_path} changed after overlays were created on it",
        why=f"{few(sorted(overlays))} {need} the former content, as"
        f" {sidecar_path(template_path, overlays[0])} records",
        remedy=f"Bring the template back from a backup; do not start a VM on {which} until then.",
    )


def forget_overlay(template_path: str, overlay_path: str, *, plan: str, guest: str) -> None:
    """Remove a plan's overlay from the template's sidecar, if that can be read.

    ``plan``: the plan's checksum. After ``rethin``, the replaced overlay is recorded instead.

    :raises OSError: the sidecar cannot be written.
    """
    path = sidecar_path(template_path, overlay_path)
    if not os.path.lexists(path):
        return
    with _locked_folder(path):
        before = read_sidecar(path)
        if before is not None and overlay_path in before.overlays:
            document = json.loads(read_regular(path, LARGEST))
            left = _without(before.overlays[overlay_path], plan, guest)
            del document["overlays"][overlay_path]
            if left is not None:
                document["overlays"][overlay_path] = origin_fields(left)
            write_whole(path, encode_sidecar(document))


def _without(origin: OverlayOrigin, plan: str, guest: str) -> OverlayOrigin | None:
    """Return the origin before the one recorded by a plan, if any."""
    lineage = origin.lineage
    at = next((number for number, each in enumerate(lineage) if each.made_by(plan, guest)), len(lineage))
    left = lineage[at + 1 :]
    return replace(left[0], before=left[1:]) if left else None


def discard_unfinished(plan: Plan) -> None:
    """Remove the unfinished sidecar files of dead processes; ignore failures.

    Call this once per command: the folders may contain thousands of files.
    """
    for path in sidecar_paths(plan):
        with contextlib.suppress(OSError), _locked_folder(path):
            discard_leftovers(path)


def _distinct(chains: tuple[Chain, ...], *, but: Chain) -> tuple[Chain, ...]:
    found = dict.fromkeys(chain for chain in chains if chain and chain != but)
    return tuple(found)[-_MOST_EARLIER:]


@contextmanager
def _locked_folder(path: str) -> Iterator[None]:
    """Keep other batchdiff processes from changing sidecars in the folder of ``path``."""
    folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _rewrite(template: Image, path: str, change: Callable[[Sidecar], Sidecar]) -> None:
    with _locked_folder(path):
        before = _known(path)
        after = change(before or Sidecar("", (), {}))
        if after != before:
            about = {
                "path": template.path,
                "format": template.source.format.value,
                "virtual_size": template.virtual_size,
            }
            write_whole(path, encode_sidecar(to_document(after, about)))

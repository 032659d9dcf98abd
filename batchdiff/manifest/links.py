"""Checks that relative backing file names still work if a VM opens its image through a symbolic link.

QEMU resolves a relative backing file name against the folder in the path by which it opened the image. Links among
the folders of that path do no harm, because the kernel follows them. But if the path's last component is a
link, the name can lead elsewhere::

    /far/vms/web01.img -> /disks/lun7.img     has the backing file name "../tpl/t.img"
    /disks/../tpl/t.img = /tpl/t.img          from the file's own folder, as batchdiff resolves it
    /far/vms/../tpl/t.img = /far/tpl/t.img    from the link's folder, as the VM's QEMU resolves it

So both paths must resolve to the same file. Source: QEMU, ``bdrv_get_full_backing_filename`` in block.c.
"""

from __future__ import annotations

import os
from contextlib import closing
from itertools import pairwise
from typing import TYPE_CHECKING

from batchdiff.errors import ImageError
from batchdiff.files.identity import is_one_image
from batchdiff.manifest.paths import resolve_folder
from batchdiff.manifest.text.problems import Problems
from batchdiff.plan.overlay_options import BackingPath, backing_name
from batchdiff.quoting import show, show_whole
from batchdiff.signals import held_signals

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchdiff.image_source import ImageSource
    from batchdiff.manifest.images import FoundGuest, FoundImage


def check_links(
    template: FoundImage | None,
    guests: Sequence[FoundGuest],
    overlays: Sequence[str | None],
    problems: Problems,
) -> None:
    """Report relative backing file names, of images and future overlays, that resolve differently through a link.

    ``overlays``: one absolute path per guest; None for an overlay with a problem.
    """
    if template is not None:
        # Overlays name the template by its own path, even if the manifest uses a link.
        _check_chain(template, template.place.path, problems)
    for guest, overlay in zip(guests, overlays, strict=True):
        _check_chain(guest.image, guest.place.named, problems)
        if template is not None and overlay is not None and guest.written.in_place:
            _check_overlay(guest, overlay, template, problems)


def _check_overlay(guest: FoundGuest, overlay: str, template: FoundImage, problems: Problems) -> None:
    if guest.written.options.backing_path is not BackingPath.RELATIVE:
        return
    name = backing_name(overlay, template.source.path, BackingPath.RELATIVE)
    found = _resolved(name, guest.place.named)
    if found == os.path.realpath(template.source.path):
        return
    link, file = show(guest.place.named), show_whole(overlay)
    problems.add(
        guest.written.image.path_where,
        f"{link} is a symbolic link to {file}. The overlay there would have the relative backing file name "
        f"{show(name)}: through the link, QEMU would open {show(found)}, not the template. Write "
        f"`backing_path: absolute` for this guest, or use the path {file} here and in the VM's definition",
    )


def _check_chain(image: FoundImage, opened: str, problems: Problems) -> None:
    """Follow a chain as QEMU does from ``opened``; report the first name that leads elsewhere."""
    user = "the VM's definition"
    sources = (image.source, *image.source.backing)
    for source, (above, below) in zip(sources, pairwise((image.place, *image.chain)), strict=False):
        name = _backing_name(source)
        if name is None or not is_one_image(below.path, _resolved(name, above.path)):
            return  # no usable name, or the name of another image: `batchdiff plan` checks for both
        found = _resolved(name, opened)
        if not is_one_image(below.path, found):
            link, file = show(opened), show_whole(above.path)
            problems.add(
                above.where,
                f"{link} is a symbolic link to {file}, which has the relative backing file name {show(name)}: "
                f"through the link, QEMU opens {show(found)}, not {show(below.path)}. "
                f"Use the path {file} here and in {user}",
            )
            return
        opened, user = resolve_folder(os.path.dirname(opened), name), f"the header of {show(above.path)}"


def _resolved(name: str, opened: str) -> str:
    return os.path.realpath(os.path.join(os.path.dirname(opened), name))


def _backing_name(source: ImageSource) -> str | None:
    # Only declared chains need this import, which loads numpy. If Ctrl-C interrupts it, numpy reports a broken
    # installation.
    with held_signals():
        from batchdiff.image.open import open_layer  # noqa: PLC0415

    try:
        with closing(open_layer(source)) as layer:
            backing = layer.backing
    except (ImageError, OSError):  # `batchdiff plan` reports what is wrong with the image
        return None
    name = None if backing is None else backing.name
    return None if name is None or ":" in name.split("/", 1)[0] or "\0" in name else name

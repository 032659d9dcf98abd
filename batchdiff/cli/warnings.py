"""Warnings about a valid manifest."""

from __future__ import annotations

from collections.abc import Callable

from batchdiff.cli.console import Console
from batchdiff.cli.format_doubts import warn_of_formats
from batchdiff.cli.guest_file_warnings import warn_of_files
from batchdiff.image.files import ReadObserver
from batchdiff.image_source import ImageFormat
from batchdiff.linux.device_names import device_number, fleeting, lasting_alias
from batchdiff.manifest.manifest import Manifest
from batchdiff.progress import ignore
from batchdiff.report.figures import count_of

_MOST_IMAGES = 5


def warn_of_manifest(
    console: Console,
    manifest: Manifest,
    observer: ReadObserver | None = None,
    recognised: Callable[[int], None] = ignore,
) -> None:
    """Print warnings about a valid manifest.

    ``recognised`` is called with the number of images examined so far.
    """
    for warning in manifest.warnings:
        console.warn(f"warning: {manifest.path}:{warning}")
    warn_of_formats(console, manifest, observer, recognised)
    pending = [guest for guest in manifest.guests if guest.converted is None and not guest.objection]
    raw = [guest for guest in pending if guest.in_place and guest.image.format is ImageFormat.RAW]
    for form in dict.fromkeys(guest.options.format for guest in raw):
        console.warn(_raw_in_place([guest.image.path for guest in raw if guest.options.format is form], form))
    _warn_of_names(console, manifest)
    warn_of_files(console, manifest, [guest for guest in pending if guest.gets_overlay])


def _warn_of_names(console: Console, manifest: Manifest) -> None:
    """Warn of block devices whose names may refer to other disks later."""
    doubts = []
    for path, what in _roles(manifest).items():
        number = device_number(path)
        if number is not None and (why := fleeting(path)):
            doubts.append((what, path, why, number))
    for what, path, why, number in doubts[:_MOST_IMAGES]:
        console.warn(f"warning: {what}, {path}, {why}. {_better_name(number)}")
    if len(doubts) > _MOST_IMAGES:
        more = count_of(len(doubts) - _MOST_IMAGES, "more block device")
        console.warn(f"warning: the manifest lacks lasting names for {more}")


def _roles(manifest: Manifest) -> dict[str, str]:
    images = [("the template", manifest.template)]
    images += [(f"the guest {guest.name}", guest.image) for guest in manifest.guests]
    roles: dict[str, str] = {}
    for what, source in images:
        roles.setdefault(source.path, what)
        for below in source.backing:
            roles.setdefault(below.path, f"a backing file of {what}")
    return roles


def _better_name(number: int) -> str:
    alias = lasting_alias(number)
    if alias is not None:
        return f"Write {alias} instead: that name lasts"
    return (
        "Write a name that lasts, such as /dev/VG/LV or one in /dev/disk/by-id; for a loop device, name its file"
    )


def _raw_in_place(paths: list[str], form: str) -> str:
    named = ", ".join(paths[:_MOST_IMAGES]) + (
        f" and {len(paths) - _MOST_IMAGES} more" * (len(paths) > _MOST_IMAGES)
    )
    one = len(paths) == 1
    return (
        f"warning: {f'a {form} overlay' if one else f'{form} overlays'} will take the place of"
        f" {'the raw image' if one else 'raw images:'} {named}. A VM whose definition still has the format raw"
        " would overwrite its overlay and so destroy it. After `apply`, and before the"
        f" {'VM starts' if one else 'VMs start'}, change the format in"
        f" {'its definition' if one else 'their definitions'} to {form}; or leave out `overlay: {{path: same}}`"
    )

"""Warnings about images that seem to have a format other than the declared one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from batchdiff.cli.console import Console
from batchdiff.image.files import ReadObserver
from batchdiff.image.format_marks import looks_like
from batchdiff.image_source import ImageFormat, ImageSource
from batchdiff.manifest.manifest import Manifest
from batchdiff.plan.plan import Plan
from batchdiff.progress import ignore
from batchdiff.report.printable import printable

if TYPE_CHECKING:
    from batchdiff.applying.journal.records import History


def warn_of_formats(
    console: Console,
    manifest: Manifest,
    observer: ReadObserver | None = None,
    recognised: Callable[[int], None] = ignore,
) -> None:
    """Warn if the template or a guest seems to have a format other than the one that the manifest declares.

    Converted guests and those with an objection are left out.
    ``recognised`` is called with the number of images examined so far, first with 0.
    """
    pending = [guest for guest in manifest.guests if guest.converted is None and not guest.objection]
    _warn(console, manifest.template, [(guest.name, guest.image) for guest in pending], observer, recognised)


def warn_of_planned_formats(
    console: Console, plan: Plan, history: History, names: Iterable[str] | None = None
) -> None:
    """Warn if an image of a plan seems to have a format other than the declared one.

    Only the template and guests to convert or share are examined. ``names``: the guests to choose from; None for
    all. A guest whose overlay has taken its path is left out.
    """
    chosen = None if names is None else set(names)
    guests = [
        (guest.name, guest.source)
        for guest in (*plan.to_convert, *plan.to_share)
        if (chosen is None or guest.name in chosen)
        and not (guest.name in history.published and guest.overlay_path == guest.source.path)
    ]
    _warn(console, plan.template.source, guests)


def _warn(
    console: Console,
    template: ImageSource,
    guests: Iterable[tuple[str, ImageSource]],
    observer: ReadObserver | None = None,
    recognised: Callable[[int], None] = ignore,
) -> None:
    images = [("the template", template)]
    images += [(f"the guest {name}", source) for name, source in guests]
    recognised(0)
    for number, (what, source) in enumerate(images, start=1):
        doubt = _doubt(source.format, looks_like(source.path, observer))
        recognised(number)
        if doubt:
            console.warn(f"warning: {what}, {printable(source.path)}, {doubt}")


def _doubt(declared: ImageFormat, found: ImageFormat | None) -> str:
    if found is None or found is declared:
        return ""
    if declared is ImageFormat.RAW and found is ImageFormat.LUKS:
        return (
            "is declared raw, but looks like a luks image. The declaration is right if the VM's OS encrypts its"
            " whole disk; if QEMU encrypts the disk, write `format: luks` and `secret_file: PATH` in the manifest"
        )
    if declared is ImageFormat.RAW:
        return (
            f"is declared raw, but looks like a {found} image. A VM therefore sees the {found} file itself as its"
            f" disk. If that is not what you want, write `format: {found}` in the manifest"
        )
    if found is ImageFormat.RAW:
        looks = f"does not start with a {declared} header"
    else:
        looks = f"looks like a {found} image"
    return f"is declared {declared}, but {looks}; did you mean `format: {found}`?"

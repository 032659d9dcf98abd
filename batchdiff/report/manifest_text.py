"""The template and the guests of a manifest, one per line (``-v``)."""

from __future__ import annotations

from collections.abc import Iterator

from batchdiff.manifest.manifest import GuestEntry, Manifest
from batchdiff.report.printable import printable
from batchdiff.units import format_size


def guest_lines(manifest: Manifest) -> Iterator[str]:
    """Yield printable lines: the template, the chosen guests, then the others."""
    template = manifest.template
    yield printable(f"template: {template.path} ({template.format})")
    for guest in manifest.guests:
        yield printable(f"{guest.name}: {_line(guest)}")
    for guest in manifest.left_out:
        yield printable(f"{guest.name}: not chosen with --guest")


def _line(guest: GuestEntry) -> str:
    origin = f"from the glob {guest.glob}" if guest.glob else "listed by path"
    what = f"{guest.named or guest.image.path} ({guest.image.format}), {origin}"
    if guest.alias:
        what += f", a link to {guest.image.path}"
    if guest.objection:
        return f"{what}; cannot be a guest: {guest.objection}"
    if guest.converted is not None:
        return f"{what}; converted by an earlier plan to the overlay {guest.overlay_path}"
    if not guest.gets_overlay:
        return f"{what}; will share blocks in place with the template"
    where = "in the guest's place" if guest.in_place else guest.overlay_path
    options = guest.options
    cluster = "auto" if options.cluster_size is None else format_size(options.cluster_size)
    return f"{what} -> {where} ({options.format}, clusters {cluster})"

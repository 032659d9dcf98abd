"""Remarks on the guests of a plan."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from batchdiff.choices import Retire, Verdict
from batchdiff.files import own_files
from batchdiff.plan.overlay_options import Compat, Compression
from batchdiff.plan.plan import GuestPlan, GuestToConvert, why_unlike
from batchdiff.qcow2.geometry import DEFAULT_REFCOUNT_BITS
from batchdiff.report.facts import PlanFacts
from batchdiff.report.figures import count_of
from batchdiff.report.plan.outliers import BetterClusters, cluster_advice, similarity_if_unlike
from batchdiff.report.printable import printable
from batchdiff.units import few, format_size

_MOST_LINKS = 3


def of_another_template(facts: PlanFacts) -> Iterator[str]:
    """Yield a printable warning if guests were probably copied from another template.

    Refused guests are left out, as are those whose reason already gives this warning.
    """
    found = [(guest, similarity_if_unlike(guest)) for guest in facts.guests if not _reason_has_it(guest)]
    unlike = [(guest, part) for guest, part in found if part is not None]
    if len(unlike) == 1:
        guest, part = unlike[0]
        yield (
            f"{printable(guest.name)}: it has next to nothing in common with the template, which has {part:.2%} of"
            " the guest's data. It was probably copied from another template."
        )
    elif unlike:
        least, most = (f"{pick(part for _, part in unlike):.2%}" for pick in (min, max))
        parts = least if least == most else f"{least} to {most}"
        yield (
            f"{_named([guest for guest, _ in unlike])}: they have next to nothing in common with the template,"
            f" which has {parts} of their data. These {len(unlike)} guests were probably copied from another"
            " template."
        )


def _reason_has_it(guest: GuestPlan) -> bool:
    similarity = None if guest.diff is None else guest.diff.similarity
    return guest.verdict is Verdict.REFUSE or guest.reason == why_unlike(similarity) != ""


def remarks(facts: PlanFacts) -> Iterator[str]:
    """Yield the remarks on a plan, each printable."""
    if any(similarity_if_unlike(guest) is not None for guest in facts.guests):
        yield "`batchdiff discover` finds the template of a guest that was copied from another template."
    chosen = facts.plan.to_convert if facts.has_overlays_in_view else ()
    if better := cluster_advice(facts.pending if chosen else ()):
        yield _of_clusters(better, facts)
    secret = [printable(guest.name) for guest in chosen if guest.options.encryption is not None]
    if secret:
        yield f"{few(secret)}: {_of_secrets(len(secret))}"
    for below, guests in _overlays(facts.pending if chosen else ()).items():
        own = below == facts.plan.template.source.path
        yield _of_overlays("the template" if own else printable(below), guests)
    yield from _of_devices(chosen, facts.plan.retire)
    links = [guest for guest in chosen if guest.alias]
    for guest in links[:_MOST_LINKS]:
        yield f"{printable(guest.name)}: {printable(_of_link(guest, guest.retired(facts.plan.retire)))}"
    if len(links) > _MOST_LINKS:
        more = len(links) - _MOST_LINKS
        named = "is named by a symbolic link" if more == 1 else "are named by symbolic links"
        will = "that link will point" if more == 1 else "those links will point"
        yield f"{count_of(more, 'more guest')} {named} in the manifest: check where {will}."
    alike: dict[str, list[str]] = {}
    for guest in chosen:
        alike.setdefault(", ".join(_unusual(guest)), []).append(printable(guest.name))
    for unusual, names in alike.items():
        if unusual:
            yield f"{few(names)}: {'the overlay uses' if len(names) == 1 else 'the overlays use'} {unusual}."


def _of_secrets(guests: int) -> str:
    if guests == 1:
        return (
            "the overlay is encrypted. Its VM needs the secret, and so do verify, restore and purge: keep the"
            " secret file."
        )
    return (
        "the overlays are encrypted. Their VMs need the secrets, and so do verify, restore and purge: keep the"
        " secret files."
    )


def _of_clusters(better: BetterClusters, facts: PlanFacts) -> str:
    all_of_them = len(better.names) == len(facts.plan.to_convert)
    whose = "the overlay" if len(better.names) == 1 else "the overlays"
    whose += "" if all_of_them else f" of {few(list(map(printable, better.names)))}"
    saved = format_size(better.planned - better.at_most)
    return (
        f"With `cluster_size: {format_size(better.cluster_size).replace(' ', '')}`, {whose} would take at most"
        f" {format_size(better.at_most)} on disk instead of {format_size(better.planned)}: at least {saved} less."
    )


def _unusual(guest: GuestToConvert) -> Iterator[str]:
    options, geometry = guest.options, guest.diff.geometry
    if options.compat is Compat.V2:
        yield f"qcow2 version 2 (compat {options.compat})"
    if geometry.extended_l2:
        yield f"subclusters of {format_size(geometry.granule)} (extended_l2, from QEMU 5.2 on)"
    level = "" if options.compression_level is None else f" level {options.compression_level}"
    if options.compression is Compression.ZSTD:
        yield f"zstd{level} compression (from QEMU 5.1 on)"
    elif level:
        yield f"{options.compression}{level} compression"
    if options.refcount_bits != DEFAULT_REFCOUNT_BITS:
        yield f"refcounts of {options.refcount_bits} {'bit' if options.refcount_bits == 1 else 'bits'}"
    if options.lazy_refcounts:
        yield "lazy refcounts"


def _overlays(guests: Iterable[GuestToConvert]) -> dict[str, list[GuestToConvert]]:
    found: dict[str, list[GuestToConvert]] = {}
    for guest in guests:
        if guest.source.backing:
            found.setdefault(guest.source.backing[0].path, []).append(guest)
    return found


def _of_overlays(below: str, guests: list[GuestToConvert]) -> str:
    savings = [guest.diff.savings for guest in guests]
    now, then = sum(each.allocated_bytes for each in savings), sum(each.overlay_disk_bytes for each in savings)
    one = len(guests) == 1
    are, new = ("is an overlay", "the new one") if one else ("are overlays", "the new ones")
    text = f"{_named(guests)} {are} of {below} now, {format_size(now)} on disk{'' if one else ' in all'};"
    text += f" {new} will take {format_size(then)}."
    paying = [guest for guest in guests if guest.diff.savings.saved_bytes < 0]
    for verb, some in (("save", [guest for guest in guests if guest not in paying]), ("cost", paying)):
        if some:
            much = format_size(abs(sum(guest.diff.savings.saved_bytes for guest in some)))
            text += f" {'It' if one else _named(some)} {verb}{'s' if len(some) == 1 else ''} {much}."
    return text


def _named(guests: Sequence[GuestPlan]) -> str:
    return few([printable(guest.name) for guest in guests])


def _of_devices(guests: Iterable[GuestToConvert], retire: Retire) -> Iterator[str]:
    names = [printable(guest.name) for guest in guests if guest.is_on_device]
    despite = "" if retire is Retire.KEEP else f" despite `retire: {retire}`"
    if len(names) == 1:
        yield (
            f"{names[0]}: the original is a block device, so it is kept{despite}. Its space comes back only once"
            " you remove the device, or discard what is on it."
        )
    elif names:
        yield (
            f"{few(names)}: the originals are block devices, so they are kept{despite}. Their space comes back"
            " only once you remove the devices, or discard what is on them."
        )


def _of_link(guest: GuestToConvert, retire: Retire) -> str:
    file, aside = guest.source.path, guest.source.path + own_files.QUARANTINE
    begin = f"{guest.alias} is a symbolic link to {file}."
    if guest.overlay_path == file:
        return f"{begin} The overlay takes the place of that file, so the link points to the overlay."
    match retire:
        case Retire.KEEP:
            gone = f"once it is deleted, or quarantined as {aside}, the link points to nothing."
            end = f"The original keeps its name; {gone}"
        case Retire.QUARANTINE:
            end = f"The original becomes {aside}, and the link points to nothing."
        case Retire.DELETE:
            end = "The original is deleted, and the link points to nothing."
    return f"{begin} The overlay goes to {guest.overlay_path}. {end}"

"""The text of numbers, times and reasons in reports."""

from __future__ import annotations

from datetime import datetime

from batchdiff.image.storage.exactness import BOUND_WORDS, Exactness, of_difference
from batchdiff.report.table import Align, Column
from batchdiff.units import SUFFIXES, format_size

DASH = "-"
"""Stands for a value that is unknown or does not exist."""

SAVINGS_COLUMNS = (
    Column("guest", Align.LEFT),
    Column("allocated"),
    Column("overlay"),
    Column("saved"),
    Column("share"),
)
"""The first columns of a table of planned or estimated savings."""


def size(count: int | None) -> str:
    """Return a size as text; a dash for None."""
    return DASH if count is None else format_size(count)


def estimated_size(count: int, error: int) -> str:
    """Return ``~1.2 GiB ±9.8 MiB``, or ``1.2 GiB`` if ``error`` is 0."""
    return f"~{format_size(count)} ±{format_size(error)}" if error else format_size(count)


def bounded_size(count: int, exactness: Exactness, error: int = 0) -> str:
    """Return, for example, ``at least 1.2 GiB``, ``unknown`` or ``~1.2 GiB``."""
    if exactness is Exactness.UNKNOWN:
        return "unknown"
    # "At most -3 GiB" would be hard to grasp, so a negative number gets no prefix, not even ``~``.
    words = BOUND_WORDS.get(exactness, "~" if error and count else "")
    return f"{words if count >= 0 else ''}{format_size(count)}"


def bound_of(count: int, exactness: Exactness, guests: int = 1) -> str:
    """Return a size for a sentence; ``guests``: the number of guests whose sizes were added up."""
    kind = {Exactness.AT_LEAST: ", a lower bound", Exactness.AT_MOST: ", an upper bound"}.get(exactness, "")
    in_all = " in all" if guests > 1 and exactness is not Exactness.UNKNOWN else ""
    return f"{bounded_size(count, exactness)}{in_all}{kind if count < 0 else ''}"


def shortfall(count: int, exactness: Exactness) -> str:
    """Return ``12 KiB less free space``, or ``""`` if the gain ``count`` is not negative, or is unknown.

    A gain of at least -12 KiB is a loss of at most 12 KiB.
    """
    is_lost = count < 0 and exactness is not Exactness.UNKNOWN
    words = BOUND_WORDS.get(of_difference(Exactness.EXACT, exactness), "")
    return f"{words}{format_size(-count)} less free space" if is_lost else ""


def bounded_estimate(count: float, exactness: Exactness) -> str:
    """Return ``unknown``, ``~1.2 GiB``, ``at most ~1.2 GiB``, or ``nothing`` for a size known not to exceed 0.

    ``exactness`` does not cover the error of the estimate.
    """
    if count >= 1 and exactness is not Exactness.UNKNOWN:
        return f"{BOUND_WORDS.get(exactness, '')}~{format_size(int(count))}"
    return "nothing" if exactness in {Exactness.EXACT, Exactness.AT_MOST} else "unknown"


def percent(part: float | None) -> str:
    """Return a share as a percentage; a dash for None."""
    if part is None:
        return DASH
    shown = f"{part:.1%}"
    return shown if float(shown[:-1]) else "0.0%"  # never "-0.0%"


def rounded(count: int) -> float:
    """Return a size in bytes, rounded as :func:`format_size` shows it."""
    number, unit = format_size(count).split()
    return float(number) * float(1024 ** SUFFIXES.index(unit))


def count_of(count: int, singular: str) -> str:
    """Return a number with its noun: ``2 guests``."""
    return f"{count} {singular}{'' if count == 1 else 's'}"


def of_several(reason: str) -> str:
    """Return a reason that is worded for one guest or file, reworded for several."""
    for one, several in _OF_DELETING:
        if reason.startswith(one):  # an explanation follows, with a subject of its own
            return several + of_several(reason.removeprefix(one))
    begin, plural = next(((one, several) for one, several in _BEGINNINGS if reason.startswith(one)), ("", ""))
    reason = plural + reason.removeprefix(begin)
    for one, several in _WITHIN:
        reason = reason.replace(one, several, 1)
    return reason


_OF_DELETING = (
    ("deleting it would free nothing: ", "deleting any of them would free nothing: "),
    (
        "whether deleting it would free anything is unknown: ",
        "whether deleting any of them would free anything is unknown: ",
    ),
)


_BEGINNINGS = (
    ("it has nothing in common ", "they have nothing in common "),
    ("it has next to nothing ", "they have next to nothing "),
    ("it has no data", "they have no data"),
    ("it has ", "each has "),
    ("it may ", "each may "),
    ("it would ", "each would "),
    ("it shares ", "each shares "),
    ("it already shares ", "each already shares "),
    ("it is ", "each is "),
    ("it changed ", "each changed "),
    ("its overlay ", "the overlay of each "),
    ("its disk ", "the disk of each "),
    ("its name ", "the name of each "),
    ("its filesystem ", "the filesystem of each "),
    ("its file ", "their file "),
    ("its path ", "the path of each "),
    ("its bytes ", "the bytes of each "),
    ("it seems ", "each seems "),
    ("it starts ", "each starts "),
    ("it cannot be read", "they cannot be read"),
    ("it was not found", "they were not found"),
    ("it or a folder above it ", "each of them, or a folder above it, "),
    ("the folder cannot be listed", "the folders cannot be listed"),
    ("only QEMU can read its ", "only QEMU can read their "),
    ("btrfs has compressed it, ", "btrfs has compressed them, "),
)

_WITHIN = (
    (" of its data) in common ", " of the data of each) in common "),
    (" of its data is in ", " of the data of each is in "),
    (" of its samples that can be compared are in ", " of the samples of each that can be compared are in "),
    ("; if it is a copy, add it to ", "; if they are copies, add them to "),
    (", but its disk is smaller ", ", but their disks are smaller "),
    (", and deleting the original ", ", and deleting its original "),
    (": was it copied ", ": were they copied "),
    (". Was it copied ", ". Were they copied "),
    (" that it has in common ", " that each has in common "),
    (", it would save about ", ", each would save about "),
    (" smaller than the guest is now", " smaller than its guest is now"),
    (", the guest itself is kept", ", the guests themselves are kept"),
    (" for this guest", " for these guests"),
    (" inside this guest", " inside each of these guests"),
    ("; leave this guest out", "; leave these guests out"),
    (" shows the guest's state", " shows the state of each"),
    (" move template and guest to ", " move template and guests to "),
    (" move both to ", " move all to "),
    ("; shut its VM down", "; shut their VMs down"),
    ("; rename it, or `exclude` it", "; rename them, or `exclude` them"),
    ("; rename the file or the folder", "; rename the files or their folders"),
    (", the folder of its overlay", ", the folder of their overlays"),
    (", as the owner of the file, ", ", as the owner of the files, "),
    (" converts it anyway", " converts them anyway"),
    ("; with `minimum_savings: none`, its ", "; with `minimum_savings: none`, their "),
    (" compares it with the template, and may make it ", " compares them with the template, and may make them "),
)


def local_time(moment: str) -> str:
    """Return an ISO 8601 time as local time, to the second; text that cannot be converted stays as it is."""
    try:
        return datetime.fromisoformat(moment).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return moment

"""Keep a plan that can still be undone: give it another name when a new plan takes its place.

::

    fleet.plan.json          the older plan  ->  fleet.2026-11-28T183138Z.plan.json
    fleet.plan.json.journal  its journal     ->  fleet.2026-11-28T183138Z.plan.json.journal

1. Both get their second names, by hard links. 2. The new plan takes the first name, by a rename. 3. The journal
loses its first name. So at every moment both can be found under matching names. If a crash after step 2 leaves the
journal beside the new plan, the checksum in the journal shows that it belongs to the older plan, and the next
apply, restore or purge renames it.

If apply has only let guests share blocks, there is nothing to undo, and the new plan replaces the older one. If
the two plans are the same, the journal would make apply skip guests that may no longer share blocks, so it is
renamed::

    fleet.plan.json.journal  its journal  ->  fleet.plan.json.journal.1795977098000000000, its mtime in ns

If a crash prevents that, the next `batchdiff plan` that makes the same plan renames the journal. Until the new
plan is in place, the journal's lock keeps apply, restore and purge of the older one from starting.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

from batchdiff.applying.journal.file import lock_journal, read_history, set_aside
from batchdiff.applying.journal.records import OF_SHARING, Fate, Goal, GuestState, History, Step
from batchdiff.errors import UsageError
from batchdiff.files.atomic_write import sync_folder
from batchdiff.frozen import frozen
from batchdiff.linux.call_failures import reason
from batchdiff.plan.document import to_dict
from batchdiff.plan.file import checksum_of, write_plan
from batchdiff.plan.head import beginning, plan_head
from batchdiff.plan.plan import Plan

_JOURNAL = ".journal"
_SUFFIX = ".plan.json"

NamesByPlan = Mapping[str, Collection[str]]
"""Names of converted guests, by the checksum of the plan that converted them."""

GuestsByFate = Mapping[Fate | Goal | None, Collection[str]]
"""Names of guests by the fate of their originals, or by the verb that has not finished; by None if unknown."""


@frozen
class KeptPlan:
    """A plan that is kept under another name because of ``guests``."""

    path: str
    guests: GuestsByFate


@frozen
class _Older:
    """A plan that can still be undone; ``journal``: whether the journal beside it is its own."""

    checksum: str
    created: str
    journal: bool
    guests: GuestsByFate


def name_to_keep(path: str, converted: NamesByPlan) -> str | None:
    """Return the name that the plan at ``path`` gets if a different one replaces it; None if it need not be kept.

    Call this before a long scan, which a later failure would waste. ``converted`` is used if the journal is lost.

    :raises UsageError: the plan cannot be given that name.
    :raises PlanError: its journal is locked or cannot be used.
    """
    if not os.path.isfile(path):
        return None
    with _held(path, create=False):
        older = _older(path, converted)
        if older is None:
            return None
        name = _free_name(path, older)
        for target in _linked(path, name, journal=older.journal):
            os.unlink(target)
        return name


def replace_plan(plan: Plan, path: str, converted: NamesByPlan) -> KeptPlan | None:
    """Write a plan. If a different one at its path can still be undone, rename that one, and return it.

    :raises BatchdiffError: the plan cannot be written, or the older one cannot be kept.
    """
    if not os.path.isfile(path):
        write_plan(plan, path)
        return None
    with _held(path, create=True):
        older, checksum = _older(path, converted), checksum_of(to_dict(plan))
        if older is None or older.checksum == checksum:
            begins_anew = older is None and _has_only_shared(read_history(path, checksum))
            write_plan(plan, path)
            if begins_anew:
                set_aside(f"{path}{_JOURNAL}")
                sync_folder(os.path.dirname(os.path.abspath(path)))
            return None
        name = _free_name(path, older)
        with _second_names(path, name, journal=older.journal):
            write_plan(plan, path)
        if older.journal:
            os.unlink(f"{path}{_JOURNAL}")
            sync_folder(os.path.dirname(os.path.abspath(path)))
        return KeptPlan(name, older.guests)


def _has_only_shared(history: History) -> bool:
    # A damaged journal proves nothing: a line that cannot be read may record a conversion.
    is_whole = not history.is_damaged and not history.left
    return is_whole and bool(history.states) and not _by_fate(history)


@contextmanager
def _held(path: str, *, create: bool) -> Iterator[None]:
    """Lock a plan's journal. If it is missing, lock nothing or, with ``create``, a temporary one."""
    journal = f"{path}{_JOURNAL}"
    is_new = not os.path.lexists(journal)
    if is_new and not create:
        yield
        return
    fd = lock_journal(journal)
    try:
        yield
    finally:
        if is_new and os.fstat(fd).st_size == 0:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(journal)
        os.close(fd)


def _older(path: str, converted: NamesByPlan) -> _Older | None:
    head = plan_head(path)
    noted = _plan_of_journal(path)
    checksum = noted if head is None else head.checksum
    history = read_history(path, checksum)
    guests: GuestsByFate = _by_fate(history)
    if not guests and converted.get(checksum):
        guests = {None: converted[checksum]}
    if not guests:
        return None
    # A journal whose first line cannot be read counts as the plan's own, as in read_history().
    journal = noted in {checksum, ""} and bool(beginning(f"{path}{_JOURNAL}"))
    return _Older(checksum, "" if head is None else head.created, journal, guests)


def _plan_of_journal(path: str) -> str:
    line = beginning(f"{path}{_JOURNAL}").partition(b"\n")[0]
    with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
        return str(json.loads(line)["plan"])
    return ""


def _by_fate(history: History) -> GuestsByFate:
    found: dict[Fate | Goal | None, list[str]] = {}
    for name, state in history.states.items():
        if state.step in OF_SHARING:
            continue
        found.setdefault(_fate_or_verb(state), []).append(name)
    return found


def _fate_or_verb(state: GuestState) -> Fate | Goal:
    if state.goal is not Goal.APPLY and state.step not in {Step.PURGED, Step.RESTORED}:
        return state.goal
    if state.aside is not None:
        return Fate.QUARANTINED
    if state.step in {Step.PURGED, Step.RETIRED}:
        return state.fate or Fate.DELETED
    return Fate.KEPT if state.published else Goal.APPLY


def _free_name(path: str, older: _Older) -> str:
    folder, full = os.path.split(path)
    stem, suffix = (full[: -len(_SUFFIX)], _SUFFIX) if full.endswith(_SUFFIX) else os.path.splitext(full)
    when = re.sub(r"[^0-9A-Za-z.+-]", "", older.created) or "older"
    for number in itertools.count(1):
        name = os.path.join(folder, f"{stem}.{when}{'' if number == 1 else f'-{number}'}{suffix}")
        pairs = ((name, path), (f"{name}{_JOURNAL}", f"{path}{_JOURNAL}"))
        if all(_is_free_or_same(new, old) for new, old in pairs):
            return name
    raise AssertionError


def _is_free_or_same(new: str, old: str) -> bool:
    if not os.path.lexists(new):
        return True
    return os.path.exists(new) and os.path.exists(old) and os.path.samefile(new, old)


@contextmanager
def _second_names(path: str, name: str, *, journal: bool) -> Iterator[None]:
    """Give a plan and its journal second names; remove the new ones if the block does not replace the plan."""
    before = os.stat(path)
    made = _linked(path, name, journal=journal)
    try:
        sync_folder(os.path.dirname(os.path.abspath(name)))
        yield
    except BaseException:
        # Once the older plan has lost its first name, it has no names except these.
        if os.path.samestat(before, os.stat(path)):
            for target in made:
                os.unlink(target)
        raise


def _linked(path: str, name: str, *, journal: bool) -> list[str]:
    """Add the second names; return those that did not exist before."""
    made: list[str] = []
    # The journal comes first: after a crash in between, a plan without its journal would be misleading.
    for suffix in (_JOURNAL, "") if journal else ("",):
        target = f"{name}{suffix}"
        try:
            if not os.path.lexists(target):
                os.link(os.path.realpath(f"{path}{suffix}"), target)
                made.append(target)
        except OSError as error:
            for each in made:
                os.unlink(each)
            raise UsageError(
                f"cannot rename the plan {path}, which restore or purge may still need",
                why=reason(error),
                remedy="Write the new plan elsewhere with `-o`.",
            ) from error
    return made

"""The lines of a journal, and the history that they form; pure.

::

    {"time": "...", "step": "begin", "plan": "sha256:..."}
    {"time": "...", "guest": "web01", "step": "checked", "goal": "apply", "temporary": "/images/..."}
    {"time": "...", "guest": "web01", "step": "written", ...}   "verified"   "published"   "retiring"   "retired"
    {"time": "...", "guest": "web01", "step": "retired", ..., "fate": "quarantined", "aside": "/images/..."}
    {"time": "...", "guest": "db01", "step": "sharing", ...}   "shared"
    {"time": "...", "guest": "web01", "step": "failed", "reason": "..."}
    {"time": "...", "step": "protecting"}
    {"time": "...", "step": "changed", "file": {"device": 64768, "inode": 12, ...}}
"""

from __future__ import annotations

import enum
from dataclasses import asdict, field, replace
from typing import Any

from batchdiff.files.fingerprint import Fingerprint
from batchdiff.frozen import frozen
from batchdiff.image.storage.exactness import Exactness
from batchdiff.plan.path_map import PathMap


class Step(enum.StrEnum):
    """The steps of a guest; RETIRED, PURGED, RESTORED and SHARED each end a verb."""

    CHECKED = "checked"
    WRITTEN = "written"
    VERIFIED = "verified"
    PUBLISHED = "published"
    RETIRING = "retiring"
    RETIRED = "retired"
    PURGED = "purged"
    RESTORED = "restored"
    SHARING = "sharing"
    SHARED = "shared"


OF_SHARING = frozenset({Step.SHARING, Step.SHARED})
"""The steps of sharing in place, which leave nothing to undo."""


class Goal(enum.StrEnum):
    """The verb that works on a guest."""

    APPLY = "apply"
    RESTORE = "restore"
    PURGE = "purge"


class Fate(enum.StrEnum):
    """The fate of an original. Journals record only the first four values."""

    KEPT = "kept"
    QUARANTINED = "quarantined"
    DELETED = "deleted"
    GONE = "gone"
    """Not there, although no deletion is recorded: presumably another program moved or deleted it."""
    UNTOUCHED = "untouched"
    """Its fate is not reported."""
    BACK = "back"
    REBUILT = "rebuilt"
    UNKNOWN = "unknown"


BEGIN, PROTECTING, CHANGED, FAILED = "begin", "protecting", "changed", "failed"
"""The kinds of lines that record no step."""

STALE_PLAN = "the plan is stale"
"""The start of a failure's reason if an image is not as planned."""

_NUMBERS = 1 << 64

_SECONDS = len("2026-01-02T03:04:05")
"""A plan's time has no fraction of a second."""


@frozen
class GuestState:
    """The progress of a guest.

    ``temporary``: a new file until it is published. ``overlay``: as verified, published or left behind; in a purge
    after a restore, the rebuilt image. ``rebuilt``: the image that restore verified or published, which may be the
    original. ``moved``: whether the outgoing file may have been renamed, which changes its ctime. ``deleting``:
    whether it was about to be unlinked; if so, and it is gone, batchdiff deleted it. ``aside``: the original in
    quarantine; after RESTORED, an older original. ``left``: an overlay that restore left behind. ``data_file``:
    the overlay's data file as it was before it got its final name. ``parts``: other files that are deleted with an
    overlay.

    The remaining values are about sharing in place. ``came_back_bytes``: what all runs freed, as far as they
    recorded it. ``to_free_bytes``: what could still be freed when the last run began; 0 once that run has recorded
    what it freed. ``exactness``: how exact ``came_back_bytes`` and ``to_free_bytes`` are. Older journals lack
    ``to_free_bytes`` and ``exactness``, which are then None.
    """

    step: Step
    goal: Goal = Goal.APPLY
    temporary: str | None = None
    overlay: Fingerprint | None = None
    published: bool = False
    rebuilt: Fingerprint | None = None
    moved: bool = False
    deleting: bool = False
    fate: Fate | None = None
    aside: str | None = None
    left: str | None = None
    data_file: Fingerprint | None = None
    parts: tuple[tuple[str, Fingerprint], ...] = ()
    shared_bytes: int = 0
    came_back_bytes: int = 0
    to_free_bytes: int | None = None
    exactness: Exactness | None = None

    def record(self) -> dict[str, Any]:
        """Return the values for a line of a journal."""
        found = {key: value for key, value in asdict(self).items() if value}
        if self.to_free_bytes is not None:  # 0 is a value, too
            found["to_free_bytes"] = self.to_free_bytes
        return found


@frozen
class History:
    """The content of a journal; the keys are guests' names, times are ISO 8601 in UTC.

    ``times``: of a guest's last line or, if its overlay is published, of its last step. ``failures``: why a guest
    last failed, if it has taken no step since. ``changed``: files whose ctime batchdiff changed. ``protecting``:
    empty until the template's write bits are about to be removed. ``left``: overlays that restore left behind.
    ``restored``: when a guest was restored, unless apply has started on it since. ``is_damaged``: whether a
    complete line could not be read, so that the other values may be out of date.
    """

    states: dict[str, GuestState] = field(default_factory=dict)
    times: dict[str, str] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    changed: set[Fingerprint] = field(default_factory=set)
    protecting: set[str] = field(default_factory=set)
    left: dict[str, tuple[str, Fingerprint]] = field(default_factory=dict)
    restored: dict[str, str] = field(default_factory=dict)
    is_damaged: bool = False

    def take_in(self, record: dict[str, Any]) -> None:
        """Add one parsed line.

        :raises KeyError, TypeError, ValueError: it is not valid.
        """
        step = record["step"]
        if step == CHANGED:
            self.changed.add(_known(record["file"]))
        elif step == PROTECTING:
            self.protecting.add(step)
        elif step == FAILED:
            guest = record["guest"]
            self.failures[guest] = str(record["reason"])
            known = self.states.get(guest)
            if known is None or not known.published:  # otherwise the time stays that of the last step
                self.times[guest] = str(record["time"])
        elif step != BEGIN:
            self._take_in_step(record["guest"], record)

    def _take_in_step(self, guest: str, record: dict[str, Any]) -> None:
        self.failures.pop(guest, None)
        self.left.pop(guest, None)
        self.times[guest] = str(record["time"])
        left, overlay = _path(record.get("left")), _fingerprint(record.get("overlay"))
        if left is not None and overlay is not None:
            self.left[guest] = left, overlay
        goal = record.get("goal")
        # If this is the guest's first line, recovery may have written it, so it does not prove a restore.
        if record["step"] == Step.RESTORED and goal == Goal.RESTORE and guest in self.states:
            self.restored[guest] = str(record["time"])
        elif goal == Goal.APPLY:
            self.restored.pop(guest, None)
        if record["step"] == Step.RESTORED and not record.get("aside"):
            self.states.pop(guest, None)
            return
        fate, aside = _fate(record)
        self.states[guest] = GuestState(
            Step(record["step"]),
            Goal(record["goal"]),
            _path(record.get("temporary")),
            overlay,
            bool(record.get("published", False)),
            _fingerprint(record.get("rebuilt")),
            bool(record.get("moved", False)),
            bool(record.get("deleting", False)),
            fate,
            aside,
            data_file=_fingerprint(record.get("data_file")),
            parts=tuple(map(_part, record.get("parts", ()))),
            shared_bytes=_number(record.get("shared_bytes", 0)),
            came_back_bytes=_number(record.get("came_back_bytes", 0)),
            to_free_bytes=_number(record["to_free_bytes"]) if "to_free_bytes" in record else None,
            exactness=Exactness(record["exactness"]) if "exactness" in record else None,
        )

    @property
    def published(self) -> list[str]:
        """The names of the guests whose overlays are published."""
        return [name for name, state in self.states.items() if state.published]

    def given_back(self, made: str) -> frozenset[str]:
        """Return the names of the guests restored since their plan was made (``made``: ``Plan.created``).

        A new plan is a request to convert them again, even if it has the checksum and the journal of the old one.
        """
        made = made[:_SECONDS]
        return frozenset(name for name, when in self.restored.items() if when[:_SECONDS] >= made)

    def under_way(self, guest: str) -> GuestState | None:
        """Return a guest's state; None if it has taken no step, or its last step is RESTORED."""
        state = self.states.get(guest)
        return None if state is None or state.step is Step.RESTORED else state


def _fate(record: dict[str, Any]) -> tuple[Fate | None, str | None]:
    """Return an original's fate and its path in quarantine, which older journals record in words."""
    if "fate" in record:
        return Fate(record["fate"]), _path(record.get("aside"))
    words = str(record.get("original", ""))
    word, _, rest = words.partition(" ")
    if not words:
        return None, None
    return Fate(word.rstrip(":")), _path(rest.removeprefix("as ")) if word == Fate.QUARANTINED else None


def mapped_history(history: History, path_map: PathMap) -> History:
    """Return a history with its paths changed by ``path_map``."""
    states = {guest: _mapped(state, path_map) for guest, state in history.states.items()}
    left = {guest: (path_map.path(path), overlay) for guest, (path, overlay) in history.left.items()}
    return replace(history, states=states, left=left)


def _mapped(state: GuestState, path_map: PathMap) -> GuestState:
    return replace(
        state,
        temporary=None if state.temporary is None else path_map.path(state.temporary),
        aside=None if state.aside is None else path_map.path(state.aside),
        parts=tuple((path_map.path(path), known) for path, known in state.parts),
    )


def _fingerprint(value: dict[str, Any] | None) -> Fingerprint | None:
    return None if value is None else _known(value)


def _known(value: dict[str, Any]) -> Fingerprint:
    found = Fingerprint(**value)
    for number in (found.device, found.inode, found.size, found.mtime_ns, found.ctime_ns):
        _number(number)
    return found


def _number(value: object) -> int:
    if isinstance(value, int) and abs(value) < _NUMBERS:
        return value
    raise ValueError(f"{value!r} is not an integer of up to 64 bits")


def _part(value: tuple[str, dict[str, Any]]) -> tuple[str, Fingerprint]:
    name, known = value
    path = _path(name)
    if path is None:
        raise ValueError("a part has no path")
    return path, _known(known)


def _path(value: object) -> str | None:
    if value is None or (isinstance(value, str) and value.startswith("/") and "\0" not in value):
        return value
    raise ValueError(f"{value!r} is not a path")

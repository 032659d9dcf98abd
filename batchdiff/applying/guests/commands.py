"""The commands that messages recommend, quoted for a shell."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from batchdiff.files.filenames import shell_option, shell_path

_WITHOUT_MAP = {"apply"}

_plan: list[str] = ["PLAN"]
_maps: list[str] = []
"""Global, because all threads of a process work on one plan."""

_MOST_NAMED = 5

_DISCARDING = {"--discard-changes", "--used"}


@contextmanager
def commands_for(plan: str, maps: list[str]) -> Iterator[None]:
    """Set the plan and the moves (``OLD=NEW``) for commands inside the block."""
    before = _plan[:], _maps[:]
    _plan[:], _maps[:] = [shell_path(plan)], maps
    try:
        yield
    finally:
        _plan[:], _maps[:] = before


def commands(verb: str, guests: list[str], *options: str) -> str:
    """Return a command for these guests, in backquotes; for the whole plan if there are none, or too many.

    A command that discards something always names the guests: it must not affect any other guest.
    """
    discards = not _DISCARDING.isdisjoint(options)
    named = guests if discards or len(guests) <= _MOST_NAMED else []
    chosen = [shell_option("--guest", guest) for guest in named]
    moved = [] if verb in _WITHOUT_MAP else [shell_option("--map", each) for each in _maps]
    return f"`{' '.join(('batchdiff', verb, *_plan, *moved, *chosen, *options))}`"


def command(verb: str, guest: str, *options: str) -> str:
    """Return a command for one guest, in backquotes."""
    return commands(verb, [guest], *options)

"""The commands that messages about one guest recommend."""

from __future__ import annotations

import shlex

PLAN = "PLAN"
"""Stands for the plan that the command at hand was given: the operator has just typed its path."""


_MOST_NAMED = 5


def commands(verb: str, guests: list[str], *options: str) -> str:
    """Return a command for several guests, in backquotes; one for all of the plan if they are many."""
    named = guests if len(guests) <= _MOST_NAMED else []
    chosen = [word for guest in named for word in ("--guest", shlex.quote(guest))]
    return f"`{' '.join(('batchdiff', verb, PLAN, *chosen, *options))}`"


def command(verb: str, guest: str, *options: str) -> str:
    """Return a command for one guest, in backquotes.

    It names the guest, because without ``--guest`` a verb takes all of them, and advice for one guest must not
    throw away what the others hold.
    """
    return commands(verb, [guest], *options)

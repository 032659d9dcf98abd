"""The commands that messages about one guest recommend."""

from __future__ import annotations

import shlex

PLAN = "PLAN"
"""Stands for the plan that the command at hand was given: the operator has just typed its path."""


def command(verb: str, guest: str, *options: str) -> str:
    """Return a command for one guest, in backquotes.

    It names the guest, because without ``--guest`` a verb takes all of them, and advice for one guest must not
    throw away what the others hold.
    """
    return f"`{' '.join(('batchdiff', verb, PLAN, '--guest', shlex.quote(guest), *options))}`"

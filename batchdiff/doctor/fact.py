"""A fact about a machine, QEMU or a folder, and its meaning for batchdiff."""

from __future__ import annotations

import enum

from batchdiff.frozen import frozen


class Ability(enum.StrEnum):
    """The meaning of a fact for batchdiff."""

    GOOD = "good"
    LIMITED = "limited"
    """``plan`` and ``apply`` work with a restriction: for example, they are slower, save less space, leave a check
    to the operator, or refuse some formats."""
    MISSING = "missing"
    """A part of ``plan`` or ``apply`` does not work with the default options."""


@frozen
class Fact:
    """A fact about ``subject``: ``machine``, ``QEMU``, or the absolute path of a folder.

    ``effect``: the consequence, the remedy, or both; empty if there is neither.
    """

    subject: str
    name: str
    value: str
    ability: Ability = Ability.GOOD
    effect: str = ""

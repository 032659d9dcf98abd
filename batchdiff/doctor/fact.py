"""A fact for `batchdiff doctor`."""

from __future__ import annotations

import enum

from batchdiff.frozen import frozen


class Ability(enum.StrEnum):
    """The meaning of a fact for batchdiff."""

    GOOD = "good"
    LIMITED = "limited"
    """``plan`` and ``apply`` work with a restriction."""
    MISSING = "missing"
    """A part of ``plan`` or ``apply`` does not work with the default options."""


@frozen
class Fact:
    """A fact about ``subject``: ``machine``, ``QEMU``, or the absolute path of a folder.

    ``effect``: the consequence, the remedy, or both; may be empty.
    """

    subject: str
    name: str
    value: str
    ability: Ability = Ability.GOOD
    effect: str = ""

"""One thing that a machine or a folder can or cannot do, and what follows from it."""

from __future__ import annotations

import enum

from batchdiff.frozen import frozen


class Ability(enum.StrEnum):
    """The meaning of a fact for batchdiff."""

    GOOD = "good"
    LIMITED = "limited"
    """The main job, ``plan`` and ``apply``, can be done, but slower, with less space saved, with a check left to
    the operator, or not with every image format."""
    MISSING = "missing"
    """At least a part of the main job cannot be done with the default options."""


@frozen
class Fact:
    """A fact about ``subject``: ``machine``, ``QEMU``, or the path of a folder.

    ``effect``: its consequence, the remedy, or both; empty if there is neither.
    """

    subject: str
    name: str
    value: str
    ability: Ability = Ability.GOOD
    effect: str = ""

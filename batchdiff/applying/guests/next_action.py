"""Choose the next action for one guest. Pure.

Apply, restore and purge are the same operation: an *incoming* file takes the place of an *outgoing* one.

::

              incoming                    outgoing            the outgoing one ends up
    apply     the overlay                 the original        kept, in quarantine, or deleted
    restore   the original, or a rebuilt  the overlay         deleted
              image
    purge     the overlay or a rebuilt    the original in     deleted
              image, published before     quarantine

    PUT_BACK -> DISCARD -> WRITE -> VERIFY -> [QUARANTINE] -> PUBLISH -> [QUARANTINE | SET_ASIDE -> UNLINK] -> DONE
    --- cleaning up ---

After a crash or a failure, unpublished work is undone. After a crash, any comparison is made again before the
outgoing file is retired.
"""

from __future__ import annotations

import enum

from batchdiff.choices import Retire
from batchdiff.frozen import frozen


class OutgoingAt(enum.StrEnum):
    """The present place of the outgoing file."""

    NAMED = "under its own name"
    ASIDE = "in quarantine"
    DELETING = "set aside to be deleted"
    GONE = "gone"


class IncomingAt(enum.StrEnum):
    """The state of the incoming file."""

    NONE = "not there"
    UNFINISHED = "left behind by a process that died"
    READY = "complete, under its temporary name"
    PUBLISHED = "under its own name"
    LOST = "published before, and missing or changed now"


class Action(enum.StrEnum):
    """The actions, each of which changes at most one of the two images."""

    PUT_BACK = "give the outgoing file its name back"
    DISCARD = "remove an unfinished incoming file"
    WRITE = "write the incoming file"
    VERIFY = "compare the two"
    QUARANTINE = "rename the outgoing file to its quarantine name"
    PUBLISH = "give the incoming file its name"
    SET_ASIDE = "rename the outgoing file to the name that it has right before it is deleted"
    UNLINK = "delete the outgoing file"
    DONE = "nothing is left to do"
    LOST = "nothing can be done: a file is missing"


@frozen
class Scene:
    """The state of the two files.

    ``verified``: this process has compared them, or need not do so. ``one_name``: their own names are the same.
    """

    outgoing: OutgoingAt
    incoming: IncomingAt
    verified: bool
    retire: Retire
    one_name: bool


def next_action(scene: Scene) -> Action:
    """Return the next action. A crash after any action is harmless: the next run examines the files."""
    # A file that was about to be deleted gets its name back if it must be compared first, or if the incoming file
    # is lost.
    if scene.outgoing is OutgoingAt.DELETING and (not scene.verified or scene.incoming is IncomingAt.LOST):
        return Action.PUT_BACK
    match scene.incoming:
        case IncomingAt.LOST:
            return Action.LOST
        case IncomingAt.PUBLISHED:
            return _retiring(scene)
        case IncomingAt.READY:
            return _publishing(scene)
        case _:
            return _beginning(scene)


def _beginning(scene: Scene) -> Action:
    """Write nothing if ``verified`` is already true: the new file would not be compared."""
    if scene.outgoing in {OutgoingAt.ASIDE, OutgoingAt.DELETING}:
        return Action.PUT_BACK
    if scene.incoming is IncomingAt.UNFINISHED:
        return Action.DISCARD
    return Action.LOST if scene.outgoing is OutgoingAt.GONE or scene.verified else Action.WRITE


def _publishing(scene: Scene) -> Action:
    if not scene.verified:
        return Action.LOST if scene.outgoing is OutgoingAt.GONE else Action.VERIFY
    if scene.one_name and scene.outgoing is OutgoingAt.NAMED:
        return Action.QUARANTINE
    return Action.PUBLISH


def _retiring(scene: Scene) -> Action:
    """Retire the outgoing file, which is renamed and checked before it is unlinked."""
    settled = {
        Retire.KEEP: set(OutgoingAt),
        Retire.QUARANTINE: {OutgoingAt.ASIDE, OutgoingAt.GONE},
        Retire.DELETE: {OutgoingAt.GONE},
    }
    if scene.outgoing in settled[scene.retire]:
        return Action.DONE
    if not scene.verified:
        return Action.VERIFY
    if scene.retire is Retire.QUARANTINE:
        return Action.QUARANTINE
    return Action.UNLINK if scene.outgoing is OutgoingAt.DELETING else Action.SET_ASIDE

"""The check that a guest neither is nor stores the template, which retiring that guest could destroy.

::

    template  /dev/loop0 --loop--> web01.img      which is also a guest: must not be converted
    template  /dev/nbd0 --?                       any file could be at its other end
"""

from __future__ import annotations

import enum

from batchdiff.choices import Retire
from batchdiff.files.identity import Identity
from batchdiff.linux.block_stack import Underlying


class TemplateRisk(enum.Enum):
    """The risk to the template if a guest is retired."""

    NONE = "the guest does not store the template; or that is uncertain, but the guest is not deleted"
    STORED_IN_GUEST = "the guest is the template, or stores it"
    UNTRACED = "the template could be stored anywhere, and the guest would be deleted"


def template_risk(under_template: Underlying, guest: Identity | None, retire: Retire) -> TemplateRisk:
    """Return the risk of retiring a guest.

    ``under_template``: the storage of the template's chain. ``guest``: None if it cannot be identified.
    """
    if guest in under_template.files:
        return TemplateRisk.STORED_IN_GUEST
    if retire is Retire.DELETE and not under_template.traced:
        return TemplateRisk.UNTRACED
    return TemplateRisk.NONE

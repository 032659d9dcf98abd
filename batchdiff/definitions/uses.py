"""The use of a guest by a VM."""

from __future__ import annotations

from batchdiff.definitions.guest_disks import VmImage
from batchdiff.frozen import frozen

NOT_WRITTEN = "its overlay has not been written yet"


@frozen
class GuestUse:
    """A VM's disk that is a guest of the plan, and the image that the VM must use.

    ``is_right``: the VM already uses that image. ``waiting``: why its definition must not change yet.
    ``by_hand``: why the operator must edit the definition. If ``is_right``, that may have been done already.
    """

    guest: str
    target: str
    image: VmImage
    is_right: bool
    waiting: str = ""
    by_hand: str = ""

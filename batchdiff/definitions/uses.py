"""The use of a guest by a VM."""

from __future__ import annotations

from batchdiff.definitions.guest_disks import VmImage
from batchdiff.frozen import frozen

NOT_WRITTEN = "its overlay has not been written yet"


@frozen
class GuestUse:
    """A VM's disk that is a guest of the plan, and the image that the VM must use now, or after apply.

    ``is_right``: the VM's definition is already right for that image. ``waiting``: why the definition must not
    change yet. ``by_hand``: why the operator must edit it. If ``is_right``, that may have been done already.
    """

    guest: str
    target: str
    image: VmImage
    is_right: bool
    waiting: str = ""
    by_hand: str = ""

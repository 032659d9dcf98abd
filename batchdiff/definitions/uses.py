"""The use of a guest by a VM, whatever manages the VM."""

from __future__ import annotations

from batchdiff.definitions.guest_disks import VmImage
from batchdiff.frozen import frozen

NOT_WRITTEN = "its overlay has not been written yet"


@frozen
class GuestUse:
    """A VM's disk that is a guest of the plan, and the image that it must use.

    ``is_right``: it already uses that image. ``waiting``: why the VM's definition must not change yet; empty if it
    may. ``by_hand``: why only the operator can change the definition; empty if batchdiff can.
    """

    guest: str
    target: str
    image: VmImage
    is_right: bool
    waiting: str = ""
    by_hand: str = ""

"""Check whether an overlay names its own data file, and whether apply wrote that file.

::

    web01.qcow2 -> web01.data.raw     its own
    web02.qcow2 -> web01.data.raw     another guest's: the VM of web02 would write to the disk of web01
    web03.qcow2 -> moved.raw          a file that the operator has chosen since the conversion
"""

from __future__ import annotations

from batchdiff.applying.journal.records import GuestState, History
from batchdiff.errors import VerificationError
from batchdiff.files.fingerprint import fingerprint_at
from batchdiff.files.identity import Identity, identity_of
from batchdiff.image_source import ImageSource
from batchdiff.plan.plan import GuestToConvert, Plan


class DataFiles:
    """The data files of a plan's published overlays."""

    def __init__(self, plan: Plan, history: History) -> None:
        self._owners: dict[Identity, str] = {}
        published = set(history.published)
        for guest in plan.to_convert:
            path = guest.options.data_file
            if path is not None and guest.name in published and (identity := identity_of(path)) is not None:
                self._owners[identity] = guest.name

    def require_own(self, guest: GuestToConvert, overlay: ImageSource) -> None:
        """Refuse an overlay that names another guest's data file. ``overlay``: as it is now.

        :raises VerificationError: it names one.
        """
        for path in overlay.other_files:
            identity = identity_of(path)
            owner = guest.name if identity is None else self._owners.get(identity, guest.name)
            if owner != guest.name:
                own = guest.options.data_file
                is_there = own is not None and fingerprint_at(own) is not None
                remedy = f" The overlay's own data file is {own}." if is_there else ""
                raise VerificationError(
                    f"{overlay.path} has the wrong data file",
                    why=f"{path} belongs to {owner}, so the VM of {guest.name} writes to the disk of {owner}",
                    remedy="Keep both VMs shut down, and find out why the overlay's header names that file"
                    f" (`qemu-img info` shows the name).{remedy}",
                )


def remark_on_data_file(guest: GuestToConvert, state: GuestState, overlay: ImageSource) -> str:
    """Return a clause if an overlay's data is known not to be in the planned file that apply wrote.

    A copy with the recorded size and mtime counts as that file. ``overlay``: as it is now.
    """
    path, known = guest.options.data_file, state.data_file
    if path is None or not overlay.other_files:
        return ""
    now = fingerprint_at(path)
    if overlay.other_files[0] != path:
        return f"; the overlay's data is in {overlay.other_files[0]}, not in {path} as planned"
    if now is None or known is None or known.is_same_file(now) or not known.was_written_to(now):
        return ""
    return f"; the overlay's data file {path} is not the file that apply wrote ({known.changes(now)})"

"""The progress of a plan, which opens all images, reads them together, and then assesses guest after guest."""

from __future__ import annotations

from batchdiff.frozen import frozen
from batchdiff.progress import Meter, Phase


@frozen
class ScanProgress:
    """Passes the progress of a scan on to a meter. ``images``: the number of images, the template among them."""

    meter: Meter
    images: int

    def recognised(self, done: int) -> None:
        """Report how many images have been examined for signs of a format other than the declared one."""
        self.meter.open(done, 3 * self.images)

    def opened(self, done: int) -> None:
        """Report further openings: of each image, to examine it, then of each guest to scan, to find its data."""
        self.meter.open(self.images + done, 3 * self.images)

    def scanned(self, done: int, total: int) -> None:
        """Report how many bytes of the template and all guests have been scanned.

        The first report counts the bytes whose results are in a checkpoint. Bytes that are read again for guests
        from an older plan come last.
        """
        is_first = not self.meter.has_begun
        if is_first:
            self.meter.expect(None, Phase.SCAN, total)
        self.meter.reach(None, Phase.SCAN, done, worked=not is_first)
        self.meter.begin()

    def assessed(self, guest: str) -> None:
        """Report a guest whose savings are known; assessing reads next to nothing, so it counts no bytes."""
        self.meter.begin()
        self.meter.reach(guest, Phase.ASSESS, 0)

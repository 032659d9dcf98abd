"""The progress of a scan."""

from __future__ import annotations

from batchdiff.frozen import frozen
from batchdiff.progress import Meter, Phase


@frozen
class ScanProgress:
    """The progress of a scan. ``images`` includes the template."""

    meter: Meter
    images: int

    def recognised(self, done: int) -> None:
        """Report how many images have been examined for doubtful formats."""
        self.meter.open(done, 3 * self.images)

    def opened(self, done: int) -> None:
        """Report how many further openings are done, at most two for each image."""
        self.meter.open(self.images + done, 3 * self.images)

    def scanned(self, done: int, total: int) -> None:
        """Report the bytes done and the total. An earlier run's bytes must not raise the rate."""
        is_first = not self.meter.has_begun
        if is_first:
            self.meter.expect(None, Phase.SCAN, total)
        self.meter.reach(None, Phase.SCAN, done, worked=not is_first)
        self.meter.begin()

    def assessed(self, guest: str) -> None:
        """Report that a guest has been assessed."""
        self.meter.begin()
        self.meter.reach(guest, Phase.ASSESS, 0)

"""Jobs for a scanner, of images as they are."""

from __future__ import annotations

from pathlib import Path

from oracle import source

from batchdiff.image.open import open_image
from batchdiff.plan.plan import PlannedImage
from batchdiff.planning.scan.reopening import files_of
from batchdiff.planning.scan.scan_job import ScanJob


def scan_job(template: Path, *guests: PlannedImage, sharing: bool = False) -> ScanJob:
    """A template with guests as they were recorded."""
    with open_image(source(template)) as image:
        return ScanJob(image.source, files_of(image), guests, sharing=sharing)

import pytest
from small_fleet import write_fleet

from batchdiff.planning import scan_all
from batchdiff.planning.scan import one_range, range_progress, scan_job
from batchdiff.units import MIB


@pytest.fixture
def small_ranges(monkeypatch):
    """Ranges of 2 MiB, so that small images have several."""
    for module in (one_range, scan_job, scan_all):
        monkeypatch.setattr(module, "RANGE", 2 * MIB)
    monkeypatch.setattr(range_progress, "_BETWEEN_REPORTS", 3600)  # progress only at the end of each


@pytest.fixture
def folder(tmp_path):
    """A folder with the small fleet."""
    write_fleet(tmp_path)
    return tmp_path

import pytest
from commands import Fleet


@pytest.fixture
def fleet(tmp_path):
    """A fleet in a folder of its own."""
    folder = tmp_path / "fleet"
    folder.mkdir()
    return Fleet(folder)


@pytest.fixture
def planned(fleet):
    """A fleet with its plan."""
    fleet.plan_here()
    return fleet

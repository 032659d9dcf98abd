import signal

import pytest
from commands import Fleet


@pytest.fixture(scope="session", autouse=True)
def ctrl_c():
    """A shell starts its background jobs deaf to SIGINT, and so would be what they start."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


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

"""What all tests have in common: no test fails because the machine is busy, or because of who started it."""

import signal

import examples
import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Chooses how many examples there are, before any test module is imported."""
    examples.configure(slow=config.option.markexpr != "not long")


@pytest.fixture(scope="session", autouse=True)
def ctrl_c():
    """A shell starts its background jobs deaf to SIGINT, and so would be what they start."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)

"""What all tests have in common: no test fails because the machine is busy, or because of who started it."""

import os
import signal

import encrypted
import examples
import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Chooses how many examples there are, before any test module is imported."""
    examples.configure(slow=config.option.markexpr != "not long")


@pytest.fixture(scope="session", autouse=True)
def all_signals_heard():
    """A shell starts background jobs deaf to SIGINT, and nohup to SIGHUP; so would be what they start."""
    before = {
        signal.SIGINT: signal.signal(signal.SIGINT, signal.default_int_handler),
        signal.SIGHUP: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    }
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session", autouse=True)
def empty_encrypted_images(tmp_path_factory):
    """All processes of pytest-xdist share a folder for them: the one that has their own folders."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "empty-encrypted-images"
    folder.mkdir(exist_ok=True)
    encrypted.keep_empty_images_in(folder)

"""How hypothesis runs in all tests: no test fails because the machine is busy."""

import examples
import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Chooses how many examples there are, before any test module is imported."""
    examples.configure(slow=config.option.markexpr != "not long")

import pytest
from pool import mounted_pool


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """One filesystem for all fleets of a module, one after the other."""
    with mounted_pool(tmp_path_factory.mktemp("lifecycle")) as mounted:
        yield mounted

"""Which schedulers may be used, and how their addresses are completed.

Guards planning/remote/address.py.
"""

import pytest

from batchdiff.errors import UsageError
from batchdiff.planning.remote.address import is_encrypted, scheduler_address


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("tls://planner.example", "tls://planner.example:8786"),
        ("tls://planner.example:99/", "tls://planner.example:99"),
        ("tls://[2001:db8::1]", "tls://[2001:db8::1]:8786"),
        ("tcp://127.0.0.1:8786", "tcp://127.0.0.1:8786"),
        ("tcp://127.8.9.1", "tcp://127.8.9.1:8786"),
        ("tcp://[::1]:5", "tcp://[::1]:5"),
        ("tcp://localhost", "tcp://localhost:8786"),
    ],
)
def test_good_addresses(text, whole):
    assert scheduler_address(text, trust_network=False) == whole
    assert is_encrypted(whole) is text.startswith("tls")


@pytest.mark.parametrize(
    "text",
    ["tcp://10.0.0.1", "tcp://planner.example:8786", "tcp://localhost.example", "tcp://0.0.0.0", "tcp://[::]"],
)
def test_another_host_without_encryption_is_refused(text):
    with pytest.raises(UsageError, match=r"anyone on the network could run programs as you .*--trust-network"):
        scheduler_address(text, trust_network=False)
    assert scheduler_address(text, trust_network=True).startswith(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "planner.example",
        "planner.example:8786",
        "http://planner.example",
        "inproc://1/2/3",
        "tls://",
        "tls://a:port",
        "tls://a:99999",
        "tls://user@a",
        "tls://a/path",
        "tls://a?x=1",
        "tls://[::1",
    ],
)
def test_what_is_not_an_address(text):
    with pytest.raises(UsageError, match=r"is not the address of a scheduler"):
        scheduler_address(text, trust_network=True)

"""The address of a Dask scheduler, and the refusal of unencrypted connections to other hosts.

::

    tls://HOST:8786      both sides prove with certificates who they are
    tcp://127.0.0.1:8786 the loopback, which only users of this host can reach
    tcp://HOST:8786      anyone on the network can connect: refused unless the operator accepts that

A scheduler has its workers run whatever code it receives. The planner unpickles the objects that the scheduler
passes on, and unpickling can run code, too.
Source: Dask's documentation, "Addresses" and "TLS/SSL" (distributed.dask.org).
"""

from __future__ import annotations

import ipaddress
from urllib.parse import SplitResult, urlsplit

from batchdiff.errors import UsageError
from batchdiff.quoting import show

_PORT = 8786
"""Dask's default."""

_EXAMPLE = "Write it as `dask scheduler` prints it, such as tls://planner.example:8786."


def scheduler_address(text: str, *, trust_network: bool) -> str:
    """Return the address of a scheduler, with Dask's default port if ``text`` has none.

    ``trust_network``: the operator accepts an unencrypted connection to another host.

    :raises UsageError: the address is invalid, or the connection would need ``trust_network``.
    """
    try:
        parts = urlsplit(text)
        port = _PORT if parts.port is None else parts.port
    except ValueError as error:
        raise UsageError(
            f"{show(text)} is not the address of a scheduler", why=str(error), remedy=_EXAMPLE
        ) from error
    if parts.scheme not in {"tls", "tcp"} or not parts.hostname or not port or not _is_only_a_host(parts):
        raise UsageError(f"{show(text)} is not the address of a scheduler", remedy=_EXAMPLE)
    if parts.scheme == "tcp" and not trust_network and not _is_loopback(parts.hostname):
        raise UsageError(
            f"the connection to {show(text)}, which may be on another host, would not be encrypted",
            why="a scheduler passes on whatever code it receives, so anyone on the network could run programs as"
            " you on this host and on all workers",
            remedy="Give the scheduler and the workers certificates, and use tls:// (docs/many-hosts.md). If no"
            " other user can reach the network, you can add --trust-network instead.",
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}:{port}"


def is_encrypted(address: str) -> bool:
    """Return whether a scheduler's address is for TLS."""
    return address.startswith("tls://")


def _is_only_a_host(parts: SplitResult) -> bool:
    return parts.username is None and parts.path in {"", "/"} and not parts.query and not parts.fragment


def _is_loopback(host: str) -> bool:
    """Trust no name but localhost: any other could resolve to another host at any time."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

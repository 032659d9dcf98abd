"""The options of ``plan`` for a scan on several hosts: checked first, and then turned into a connection."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from batchdiff.cli.option_values import file_to_read
from batchdiff.errors import UsageError
from batchdiff.throttle.options import ScanLimits

if TYPE_CHECKING:
    from batchdiff.cli.console import Console
    from batchdiff.planning.remote.remote_scan import RemoteScans


def add_scheduler(verb: argparse.ArgumentParser) -> None:
    """Add the options to a verb."""
    group = verb.add_argument_group("options to scan on several hosts")
    group.add_argument(
        "--scheduler",
        metavar="URL",
        help="scan with the workers of this Dask scheduler, on hosts that mount the same storage, such as"
        " tls://planner.example:8786",
    )
    group.add_argument(
        "--tls-ca-file", metavar="FILE", type=file_to_read, help="the authority that signed all certificates"
    )
    group.add_argument("--tls-cert", metavar="FILE", type=file_to_read, help="the planner's certificate")
    group.add_argument("--tls-key", metavar="FILE", type=file_to_read, help="the key of that certificate")
    group.add_argument(
        "--trust-network",
        action="store_true",
        help="use a scheduler on another host without encryption (tcp://): anyone in that network can then run"
        " programs as you, here and on all workers",
    )


def check_scheduler_options(arguments: argparse.Namespace) -> None:
    """Check the options before anything is read.

    :raises UsageError: they contradict each other, or the scheduler must not be used.
    """
    given = [
        option
        for option, is_given in (
            ("--tls-ca-file", arguments.tls_ca_file),
            ("--tls-cert", arguments.tls_cert),
            ("--tls-key", arguments.tls_key),
            ("--trust-network", arguments.trust_network),
        )
        if is_given
    ]
    if arguments.scheduler is None:
        if given:
            raise UsageError(f"{given[0]} is of use only together with --scheduler", remedy="Add --scheduler URL.")
        return
    _address(arguments)
    if arguments.idle:
        raise UsageError(
            "--idle cannot be combined with --scheduler",
            why="it would lower the priority of the scheduler's workers for good",
            remedy="Start the workers with `nice -n 19 ionice -c 3 dask worker`.",
        )


@contextmanager
def remote_scans(
    console: Console, arguments: argparse.Namespace, limits: ScanLimits
) -> Iterator[RemoteScans | None]:
    """Connect to the scheduler that the options name, and yield the way to scan with its workers; None if none.

    :raises UsageError: Dask is not installed, or the certificates cannot be used.
    :raises WorkerError: the scheduler does not answer.
    """
    if arguments.scheduler is None:
        yield None
        return
    # Loaded only now: Dask takes half a second, and is an extra.
    from batchdiff.planning.remote.connection import Certificates, connect  # noqa: PLC0415
    from batchdiff.planning.remote.remote_scan import RemoteScans  # noqa: PLC0415

    certificates = Certificates(arguments.tls_ca_file, arguments.tls_cert, arguments.tls_key)
    workers = connect(_address(arguments), certificates, say=console.say, warn=console.warn)
    try:
        yield RemoteScans(workers, limits)
    finally:
        workers.close()


def _address(arguments: argparse.Namespace) -> str:
    """Return the scheduler's whole address.

    :raises UsageError: it is wrong, or the scheduler must not be used.
    """
    from batchdiff.planning.remote.address import scheduler_address  # noqa: PLC0415  # other plans start without it

    return scheduler_address(arguments.scheduler, trust_network=arguments.trust_network)

"""Options of ``plan`` for a scan on several hosts."""

from __future__ import annotations

import argparse

from batchdiff.cli.options.option_values import file_to_read
from batchdiff.errors import UsageError


def add_scheduler(verb: argparse.ArgumentParser) -> None:
    """Add the options to a verb."""
    group = verb.add_argument_group("options for scanning on several hosts")
    group.add_argument(
        "--scheduler",
        metavar="URL",
        help="scan with the workers of the Dask scheduler at this address, such as tls://planner.example:8786;"
        " the workers' hosts must mount the same storage as this host",
    )
    group.add_argument(
        "--tls-ca-file",
        metavar="FILE",
        type=file_to_read,
        help="the certificate of the authority that signed the other certificates",
    )
    group.add_argument("--tls-cert", metavar="FILE", type=file_to_read, help="the planner's certificate")
    group.add_argument(
        "--tls-key", metavar="FILE", type=file_to_read, help="the private key of the planner's certificate"
    )
    group.add_argument(
        "--trust-network",
        action="store_true",
        help="use a scheduler on another host without encryption (tcp://): anyone on the network can then run"
        " programs as you, here and on all workers",
    )


def check_scheduler_options(arguments: argparse.Namespace) -> None:
    """Check the options without connecting.

    :raises UsageError: the options cannot be used.
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
            raise UsageError(f"cannot use {given[0]} without --scheduler", remedy="Add --scheduler URL.")
        return
    scheduler_address_of(arguments)
    if arguments.idle:
        raise UsageError(
            "--idle cannot be combined with --scheduler",
            why="it would lower the priority of the scheduler's workers for good",
            remedy="Leave out --idle, and start the workers with `nice -n 19 ionice -c 3 dask worker`.",
        )


def scheduler_address_of(arguments: argparse.Namespace) -> str:
    """Return the scheduler's address with its port; ``--scheduler`` must be given.

    :raises UsageError: it is malformed, or would need ``--trust-network``.
    """
    from batchdiff.planning.remote.address import scheduler_address  # noqa: PLC0415  # only for a scheduler

    return scheduler_address(arguments.scheduler, trust_network=arguments.trust_network)

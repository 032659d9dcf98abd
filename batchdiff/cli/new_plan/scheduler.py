"""The connection to the scheduler of ``plan --scheduler``."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from batchdiff.cli.console import Console
from batchdiff.cli.options.scheduler_options import scheduler_address_of
from batchdiff.throttle.options import ScanLimits

if TYPE_CHECKING:
    from batchdiff.planning.remote.remote_scan import RemoteScans


@contextmanager
def remote_scans(
    console: Console, arguments: argparse.Namespace, limits: ScanLimits
) -> Iterator[RemoteScans | None]:
    """Yield the means to scan with the scheduler's workers; None without ``--scheduler``.

    :raises UsageError: Dask cannot be loaded, or the options cannot be used.
    :raises WorkerError: the connection fails.
    """
    if arguments.scheduler is None:
        yield None
        return
    # Dask takes half a second to load, and is an optional dependency.
    from batchdiff.planning.remote.connection import Certificates, connect  # noqa: PLC0415
    from batchdiff.planning.remote.remote_scan import RemoteScans  # noqa: PLC0415

    certificates = Certificates(arguments.tls_ca_file, arguments.tls_cert, arguments.tls_key)
    workers = connect(scheduler_address_of(arguments), certificates, say=console.say, warn=console.warn)
    try:
        yield RemoteScans(workers, limits)
    finally:
        workers.close()

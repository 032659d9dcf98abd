"""The connection to a Dask scheduler."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
import struct
import warnings
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import urlsplit

from batchdiff.errors import UsageError, WorkerError
from batchdiff.linux.call_failures import explain
from batchdiff.linux.permissions import Deed
from batchdiff.planning.remote.address import is_encrypted

try:
    from distributed import Client
    from distributed.comm.core import connect as open_connection
    from distributed.security import Security
except ImportError as error:
    raise UsageError(
        "--scheduler needs Dask, which cannot be loaded",
        why=str(error),
        remedy="Install it on every host, in batchdiff's Python environment: `pip install 'distributed>=2024.1'`.",
    ) from error

from batchdiff.planning.remote.dask_workers import DaskWorkers

_TIMEOUT = 10.0
"""Seconds to wait for the scheduler."""

_IN_DASK = re.compile(r"^(in <[^>]*>: (\w+: )?)?(\[Errno -?\d+\] )?")
"""The prefix of error messages from Dask and Python: the failed object, the kind of error, the errno."""

_LOGGERS = ("distributed", "tornado", "asyncio")


class Certificates(NamedTuple):
    """The planner's files in PEM format; None: Dask's configuration names the file (distributed.comm.tls)."""

    authority: str | None = None
    certificate: str | None = None
    key: str | None = None


def connect(
    address: str, certificates: Certificates, *, say: Callable[[str], None], warn: Callable[[str], None]
) -> DaskWorkers:
    """Return the workers of the scheduler at an address; the caller closes them.

    :raises UsageError: the certificates for TLS cannot be used.
    :raises WorkerError: no scheduler answers.
    """
    _be_quiet()
    security = _security(certificates) if is_encrypted(address) else None
    try:
        asyncio.run(_greet(address, security))
        client = Client(address, security=security, timeout=_TIMEOUT, set_as_default=False, name="batchdiff-plan")
    except (OSError, TimeoutError, MemoryError, ValueError, struct.error) as error:
        said = _IN_DASK.sub("", str(error.__cause__ or error)) or f"it did not answer within {_TIMEOUT:.0f} s"
        # These errors are raised if bytes of another protocol are read as the lengths of frames.
        if isinstance(error, MemoryError | ValueError | struct.error):
            said = "whatever listens there does not answer as a Dask scheduler does"
        raise WorkerError(
            f"cannot connect to the scheduler at {address}",
            why=_why_unreachable(address) or said,
            remedy="Check that `dask scheduler` is running there and that no firewall blocks the port. With"
            " tls://, all certificates must be signed by the same authority.",
        ) from error
    return DaskWorkers(client, say=say, warn=warn)


async def _greet(address: str, security: Security | None) -> None:
    """Connect and hang up: a Dask client would wait forever for a peer that accepts but never answers."""
    arguments = security.get_connection_args("client") if security else {}
    comm = await asyncio.wait_for(open_connection(address, timeout=_TIMEOUT, **arguments), _TIMEOUT + 1)
    comm.abort()


def _why_unreachable(address: str) -> str:
    """Return why no connection is possible, or an empty string if that is not known.

    This tries to connect without Dask, which retries until its timeout and often does not report the cause.
    """
    place = urlsplit(address)
    try:
        socket.create_connection((str(place.hostname), place.port or 0), timeout=1).close()
    except TimeoutError:
        return ""
    except OSError as error:
        return error.strerror or str(error)
    except UnicodeError:
        return "no host can have that name"
    return ""


def _security(certificates: Certificates) -> Security:
    files = {
        "tls_ca_file": certificates.authority,
        "tls_client_cert": certificates.certificate,
        "tls_client_key": certificates.key,
    }
    security = Security(require_encryption=True, **{name: path for name, path in files.items() if path})
    found = [getattr(security, name) for name in files]
    if not all(found[:2]):  # the key may be in the certificate's file
        raise UsageError("tls:// needs certificates", remedy=_CERTIFICATES)
    for path in filter(None, found):
        try:
            os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
        except OSError as error:
            why, remedy = explain(error, Deed.READ, path)
            if isinstance(error, FileNotFoundError):
                why, remedy = "there is no such file", _CERTIFICATES
            raise UsageError(f"the certificate or key {path} cannot be used", why=why, remedy=remedy) from error
    try:
        security.get_connection_args("client")  # this reads the files
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UsageError("the certificates cannot be used", why=why, remedy=_CERTIFICATES) from error
    return security


_CERTIFICATES = (
    "Name the files with --tls-ca-file, --tls-cert and --tls-key, or in Dask's configuration"
    " (distributed.comm.tls); docs/many-hosts.md shows how to make them."
)


def _be_quiet() -> None:
    """Silence each logger separately: Dask's configuration gives some of them a level of their own."""
    for name in list(logging.root.manager.loggerDict):
        if name.partition(".")[0] in _LOGGERS:
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    warnings.filterwarnings("ignore", module="distributed")

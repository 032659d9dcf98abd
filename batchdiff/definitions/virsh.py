"""libvirt through its command virsh: read domains and pools, and define a domain anew."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from batchdiff.definitions.libvirt_domain import Domain, parse_domain
from batchdiff.definitions.libvirt_pool import Pool, parse_pool
from batchdiff.errors import ProgramError
from batchdiff.qemu import programs
from batchdiff.units import MIB

_NAME, _PACKAGE = "virsh", "libvirt-clients"
_SECONDS = 60
_MOST_OUTPUT = 16 * MIB
_NOT_SUPPORTED = "not supported by the connection driver"


def virsh_is_installed() -> bool:
    """Return whether virsh is on the PATH."""
    return programs.is_on_path(_NAME)


@dataclass(frozen=True, slots=True)
class Libvirt:
    """A connection; ``uri`` is libvirt's, or empty for its default."""

    uri: str = ""

    def domains(self) -> list[Domain]:
        """Return all domains that are defined, by their persistent definitions, without passwords.

        :raises ProgramError: libvirt cannot be asked.
        """
        return [self.domain(name) for name in self._lines("list", "--all", "--name", "--persistent")]

    def domain(self, name: str, *, with_passwords: bool = False) -> Domain:
        """Return a domain; a definition without its passwords would lose them if it were defined anew.

        :raises ProgramError: libvirt cannot be asked.
        """
        options = ["--security-info"] if with_passwords else []
        text = self._run("dumpxml", "--inactive", *options, "--domain", name)
        return parse_domain(text.encode(), f"the domain {name}")

    def pools(self) -> list[Pool]:
        """Return all storage pools; none if the driver of this connection has no pools.

        :raises ProgramError: libvirt cannot be asked.
        """
        try:
            names = self._lines("pool-list", "--all", "--name")
        except ProgramError as error:
            if _NOT_SUPPORTED in error.why:
                return []
            raise
        dumped = [(name, self._run("pool-dumpxml", "--pool", name)) for name in names]
        return [parse_pool(text.encode(), f"the pool {name}") for name, text in dumped]

    def state(self, domain: str) -> str:
        """Return the state of a domain, such as ``shut off`` or ``running``."""
        return " ".join(self._lines("domstate", "--domain", domain))

    def snapshots(self, domain: str) -> list[str]:
        """Return the names of a domain's snapshots, whose metadata refer to its disks as well."""
        return self._lines("snapshot-list", "--name", "--domain", domain)

    def define(self, document: bytes) -> None:
        """Define a domain, in place of the one of that name.

        :raises ProgramError: libvirt refuses it.
        """
        # In memory, because a definition may have passwords.
        fd = os.memfd_create("domain.xml")
        try:
            os.pwrite(fd, document, 0)
            self._run("define", "--validate", "--file", programs.inherited(fd), passes=(fd,))
        finally:
            os.close(fd)

    def refresh(self, pool: str) -> None:
        """Have libvirt look at the files of a pool again.

        :raises ProgramError: it refuses, for instance because the pool is not started.
        """
        self._run("pool-refresh", "--pool", pool)

    def _lines(self, *arguments: str) -> list[str]:
        return [line.strip() for line in self._run(*arguments).splitlines() if line.strip()]

    def _run(self, *arguments: str, passes: Sequence[int] = ()) -> str:
        connect = ["--connect", self.uri] if self.uri else []
        # Unconfined: it must reach libvirt's socket, or ssh, and reads no image.
        done = programs.run(
            [_NAME, "--quiet", *connect, *arguments],
            reads=None,
            timeout=_SECONDS,
            package=_PACKAGE,
            most_output=_MOST_OUTPUT,
            writes=passes,
        )
        if done.code:
            raise ProgramError(
                "cannot use libvirt", why=done.described(), remedy="Check the connection: `virsh uri` prints it."
            )
        return done.output

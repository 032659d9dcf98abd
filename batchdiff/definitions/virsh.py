"""Use libvirt through its command virsh."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

from batchdiff.definitions.libvirt_domain import Domain, parse_domain
from batchdiff.definitions.libvirt_pool import Pool, parse_pool
from batchdiff.errors import ProgramError
from batchdiff.files.filenames import shell_line
from batchdiff.frozen import frozen
from batchdiff.qemu import programs
from batchdiff.units import MIB

_NAME, _PACKAGE = "virsh", "libvirt-clients"
_SECONDS = 60
"""libvirtd may hang, but even a slow one with 1,000 VMs needs only seconds."""

_MOST_OUTPUT = 16 * MIB
_NOT_SUPPORTED = "not supported by the connection driver"
_UNREACHABLE = ("failed to connect to the hypervisor", "had not finished after")
"""Texts in errors that are about the connection, not about the request."""


def virsh_is_installed() -> bool:
    """Return whether virsh is on the PATH."""
    return programs.is_on_path(_NAME)


@frozen
class Libvirt:
    """A connection to libvirt. ``uri``: empty for libvirt's default."""

    uri: str = ""

    def domains(self) -> list[Domain]:
        """Return all persistent domains, without passwords.

        :raises DefinitionError: a definition cannot be used.
        :raises ProgramError: virsh failed.
        """
        names = self._lines("list", "--all", "--name", "--persistent")
        uri = self.uri or ("".join(self._lines("uri")) if names else "")
        return [replace(self.domain(name), where=uri) for name in names]

    def command(self, *arguments: str) -> str:
        """Return a virsh command for this connection, quoted for a shell."""
        return shell_line([_NAME, *self._connect(), *arguments])

    def domain(self, name: str, *, with_passwords: bool = False) -> Domain:
        """Return a domain's persistent definition; a domain that is redefined without its passwords loses them.

        :raises DefinitionError: the definition cannot be used.
        :raises ProgramError: virsh failed.
        """
        options = ["--security-info"] if with_passwords else []
        text = self._run("dumpxml", "--inactive", *options, "--domain", name)
        return parse_domain(text.encode(), f"the domain {name}")

    def pools(self) -> list[Pool]:
        """Return all storage pools; none if the connection's driver does not support them.

        :raises DefinitionError: a definition cannot be used.
        :raises ProgramError: virsh failed.
        """
        names = self._lines_if_supported("pool-list", "--all", "--name")
        dumped = [(name, self._run("pool-dumpxml", "--pool", name)) for name in names]
        return [parse_pool(text.encode(), f"the pool {name}") for name, text in dumped]

    def state(self, domain: str) -> str:
        """Return the state of a domain, such as ``shut off``.

        :raises ProgramError: virsh failed.
        """
        return " ".join(self._lines("domstate", "--domain", domain))

    def active(self) -> list[str]:
        """Return the names of all active domains, even paused ones.

        :raises ProgramError: virsh failed.
        """
        return self._lines("list", "--name")

    def saved(self) -> list[str]:
        """Return the names of the domains with a managed save.

        :raises ProgramError: virsh failed.
        """
        return self._lines("list", "--all", "--name", "--with-managed-save")

    def present_xml(self, domain: str) -> bytes:
        """Return the present definition of an active domain, with its backing chains.

        :raises ProgramError: virsh failed.
        """
        return self._run("dumpxml", "--domain", domain).encode()

    def saved_xml(self, domain: str) -> bytes:
        """Return the definition in a domain's managed save.

        :raises ProgramError: virsh failed.
        """
        return self._run("managedsave-dumpxml", "--domain", domain).encode()

    def snapshots(self, domain: str) -> list[str]:
        """Return the names of a domain's snapshots.

        :raises ProgramError: virsh failed.
        """
        return self._lines("snapshot-list", "--name", "--domain", domain)

    def checkpoints(self, domain: str) -> list[str]:
        """Return the names of a domain's checkpoints; none if the connection's driver does not support them.

        :raises ProgramError: virsh failed.
        """
        return self._lines_if_supported("checkpoint-list", "--name", "--domain", domain)

    def define(self, name: str, document: bytes, *, saved: str = "") -> None:
        """Replace the persistent definition of a domain.

        ``name``: for messages. ``saved``: the file with this definition, if it is a former one.

        :raises ProgramError: the definition was not replaced.
        """
        # In memory, because a definition may contain passwords.
        fd = os.memfd_create("domain.xml")
        try:
            os.pwrite(fd, document, 0)
            arguments = ("define", "--validate", "--file", programs.inherited(fd))
            deed, source = "Make the change", "`batchdiff definitions` shows what must change"
            if saved:
                deed, source = "Bring back the former definition", f"that definition is in {saved}"
            remedy = (
                f"{deed} by hand with `{self.command('edit', '--domain', name)}`, and correct what libvirt objects"
                f" to; {source}."
            )
            self._run(*arguments, passes=(fd,), what=f"libvirt refused the definition of {name}", remedy=remedy)
        finally:
            os.close(fd)

    def refresh(self, pool: str) -> None:
        """Have libvirt list the files of a pool again.

        :raises ProgramError: the pool was not refreshed.
        """
        start = self.command("pool-start", "--pool", pool)
        remedy = f"If the pool is not active, start it with `{start}`, which also refreshes it."
        self._run("pool-refresh", "--pool", pool, what=f"the pool {pool} was not refreshed", remedy=remedy)

    def _connect(self) -> list[str]:
        return ["--connect", self.uri] if self.uri else []

    def _lines(self, *arguments: str) -> list[str]:
        return [line.strip() for line in self._run(*arguments).splitlines() if line.strip()]

    def _lines_if_supported(self, *arguments: str) -> list[str]:
        try:
            return self._lines(*arguments)
        except ProgramError as error:
            if _NOT_SUPPORTED in error.why:
                return []
            raise

    def _run(
        self,
        *arguments: str,
        passes: Sequence[int] = (),
        what: str = "libvirt refused a request",
        remedy: str = "A VM or pool may have been removed meanwhile; run the same command again.",
    ) -> str:
        unreachable = f"Make sure that libvirt can be reached: `{self.command('uri')}` must print its URI."
        try:
            # Not confined: virsh must reach libvirt's socket or run ssh. It reads no image.
            done = programs.run(
                [_NAME, "--quiet", *self._connect(), *arguments],
                reads=None,
                timeout=_SECONDS,
                package=_PACKAGE,
                most_output=_MOST_OUTPUT,
                writes=passes,
            )
        except ProgramError as error:
            if _UNREACHABLE[1] not in error.why:
                raise
            raise ProgramError("cannot use libvirt", why=str(error.reason), remedy=unreachable) from error
        if done.code and _UNREACHABLE[0] in done.output:
            raise ProgramError("cannot use libvirt", why=done.described(), remedy=unreachable)
        if done.code:
            raise ProgramError(what, why=done.described(), remedy=remedy)
        return done.output

"""What virsh reports, and what to do about each of its failures. Guards definitions/virsh.py."""

import pytest

from batchdiff.definitions import virsh
from batchdiff.definitions.virsh import Libvirt
from batchdiff.errors import DefinitionError, ProgramError

TESTS = Libvirt("test:///default")


@pytest.mark.parametrize(
    ("ask", "what", "remedy"),
    [
        (
            lambda: TESTS.define("we b", b"<domain/>"),
            "libvirt refused",
            "Make the change by hand with `virsh --connect test:///default edit --domain 'we b'`",
        ),
        (
            lambda: TESTS.define("we b", b"<domain/>", saved="/saved/we b.before.xml"),
            "libvirt refused",
            "and correct what libvirt objects to; that definition is in /saved/we b.before.xml.",
        ),
        (
            lambda: TESTS.refresh("p 1"),
            "the pool p 1 was not",
            "virsh --connect test:///default pool-start --pool 'p 1'",
        ),
        (lambda: TESTS.state("gone"), "libvirt refused a request", "run the same command again"),
        (lambda: Libvirt("none:///").active(), "cannot use libvirt", "`virsh --connect none:/// uri`"),
    ],
)
def test_a_failure_gets_its_own_remedy(ask, what, remedy):
    with pytest.raises(ProgramError) as caught:
        ask()
    assert caught.value.what.startswith(what)
    assert remedy in caught.value.remedy


@pytest.mark.parametrize("uri", ["test:///default", ""])
def test_a_domain_says_which_connection_has_it(uri, monkeypatch):
    monkeypatch.setenv("LIBVIRT_DEFAULT_URI", "test:///default")
    assert [(each.name, each.where) for each in Libvirt(uri).domains()] == [("test", "test:///default")]


def test_libvirt_that_hangs(tmp_path, monkeypatch):
    """A daemon that has stopped accepts a connection, and never answers."""
    (tmp_path / "virsh").write_text("#!/bin/sh\nexec sleep 60\n")
    (tmp_path / "virsh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(virsh, "_SECONDS", 0.2)
    with pytest.raises(ProgramError) as caught:
        Libvirt("qemu:///system").active()
    assert "it had not finished after" in caught.value.why
    assert "`virsh --connect qemu:///system uri`" in caught.value.remedy


@pytest.mark.parametrize("ask", [TESTS.domains, lambda: TESTS.domain("a"), TESTS.pools])
def test_what_is_no_definition(ask, tmp_path, monkeypatch):
    (tmp_path / "virsh").write_text("#!/bin/sh\necho nonsense\n")
    (tmp_path / "virsh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(DefinitionError, match="not valid XML"):
        ask()

"""docs/many-hosts.md: hosts that are network namespaces with mounts of their own scan over TLS; slow.

Guards planning/remote/connection.py.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import notation
import pytest
from commands import batchdiff
from dask_hosts import DASK, scheduler, worker
from filesystems import tmpfs
from page_runner import page_fences
from small_fleet import write_fleet

pytestmark = pytest.mark.long

MANIFEST = """\
version: 1
template: {path: template.img, format: raw}
guests:
  - {path: one.img, format: raw}
  - {path: two.img, format: raw}
  - {path: three.qcow2, format: qcow2, overlay: {path: three.thin.qcow2}}
"""
_THEIR_OWN = 'mount -t overlay -o "lowerdir=$0:$1" batchdiff-tests "$0"; shift; exec "$@"'
"""Mounts the folder of images once more, so that its files have another device number, in one host's eyes only."""


def run_ip(*arguments: str) -> None:
    notation.run("ip", *arguments)


@contextlib.contextmanager
def bridge(name: str, address: str) -> Iterator[None]:
    """A network between this host and the namespaces on it."""
    run_ip("link", "add", name, "type", "bridge")
    try:
        run_ip("address", "add", f"{address}/24", "dev", name)
        run_ip("link", "set", name, "up")
        yield
    finally:
        run_ip("link", "delete", name)


@contextlib.contextmanager
def host(network: str, name: str, address: str) -> Iterator[tuple[str, ...]]:
    """A network namespace with an address; the words before a command that runs there."""
    run_ip("netns", "add", name)
    try:
        run_ip("link", "add", f"{name}v", "type", "veth", "peer", "name", "eth0", "netns", name)
        run_ip("link", "set", f"{name}v", "master", network, "up")
        run_ip("-netns", name, "address", "add", f"{address}/24", "dev", "eth0")
        run_ip("-netns", name, "link", "set", "eth0", "up")
        run_ip("-netns", name, "link", "set", "lo", "up")
        yield ("ip", "netns", "exec", name)
    finally:
        run_ip("netns", "delete", name)


def make_certificates(folder: Path, name: str = "planner") -> tuple[str, ...]:
    """Makes an authority and a certificate as docs/many-hosts.md shows; the options that name them."""
    folder.mkdir()
    (script,) = [text for text in page_fences("many-hosts", "sh") if text.startswith("openssl ")]
    subprocess.run(["sh", "-euc", script], cwd=folder, check=True, capture_output=True, timeout=60)
    files = ("--tls-ca-file", "ca.pem", "--tls-cert", f"{name}.pem", "--tls-key", f"{name}.key")
    return tuple(word if word.startswith("--") else str(folder / word) for word in files)


@pytest.fixture
def fleet(tmp_path):
    with tmpfs(tmp_path) as folder:
        write_fleet(folder)
        (folder / "fleet.yaml").write_text(MANIFEST)
        yield folder


def test_three_hosts_with_mounts_of_their_own(fleet, tmp_path):
    own = make_certificates(tmp_path / "tls")
    others = make_certificates(tmp_path / "other authority")
    expected = plan(fleet, "here.json")
    unique = f"bd{os.getpid() % 100_000}"
    net = f"10.213.{os.getpid() % 250}"
    (empty := tmp_path / "empty").mkdir()
    with (
        bridge(unique, f"{net}.1"),
        host(unique, f"{unique}a", f"{net}.2") as at_a,
        host(unique, f"{unique}b", f"{net}.3") as at_b,
        scheduler(tmp_path, "--protocol", "tls", "--host", f"{net}.1", *own) as found,
        worker(found, tmp_path / "a", "--host", f"{net}.2", *own, before=at_a),
        worker(
            found,
            tmp_path / "b",
            *("--host", f"{net}.3", *own),
            before=(*at_b, "sh", "-euc", _THEIR_OWN, str(fleet), str(empty)),
        ),
    ):
        assert found.address.startswith(f"tls://{net}.1:")
        options = ("--scheduler", found.address)
        assert plan(fleet, "there.json", *options, *own, said=(f"tls://{net}.2:", f"tls://{net}.3:")) == expected
        refused = batchdiff("plan", "fleet.yaml", *options, cwd=fleet, expect=2)
        assert "tls:// needs certificates" in refused.stderr
        refused = batchdiff("plan", "fleet.yaml", *options, *others, cwd=fleet, expect=4)
        assert "certificate verify failed" in refused.stderr
        refused = batchdiff(
            "plan", "fleet.yaml", "--scheduler", found.address.replace("tls:", "tcp:"), cwd=fleet, expect=2
        )
        assert "--trust-network" in refused.stderr


def test_the_page_starts_dask_with_options_that_it_has():
    commands = [text for text in page_fences("many-hosts", "sh") if text.startswith("dask ")]
    assert len(commands) == 2
    for command in commands:
        notation.run(*DASK, *shlex.split(command)[1:], "--help")


def plan(fleet: Path, name: str, *options: str, said: tuple[str, ...] = ()) -> str:
    """The checksum of a plan; ``said``: parts of what stderr must have."""
    done = batchdiff("plan", "fleet.yaml", "-o", name, *options, cwd=fleet)
    for part in said:
        assert part in done.stderr
    return notation.run("jq", "-r", ".checksum", str(fleet / name))

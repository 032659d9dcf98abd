"""Overlays with options that change the file itself: QED, preallocated, encrypted. QEMU judges each of them.

One fleet, planned and applied once, has a guest for each case.

Guards applying/writer/encrypted_writer.py,
applying/writer/image_writer.py, applying/writer/preallocation.py, foreign/qed_layout.py, foreign/qed.py,
planning/sizes/overlay_layout.py.
"""

import functools
import json
import random
from pathlib import Path
from typing import NamedTuple

import encrypted
import notation
import pytest
from commands import batchdiff, rarely
from filesystems import mounted
from overlays import write, write_sparse

from batchdiff.applying.writer.image_writer import NewImage
from batchdiff.extents import Kind, from_runs
from batchdiff.linux.fiemap import ExtentFlag, physical_extents
from batchdiff.plan.overlay_options import Preallocation
from batchdiff.qcow2.geometry import Geometry
from batchdiff.units import KIB, MIB

SIZE = 6 * MIB
LUKS = "encryption: {format: luks, secret_file: secret, iter_time: 10"
QUICK = {
    "qed": "format: qed",
    "qed-4k": "format: qed, cluster_size: 4KiB, table_size: 2",
    "qed-1M": "format: qed, cluster_size: 1MiB, table_size: 16",
    "qed-4M": "format: qed, cluster_size: 4MiB, table_size: 2, backing_path: relative",
    "qed-auto": "format: qed, cluster_size: auto",
    "metadata": "extended_l2: true, preallocation: metadata",
    "metadata-16k": "extended_l2: true, cluster_size: 16KiB, preallocation: metadata",
    "falloc": "extended_l2: true, preallocation: falloc",
    "full": "extended_l2: true, cluster_size: 128KiB, preallocation: full, lazy_refcounts: true",
    "data": "data_file: true",
    "data-512": "data_file: true, cluster_size: 512, lazy_refcounts: true",
    "data-auto": "data_file: true, cluster_size: auto, extended_l2: auto",
    "data-metadata": "data_file: true, extended_l2: true, preallocation: metadata",
    "data-falloc": "data_file: true, extended_l2: true, cluster_size: 16KiB, preallocation: falloc",
    "luks": f"{LUKS}}}",
    "luks-metadata": f"extended_l2: true, cluster_size: 16KiB, preallocation: metadata, {LUKS}}}",
}
SLOW = {
    "data-4k": "data_file: odd-name.raw, cluster_size: 4KiB, refcount_bits: 1",
    "data-extended": "data_file: true, cluster_size: 128KiB, extended_l2: true, backing_path: relative",
    "data-full": "data_file: true, extended_l2: true, preallocation: full",
    "luks-essiv": f"cluster_size: 4KiB, {LUKS}, cipher_alg: aes-128, cipher_mode: cbc, ivgen_alg: essiv,"
    " ivgen_hash_alg: md5, hash_alg: sha512}",
    "luks-serpent": f"cluster_size: 2MiB, {LUKS}, cipher_alg: serpent-256, ivgen_alg: plain}}",
    "luks-512": f"cluster_size: 512, {LUKS}, cipher_alg: twofish-128, cipher_mode: ctr}}",
    "luks-version-2": f'compat: "0.10", {LUKS}}}',
    "luks-refcounts": f"refcount_bits: 1, cluster_size: 4KiB, {LUKS}}}",
    "luks-extended": f"extended_l2: true, cluster_size: 128KiB, {LUKS}}}",
    "luks-full": f"extended_l2: true, preallocation: full, {LUKS}, cipher_alg: cast5-128, cipher_mode: cbc}}",
}
"""QEMU takes seconds to create a LUKS header, because it measures how fast the CPU is."""

LARGER_THAN_THE_GUEST = ("qed-4M", "data-falloc", "data-full", "falloc", "full", "luks-full", "luks-serpent")
CASES = [*QUICK, *rarely(*SLOW)]


class Converted(NamedTuple):
    """The folder of the fleet, and its plan."""

    folder: Path
    plan: dict

    def guest(self, name: str) -> dict:
        return next(guest for guest in self.plan["guests"] if guest["name"] == name)

    def overlay(self, name: str) -> Path:
        return self.folder / f"{name}.{'qed' if name.startswith('qed') else 'qcow2'}"

    def files(self, name: str) -> list[Path]:
        """The overlay, and its data file if it has one."""
        data = self.guest(name)["overlay"].get("data_file")
        return [self.overlay(name), *([Path(data)] if data else [])]

    def opened(self, name: str) -> str:
        """How QEMU opens an overlay."""
        kind = "qed" if name.startswith("qed") else "qcow2"
        if name.startswith("luks"):
            return encrypted.opened(self.overlay(name), kind)
        return f"driver={kind},file.filename={self.overlay(name)}"

    def qemu_img(self, verb: str, *arguments: str) -> str:
        secret = f"secret,id=s,file={self.folder / 'secret'}"
        return notation.run("qemu-img", verb, "--object", secret, "--image-opts", *arguments)


def contents() -> tuple[bytes, bytes]:
    """A template and a larger guest that has changed: data and zeros in pieces of many sizes, at odd places."""
    rng = random.Random(13)
    template = rng.randbytes(SIZE // 2) + bytes(SIZE // 4) + rng.randbytes(SIZE // 4)
    guest = bytearray(template + bytes(MIB + 4608))
    for at, length in ((64 * KIB, 300_000), (2 * MIB, 5), (2 * MIB + 40_000, 70_000), (SIZE + MIB, 4000)):
        guest[at : at + length] = rng.randbytes(length)
    for at, length in ((MIB, 256 * KIB), (MIB + 400_000, 10_000), (SIZE - 64 * KIB, 64 * KIB)):
        guest[at : at + length] = bytes(length)
    return template, bytes(guest)


@pytest.fixture(scope="module")
def fleets(tmp_path_factory):
    """Makes the fleet that has a case when it is first asked for."""

    @functools.cache
    def converted(is_slow: bool) -> Converted:
        return apply_all(tmp_path_factory.mktemp("options"), SLOW if is_slow else QUICK)

    return lambda name: converted(name in SLOW)


@pytest.fixture
def fleet(fleets, request):
    return fleets(request.node.callspec.params["name"] if hasattr(request.node, "callspec") else "luks")


def apply_all(folder: Path, cases: dict[str, str]) -> Converted:
    template, guest = contents()
    write_sparse(folder / "t.img", template)
    encrypted.secret_file(folder / "secret")
    for name in cases:
        write_sparse(folder / f"{name}.img", guest)
        if name in LARGER_THAN_THE_GUEST:  # blocks past its end make it large, and are freed with it
            argv = ["fallocate", "-n", "-o", str(2 * SIZE), "-l", str(4 * SIZE), str(folder / f"{name}.img")]
            notation.run(*argv)
    guests = "".join(f"  - {{path: {name}.img, overlay: {{{options}}}}}\n" for name, options in cases.items())
    text = "version: 1\ntemplate: {path: t.img, format: raw}\ndefaults: {format: raw}\nguests:\n" + guests
    (folder / "m.yaml").write_text(text)
    batchdiff("plan", "m.yaml", cwd=folder)
    batchdiff("apply", "m.plan.json", cwd=folder, expect=None, timeout=400)  # each test looks at its own guest
    return Converted(folder, json.loads((folder / "m.plan.json").read_text()))


@pytest.mark.parametrize("name", CASES)
def test_qemu_reads_what_the_guest_has(fleet, name):
    fleet.qemu_img("compare", fleet.opened(name), f"driver=raw,file.filename={fleet.folder / name}.img")
    assert "No errors were found" in fleet.qemu_img("check", fleet.opened(name))


@pytest.mark.parametrize("name", CASES)
def test_the_plan_knows_size_and_space(fleet, name):
    """To the byte; ext4 counts a block for a longer list of extents as the file's."""
    savings, files = fleet.guest(name)["savings"], fleet.files(name)
    assert sum(each.stat().st_size for each in files) == savings["overlay_bytes"]
    assert savings["overlay_error_bytes"] == 0
    lists = 0
    for each in files:
        with each.open("rb") as file:
            lists += len(list(physical_extents(file.fileno(), "overlay"))) > 4
    taken = sum(each.stat().st_blocks * 512 for each in files)
    assert taken - savings["overlay_disk_bytes"] in {4096 * each for each in range(lists + 1)}


@pytest.mark.parametrize("name", CASES)
def test_only_what_differs_is_held(fleet, name):
    """Depth 0 is what the overlay holds: exactly the planned units, zeros as zeros."""
    ranges = json.loads(fleet.qemu_img("map", "--output=json", fleet.opened(name)))
    held = {kind: units(ranges, fleet.guest(name)["extents"]["unit"], kind) for kind in ("data", "zero")}
    if name.startswith("data"):  # QEMU looks into a data file, too: holes in its clusters read as zeros
        held["zero"] -= held["data"]
    for kind, found in held.items():
        runs = fleet.guest(name)["extents"][kind]
        last = -(-fleet.guest(name)["virtual_size"] // fleet.guest(name)["extents"]["unit"])
        assert found == {unit for first, count in runs for unit in range(first, min(first + count, last))}, kind


def units(ranges: list[dict], unit: int, kind: str) -> set[int]:
    """The units that an overlay itself holds as data, or as zeros."""
    found = set()
    for entry in ranges:
        if entry["depth"] == 0 and entry["present"] and entry["zero"] is (kind == "zero"):
            end = entry["start"] + entry["length"]
            found |= set(range(entry["start"] // unit, -(-end // unit)))
    return found


def test_info_shows_the_options(fleet):
    def info(name: str) -> dict:
        return json.loads(fleet.qemu_img("info", "--output=json", fleet.opened(name)))

    assert (info("qed")["format"], info("qed")["cluster-size"]) == ("qed", 64 * KIB)
    assert info("qed-4M")["cluster-size"] == 4 * MIB
    assert info("qed-4M")["backing-filename"] == "t.img"
    assert info("qed")["backing-filename-format"] == "raw"
    default = info("luks")["format-specific"]["data"]["encrypt"]
    assert (default["cipher-alg"], default["cipher-mode"], default["hash-alg"]) == ("aes-256", "xts", "sha256")
    assert sum(slot["active"] for slot in default["slots"]) == 1


@pytest.mark.parametrize("name", rarely("luks-essiv"))
def test_info_shows_the_cipher(fleet, name):
    found = json.loads(fleet.qemu_img("info", "--output=json", fleet.opened(name)))
    chosen = {"cipher-alg": "aes-128", "cipher-mode": "cbc", "ivgen-alg": "essiv", "ivgen-hash-alg": "md5"}
    assert found["format-specific"]["data"]["encrypt"].items() >= (chosen | {"hash-alg": "sha512"}).items()


@pytest.mark.parametrize(
    "name",
    [
        "metadata",
        "metadata-16k",
        "falloc",
        "full",
        "data-metadata",
        "data-falloc",
        "luks-metadata",
        *rarely("luks-full"),
    ],
)
def test_a_write_allocates_no_cluster(fleet, name, tmp_path):
    """The file keeps its length when a VM writes where it has shown the template."""
    copy = tmp_path / "copy.qcow2"
    for file, to in zip(fleet.files(name), (copy, tmp_path / "data"), strict=False):
        notation.run("cp", "--sparse=always", str(file), str(to))
    opened = fleet.opened(name).replace(str(fleet.overlay(name)), str(copy))
    if (tmp_path / "data").exists():
        opened += f",data-file.driver=file,data-file.filename={tmp_path / 'data'}"
    secret = f"secret,id=s,file={fleet.folder / 'secret'}"
    notation.run("qemu-io", "--object", secret, "--image-opts", "-c", "write 5M 200k", opened)
    assert copy.stat().st_size == fleet.overlay(name).stat().st_size
    fleet.qemu_img("check", opened)


@pytest.mark.parametrize(
    "name",
    [
        "data",
        "data-512",
        "data-auto",
        "data-metadata",
        "data-falloc",
        *rarely("data-4k", "data-extended", "data-full"),
    ],
)
def test_a_data_file_holds_each_cluster_at_its_own_offset(fleet, name):
    info = json.loads(fleet.qemu_img("info", "--output=json", fleet.opened(name)))
    shown, data = info["format-specific"]["data"], fleet.files(name)[1]
    assert (shown["data-file"], shown["data-file-raw"], shown["compat"]) == (str(data), False, "1.1")
    assert data.name == ("odd-name.raw" if name == "data-4k" else f"{name}.data.raw")
    assert data.stat().st_size == fleet.guest(name)["virtual_size"]
    ranges = json.loads(fleet.qemu_img("map", "--output=json", fleet.opened(name)))
    held = [each for each in ranges if each["depth"] == 0 and each["data"]]
    assert held
    assert all(each["offset"] == each["start"] for each in held)


@pytest.mark.parametrize("name", ["luks", "luks-metadata", *rarely(*SLOW)])
def test_no_plain_data_is_in_an_encrypted_overlay(fleet, name):
    stored = fleet.overlay(name).read_bytes()
    guest = (fleet.folder / f"{name}.img").read_bytes()
    changed = [guest[at : at + 64] for at in range(64 * KIB, 64 * KIB + 300_000, 64 * KIB)]
    assert not any(piece in stored for piece in changed)


@pytest.mark.parametrize("how", [Preallocation.OFF, Preallocation.FALLOC])
def test_reserved_blocks_are_not_shared(tmp_path, how):
    """A VM's first write to a shared block needs a new one, which nobody would have reserved."""
    with mounted(tmp_path, "xfs") as point:
        guest = point / "g.img"
        guest.write_bytes(random.Random(9).randbytes(MIB))
        extents, geometry = from_runs([(0, 16 * 32, Kind.DATA)]), Geometry(64 * KIB, extended_l2=True)
        write(point / "o.qcow2", guest, NewImage(MIB, geometry, extents, None, preallocation=how))
        with (point / "o.qcow2").open("rb") as file:
            is_shared = any(each.flags & ExtentFlag.SHARED for each in physical_extents(file.fileno(), "overlay"))
        assert is_shared is (how is Preallocation.OFF)


def test_what_comes_later(fleet):
    """Status and verify know them, and a second plan finds them done."""
    said = batchdiff("verify", "m.plan.json", cwd=fleet.folder)
    assert said.stdout.count("identical to its original") == len(QUICK)
    again = batchdiff("plan", "m.yaml", "-o", "again.json", cwd=fleet.folder)
    assert "0 of" in again.stdout or "done by" in again.stdout


def test_the_secret_is_nowhere(fleet):
    for path in fleet.folder.iterdir():
        if path.name != "secret" and path.suffix in {".json", ".journal", ".yaml"}:
            assert encrypted.SECRET not in path.read_text(), path

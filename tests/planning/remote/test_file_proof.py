"""A host that sees other files than the planner is found, whatever is different."""

import dataclasses
import os
from pathlib import Path

import notation
import pytest
from devices import attached
from oracle import source

from batchdiff.image.open import open_image
from batchdiff.plan.plan import PlannedImage
from batchdiff.planning.remote import file_proof
from batchdiff.planning.remote.file_proof import FileProof, objection_to, proofs_of
from batchdiff.units import KIB, MIB


@pytest.fixture
def path(tmp_path):
    return notation.write_raw(tmp_path / "guest.img", "1M:- 1M:A 6M:- 2k:B")


def recorded(path):
    with open_image(source(path)) as image:
        return PlannedImage(image.source, image.virtual_size, image.fingerprints())


def proof(path, seed=1):
    (found,) = proofs_of([recorded(path)], seed=seed).files
    return found


def as_it_is_now(before: FileProof) -> FileProof:
    """The same excerpts, with the fingerprint that the file has now: that of a copy which looks the same."""
    return dataclasses.replace(before, fingerprint=recorded(Path(before.path)).fingerprints[0])


def test_the_same_files(path):
    assert objection_to([proof(path)]) == ""


def test_another_device_number_does_not_matter(path):
    before = proof(path)
    there = dataclasses.replace(before.fingerprint, device=before.fingerprint.device + 1, filesystem="")
    assert objection_to([dataclasses.replace(before, fingerprint=there)]) == ""


def test_another_device_number_and_another_size_need_not_be_another_file(path):
    """Without a lasting identifier of the filesystem, as on NFS."""
    before = proof(path)
    changes = {"device": before.fingerprint.device + 1, "filesystem": "", "size": 5}
    there = dataclasses.replace(before.fingerprint, **changes)
    found = objection_to([dataclasses.replace(before, fingerprint=there)])
    assert found.startswith(f"{path}: that host sees a different size (")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"inode": 5}, "another file is in its place on that host"),
        ({"size": 5}, "that host sees a different size ("),
        ({"mtime_ns": 5}, "that host sees a different mtime"),
        ({"ctime_ns": 5}, "that host sees a different ctime"),
    ],
)
def test_another_fingerprint(path, change, said):
    before = proof(path)
    found = objection_to(
        [dataclasses.replace(before, fingerprint=dataclasses.replace(before.fingerprint, **change))]
    )
    assert found.startswith(f"{path}: {said}")


def test_both_sizes_are_named(path):
    before = proof(path)
    shorter = dataclasses.replace(before.fingerprint, size=before.fingerprint.size - 1)
    found = objection_to([dataclasses.replace(before, fingerprint=shorter)])
    assert found == f"{path}: that host sees a different size ({shorter.size + 1} bytes, not {shorter.size})"


def test_a_missing_file(path):
    before = proof(path)
    path.unlink()
    assert f"cannot open {path}" in objection_to([before])


@pytest.mark.parametrize("seed", range(5))
def test_other_content_behind_an_equal_fingerprint(path, seed):
    """As in a snapshot of the storage: most of the data is different."""
    before = proof(path, seed)
    with path.open("r+b") as file:
        file.seek(MIB)
        file.write(b"!" * MIB)
    assert "its block at byte" in objection_to([as_it_is_now(before)])


def test_probes_are_in_data_and_all_different(path):
    offsets = [excerpt.offset for excerpt in proof(path).excerpts]
    assert len(offsets) > 1
    assert offsets == sorted(set(offsets))
    assert all(MIB <= offset < 2 * MIB or offset == 8 * MIB for offset in offsets)
    assert all(excerpt.length == 4 * KIB for excerpt in proof(path).excerpts if excerpt.offset < 8 * MIB)
    assert {excerpt.length for excerpt in proof(path).excerpts if excerpt.offset == 8 * MIB} <= {2 * KIB}


def test_another_seed_takes_excerpts_of_other_places(path):
    assert len({tuple(excerpt.offset for excerpt in proof(path, seed).excerpts) for seed in range(5)}) > 1


def test_few_places_are_read_of_a_large_fleet(tmp_path, monkeypatch):
    monkeypatch.setattr(file_proof, "_MOST_IN_ALL", 12)
    images = [recorded(notation.write_raw(tmp_path / f"{n}.img", "1M:A")) for n in range(6)]
    assert [len(each.excerpts) for each in proofs_of(images, seed=1).files] == [2] * 6


def test_an_empty_and_a_tiny_file(tmp_path):
    """A raw image of no bytes is refused elsewhere; a file of a chain may be tiny."""
    tiny = notation.write_raw(tmp_path / "tiny.img", "512:A")
    before = proof(tiny)
    assert [(excerpt.offset, excerpt.length) for excerpt in before.excerpts] == [(0, 512)]
    assert objection_to([before]) == ""


def test_a_block_device_is_known_by_its_content(tmp_path):
    """It has no inode and no times, and its number is another one on each host."""
    backing = notation.write_raw(tmp_path / "disk.img", "64k:A 64k:B")
    with attached(backing) as device:
        before = proof(Path(device))
        assert len(before.excerpts) == 16
        assert objection_to([before]) == ""
        with open(device, "r+b") as disk:
            disk.write(b"!" * 128 * KIB)
            os.fsync(disk.fileno())
        assert "its block at byte" in objection_to([before])

"""A refusal says why, and what to do instead."""

from pathlib import Path

import notation
import pytest
import real_holders
from filesystems import MAKE, mounted
from oracle import source

from batchdiff.image.open import open_image
from batchdiff.image.storage.sharing_obstacle import obstacle_to_sharing


def obstacle(template, guest):
    with open_image(source(template)) as one, open_image(source(guest)) as other:
        return obstacle_to_sharing(one, other)


def made(folder, name):
    return notation.write_raw(folder / f"{name}.img", "64k:A")


def test_ext4_and_two_filesystems(tmp_path):
    with mounted(tmp_path, "ext4", 16 << 20) as ext4, mounted(tmp_path, "xfs") as xfs:
        why, remedy = obstacle(made(ext4, "template"), made(ext4, "guest"))
        assert why == "ext4 cannot let existing files share blocks (FIDEDUPERANGE)"
        assert remedy == ("Use `strategy: overlay` for this guest, or move template and guest to XFS or btrfs.")
        why, remedy = obstacle(made(ext4, "template"), made(xfs, "guest"))
        assert "another filesystem" in why
        assert str(ext4 / "template.img") in why
        assert "strategy: overlay" in remedy
        assert obstacle(made(xfs, "template"), made(xfs, "guest")) is None


def test_an_xfs_without_reflinks(tmp_path, monkeypatch):
    monkeypatch.setitem(MAKE, "xfs", ("mkfs.xfs", "-q", "-m", "reflink=0"))
    with mounted(tmp_path, "xfs") as xfs:
        why, remedy = obstacle(made(xfs, "template"), made(xfs, "guest"))
    assert why.startswith("this XFS filesystem was made without reflinks (reflink=0)")
    assert remedy.endswith("or move template and guest to an XFS filesystem with reflinks or to btrfs.")


@pytest.mark.parametrize("is_template", [True, False])
def test_the_block_device_is_named(tmp_path, is_template):
    file = made(tmp_path, "file")
    with real_holders.loop_device(made(tmp_path, "device")) as name:
        device = Path(name.split()[-1])
        why, _ = obstacle(device, file) if is_template else obstacle(file, device)
    assert why == f"only files can share blocks, and {device} is a block device"


def test_a_chain_of_which_one_file_is_within_reach(tmp_path):
    with mounted(tmp_path, "xfs") as xfs:
        base = notation.write_raw(tmp_path / "base.img", "64k:A")
        template = notation.write_qcow2(xfs / "template.qcow2", "64k:B", backing=base)
        with open_image(source(template, base)) as one, open_image(source(made(xfs, "guest"))) as other:
            assert obstacle_to_sharing(one, other) is None

import plans
import pytest
from filesystems import mounted

from batchdiff.applying.space import check_space, free_bytes
from batchdiff.errors import GuestError
from batchdiff.model.manifest import Retire
from batchdiff.units import GIB, MIB


def guest(folder, name="web01", overlay_folder=None, **savings):
    path = folder / f"{name}.img"
    path.touch()
    target = str((overlay_folder or folder) / f"{name}.qcow2")
    return plans.guest_plan(name, path=str(path), overlay_path=target, savings=plans.savings(**savings))


@pytest.fixture
def free(tmp_path):
    return free_bytes(tmp_path)


def test_nothing_to_write():
    check_space([], Retire.KEEP)


def test_there_is_room(tmp_path):
    check_space([guest(tmp_path, overlay=MIB)], Retire.KEEP)


def test_there_is_none(tmp_path, free):
    with pytest.raises(GuestError, match="not enough space") as caught:
        check_space([guest(tmp_path, overlay=free + GIB)], Retire.KEEP)
    assert str(tmp_path) in str(caught.value)
    assert "--guest" in caught.value.remedy


def test_all_overlays_together_count(tmp_path, free):
    guests = [guest(tmp_path, f"web{number}", overlay=free // 3 + GIB) for number in range(3)]
    check_space(guests[:1], Retire.KEEP)
    with pytest.raises(GuestError):
        check_space(guests, Retire.KEEP)
    with pytest.raises(GuestError):
        check_space(guests, Retire.QUARANTINE)


def test_what_a_deletion_gives_back_counts_for_the_next(tmp_path, free):
    changes = {"overlay": free // 4, "allocated": free}
    guests = [guest(tmp_path, f"web{number}", **changes) for number in range(6)]
    check_space(guests, Retire.DELETE)
    with pytest.raises(GuestError):
        check_space(guests, Retire.QUARANTINE)


def test_the_error_of_an_estimate_counts(tmp_path, free):
    with pytest.raises(GuestError):
        check_space([guest(tmp_path, overlay=MIB, error=free)], Retire.KEEP)


def test_each_filesystem_for_itself(tmp_path, free):
    """Overlays on a full filesystem: what the originals' one has, or gets back, is of no use there."""
    with mounted(tmp_path, "ext4", 16 * MIB) as small:
        changes = {"overlay": 8 * MIB, "allocated": GIB}
        guests = [guest(tmp_path, f"web{number}", small, **changes) for number in range(2)]
        check_space(guests[:1], Retire.KEEP)
        with pytest.raises(GuestError, match=str(small)):
            check_space(guests, Retire.DELETE)
        check_space([guests[0], guest(tmp_path, overlay=free // 2)], Retire.KEEP)


def test_a_folder_that_is_gone_is_that_guests_failure(tmp_path):
    """It is said when its turn comes; the others must not be kept from theirs."""
    (tmp_path / "there").mkdir()
    lost = guest(tmp_path, overlay_folder=tmp_path / "gone", overlay=MIB)
    check_space([lost, guest(tmp_path / "there", overlay=MIB)], Retire.KEEP)

"""What another user than root lacks is named: the folder or the file, its owner and its mode."""

from __future__ import annotations

import os
import pwd
import sys

import access
import notation
import pytest

from batchdiff.image.files import open_image_file
from batchdiff.linux import permissions
from batchdiff.linux.call_failures import explain, obstacle, reason
from batchdiff.linux.permissions import Deed, lacking_access, user

SOMEBODY = 3001
ME = f"the user with uid {SOMEBODY}"
ROOTS = "which belongs to uid 0 and has mode"
"""In the folder that is all there is for the child nobody has a name."""


@pytest.mark.parametrize("uid_map", [[], ["--map-root-user"], ["--map-user=1000"]], ids=str)
def test_root_in_a_user_namespace_is_not_root_of_the_host(uid_map):
    code = "from batchdiff.linux.permissions import is_root_of_the_host; print(is_root_of_the_host())"
    namespace = ["unshare", "--user", *uid_map] if uid_map else []
    assert notation.run(*namespace, sys.executable, "-c", code) == f"{not uid_map}\n"


@pytest.fixture
def folder(tmp_path):
    """With a file of root's in it, and in a folder of its own."""
    tmp_path.chmod(0o755)
    below = tmp_path / "images"
    below.mkdir()
    below.chmod(0o755)
    (below / "vm.img").write_bytes(b"disk")
    (below / "vm.img").chmod(0o644)
    return tmp_path


def told(folder, act, deed=None):
    """What is said of the error with which a call ends that somebody makes."""

    def tried():
        try:
            act()
        except OSError as error:
            return explain(error, deed)
        return None

    return access.as_user(SOMEBODY, folder, tried)


def test_a_folder_that_may_not_be_written_to(folder):
    for act in (
        lambda: os.rename("/images/vm.img", "/images/x"),
        lambda: os.unlink("/images/vm.img"),
        lambda: os.open("/images/new", os.O_CREAT | os.O_WRONLY),
    ):
        assert told(folder, act).why == f"{ME} may not write to the folder /images, {ROOTS} 755"
    (folder / "images").chmod(0o777)
    assert told(folder, lambda: os.unlink("/images/vm.img")) is None


def test_a_new_folder_that_may_not_be_written_to(folder):
    """The file may leave its folder, but not get into the other."""
    (folder / "images").chmod(0o777)
    (folder / "aside").mkdir(mode=0o755)
    found = told(folder, lambda: os.rename("/images/vm.img", "/aside/vm.img"))
    assert found.why == f"{ME} may not write to the folder /aside, {ROOTS} 755"


def test_a_folder_that_may_not_be_entered(folder):
    (folder / "images").chmod(0o700)
    found = told(folder, lambda: os.open("/images/vm.img", os.O_RDONLY), Deed.READ)
    assert found.why == f"{ME} may not enter the folder /images, {ROOTS} 700"
    assert found.remedy.startswith("Run the same command as a user with that permission, such as root")


@pytest.mark.parametrize(
    ("mode", "flags", "deed"), [(0o600, os.O_RDONLY, Deed.READ), (0o644, os.O_RDWR, Deed.WRITE)]
)
def test_a_file(folder, mode, flags, deed):
    (folder / "images/vm.img").chmod(mode)
    found = told(folder, lambda: os.open("/images/vm.img", flags), deed)
    assert found.why == f"{ME} may not {deed} /images/vm.img, {ROOTS} {mode:o}"


def test_an_image_that_may_not_be_read(folder):
    (folder / "images/vm.img").chmod(0o600)
    with pytest.raises(Exception, match=f"cannot open /images/vm.img: {ME} may not read"):
        access.as_user(SOMEBODY, folder, lambda: open_image_file("/images/vm.img"))


def test_an_access_list_counts(folder):
    """Not only the mode: what is asked is the kernel."""
    (folder / "images/vm.img").chmod(0o600)
    os.setxattr(folder / "images/vm.img", access.ACCESS, access.open_to(SOMEBODY, 4))
    assert access.as_user(SOMEBODY, folder, lambda: lacking_access(Deed.READ, "/images/vm.img")) == ""
    assert access.as_user(SOMEBODY, folder, lambda: lacking_access(Deed.WRITE, "/images/vm.img")) != ""


@pytest.mark.parametrize(
    "act", [lambda: os.rename("/images/vm.img", "/images/x"), lambda: os.unlink("/images/vm.img")]
)
def test_a_folder_with_the_sticky_bit(folder, act):
    (folder / "images").chmod(0o1777)
    found = told(folder, act)
    assert found.why.startswith("the folder /images has the sticky bit, so only root may ")
    assert found.why.endswith(f"/images/vm.img, not {ME}")
    before = access.as_user(SOMEBODY, folder, lambda: obstacle(Deed.RENAME, "/images/vm.img"))
    assert before is not None
    assert "sticky bit" in before.why
    os.chown(folder / "images/vm.img", SOMEBODY, SOMEBODY)
    assert access.as_user(SOMEBODY, folder, lambda: obstacle(Deed.RENAME, "/images/vm.img")) is None
    assert told(folder, act) is None


def test_the_owners_of_a_folder_with_the_sticky_bit_are_named(folder):
    (folder / "images").chmod(0o1777)
    os.chown(folder / "images", 3002, 3002)
    os.chown(folder / "images/vm.img", 3003, 3003)
    found = told(folder, lambda: os.unlink("/images/vm.img"))
    assert "only uid 3002, uid 3003 and root may delete" in found.why


def test_a_mode_is_its_owners(folder):
    os.chown(folder / "images/vm.img", 3003, 3003)
    found = told(folder, lambda: os.chmod("/images/vm.img", 0o600), Deed.CHANGE_MODE)
    assert found.why == f"only uid 3003 and root may change the mode of /images/vm.img, not {ME}"
    assert found.remedy == "Run the same command as root."


def test_root_without_its_capabilities(folder, monkeypatch):
    """As in a container: then it is not the mode that must change."""
    monkeypatch.setattr(permissions, "_has", lambda _: False)
    found = reason(PermissionError(13, "Permission denied", str(folder / "images/vm.img")), Deed.READ)
    assert "lacks CAP_DAC_OVERRIDE and CAP_FOWNER" in found


def test_users_have_their_names():
    assert user() == f"{pwd.getpwuid(0).pw_name} (uid 0)"

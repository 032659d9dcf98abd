"""In a chroot, whose list of mounts lacks its own root, leases still see who has a file open."""

import notation
from commands import COMMAND, GUESTS, Fleet
from filesystems import mounted
from oracle import assert_same

INTO_A_CHROOT = """
cd "$1"
for each in /*; do
    if [ -L "$each" ]; then
        ln -sfT "$(readlink "$each")" ".$each"
    elif [ -d "$each" ]; then
        mkdir -p ".$each"
        mount --rbind "$each" ".$each"
    fi
done
shift
exec chroot . "$@"
"""
"""All of this machine, and a root that is in no list of mounts: a folder within a filesystem."""

ONE_GUEST = "version: 1\ntemplate: {path: template.img, format: raw}\nguests: [{path: raw.img, format: raw}]\n"


def test_a_guest_is_deleted_in_a_chroot(tmp_path):
    with mounted(tmp_path, "ext4") as filesystem:
        root = filesystem / "root"
        (root / "fleet").mkdir(parents=True)
        fleet = Fleet(root / "fleet", ONE_GUEST)

        def run(*argv):
            inside = ("sh", "-euc", 'cd /fleet && exec "$@"', "sh", *argv)
            return notation.run("unshare", "--mount", "sh", "-euc", INTO_A_CHROOT, "sh", str(root), *inside)

        run(*COMMAND, "plan", "fleet.yaml", "-q")
        run(*COMMAND, "apply", "fleet.plan.json", "--retire", "delete", "--yes")
        assert "raw.img" not in fleet.names()
        run("qemu-img", "convert", "-O", "raw", "raw.qcow2", "read-back")
        assert_same((fleet.folder / "read-back").read_bytes(), notation.content(GUESTS["raw.img"]))

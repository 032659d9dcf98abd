"""What `plan -v` and `validate -v` list."""

import os

from batchdiff.manifest.file import read_manifest
from batchdiff.report.manifest_text import guest_lines

MANIFEST = """\
version: 1
template: {path: t.img, format: raw}
defaults: {format: raw}
retire: quarantine
guests:
  - path: a.img
  - {path: b.img, overlay: {path: same, cluster_size: auto}}
  - glob: clones/*.img
"""


def test_each_guest_with_its_glob_and_where_its_overlay_goes(tmp_path):
    os.mkdir(tmp_path / "clones")
    for name in ("t.img", "a.img", "b.img", "clones/c.img"):
        (tmp_path / name).write_bytes(b"\1" * 65536)
    (tmp_path / "link.img").symlink_to(tmp_path / "clones/c.img")
    (tmp_path / "clones/d\n.img").write_bytes(b"\2" * 65536)
    path = tmp_path / "m.yaml"
    path.write_text(MANIFEST)
    assert list(guest_lines(read_manifest(str(path)))) == [
        f"template: {tmp_path}/t.img (raw)",
        f"a: {tmp_path}/a.img (raw), listed by path -> {tmp_path}/a.qcow2 (qcow2, clusters 64 KiB)",
        f"b: {tmp_path}/b.img (raw), listed by path -> in the guest's place (qcow2, clusters auto)",
        f"c: {tmp_path}/clones/c.img (raw), from the glob clones/*.img -> {tmp_path}/clones/c.qcow2 (qcow2,"
        " clusters 64 KiB)",
        f"d\\n: {tmp_path}/clones/d\\n.img (raw), from the glob clones/*.img; cannot be a guest: its name has a"
        " line break (\\n); rename it, or `exclude` it",
    ]
    path.write_text(MANIFEST.replace("path: a.img", "path: link.img").replace("  - glob: clones/*.img\n", ""))
    assert (
        f"link: {tmp_path}/link.img (raw), listed by path, a link to {tmp_path}/clones/c.img ->"
        f" {tmp_path}/link.qcow2"
    ) in " ".join(guest_lines(read_manifest(str(path))))

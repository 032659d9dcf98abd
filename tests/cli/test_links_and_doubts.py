"""Guests that are named by symbolic links, and images that do not start like their formats, as users see them.

Guards cli/format_doubts.py.
"""

from __future__ import annotations

import notation
import pytest
from commands import batchdiff


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "disks").mkdir()
    notation.write_raw(tmp_path / "t.img", "1M:A 1M:B")
    notation.write_raw(tmp_path / "disks" / "lun7.img", "1M:A 64k:X 960k:B")
    (tmp_path / "web.img").symlink_to("disks/lun7.img")
    return tmp_path


def manifest(folder, more: str = "", tail: str = "") -> None:
    guests = f"guests: [{{path: web.img, format: raw{more}}}]\n"
    (folder / "m.yaml").write_text(f"version: 1\ntemplate: {{path: t.img, format: raw}}\n{guests}{tail}")


def plain(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize(
    ("retire", "words"),
    [
        (
            "keep",
            "The original keeps its name; once it is deleted, or quarantined as {file}.batchdiff-original, the"
            " link points to nothing.",
        ),
        ("quarantine", "The original becomes {file}.batchdiff-original, and the link points to nothing."),
        ("delete", "The original is deleted, and the link points to nothing."),
    ],
)
def test_where_the_files_of_a_link_go(folder, retire, words):
    manifest(folder, tail=f"retire: {retire}\n")
    link, file, overlay = f"{folder}/web.img", f"{folder}/disks/lun7.img", f"{folder}/web.qcow2"
    planned = batchdiff("plan", "m.yaml", cwd=folder)
    note = f"note web: {link} is a symbolic link to {file}. The overlay goes to {overlay}. "
    assert note + words.format(file=file) in plain(planned.stdout)
    applied = batchdiff("apply", "m.plan.json", "--verify=full", "-y", cwd=folder)
    assert f"change the VM's definition: {link} (a link to {file}, raw) -> {overlay} (qcow2)\n" in applied.stderr
    gone = f"the link {link} points to nothing now; remove it once no definition names it\n"
    assert (gone in applied.stderr) is (retire != "keep")


def test_in_the_place_of_what_a_link_leads_to(folder):
    manifest(folder, ", overlay: {path: same}", "retire: quarantine\n")
    planned = batchdiff("plan", "m.yaml", cwd=folder)
    assert "The overlay takes the place of that file, so the link points to the overlay." in plain(planned.stdout)
    applied = batchdiff("apply", "m.plan.json", cwd=folder)
    assert f"change the VM's definition: the format of {folder}/web.img, raw -> qcow2\n" in applied.stderr
    assert "points to nothing" not in applied.stderr


def test_many_links_are_summed_up(folder):
    for number in range(5):
        notation.write_raw(folder / "disks" / f"{number}.img", "1M:A 1M:B")
        (folder / f"link{number}.img").symlink_to(f"disks/{number}.img")
    manifest(folder)
    (folder / "m.yaml").write_text((folder / "m.yaml").read_text().replace("path: web.img", 'glob: "link*.img"'))
    planned = batchdiff("plan", "m.yaml", cwd=folder)
    assert plain(planned.stdout).count("is a symbolic link to") == 3
    more = "note 2 more guests are named by symbolic links in the manifest: check where those links will point."
    assert more in plain(planned.stdout)


def test_show_and_apply_warn_of_formats_as_plan_does(folder):
    """The disk's own first bytes look like qcow2: a nested image, or a manifest with the wrong format."""
    notation.write_qcow2(folder / "nested.qcow2", "1M:A")
    with (folder / "disks" / "lun7.img").open("r+b") as file:
        file.write((folder / "nested.qcow2").read_bytes()[:512])
    manifest(folder)
    warning = f"batchdiff: warning: the guest web, {folder}/disks/lun7.img, is declared raw, but looks"
    warning += " like a qcow2 image."
    for argv in (["plan", "m.yaml"], ["show", "m.plan.json"], ["apply", "m.plan.json", "--retire", "quarantine"]):
        assert batchdiff(*argv, cwd=folder).stderr.count(warning) == 1
    # It is in quarantine now, and what has its name is nobody's declaration.
    assert warning not in batchdiff("show", "m.plan.json", cwd=folder).stderr


def test_apply_warns_before_it_asks_to_delete(folder):
    notation.write_qcow2(folder / "nested.qcow2", "1M:A")
    with (folder / "disks" / "lun7.img").open("r+b") as file:
        file.write((folder / "nested.qcow2").read_bytes()[:512])
    manifest(folder)
    batchdiff("plan", "m.yaml", "-q", cwd=folder)
    refused = batchdiff("apply", "m.plan.json", "--retire", "delete", cwd=folder, expect=2)
    assert refused.stderr.index("looks like a qcow2 image") < refused.stderr.index("asks for confirmation")


def test_an_overlay_in_its_guests_place_is_no_doubt(folder):
    manifest(folder, ", overlay: {path: same}", "retire: quarantine\n")
    batchdiff("plan", "m.yaml", "-q", cwd=folder)
    batchdiff("apply", "m.plan.json", "-q", cwd=folder)
    assert "is declared raw" not in batchdiff("show", "m.plan.json", cwd=folder).stderr


def test_nothing_to_convert_names_no_next_step(folder):
    notation.write_raw(folder / "disks" / "lun7.img", "2M:Z")
    manifest(folder)
    planned = batchdiff("plan", "m.yaml", cwd=folder)
    shown = batchdiff("show", "m.plan.json", cwd=folder)
    assert planned.stdout.endswith("\nThere is nothing to convert.\n")
    assert shown.stdout == planned.stdout
    for said in (planned.stderr, shown.stderr, shown.stdout):
        assert "apply" not in said

"""`batchdiff validate`, as its users run it.

Guards cli/guest_file_warnings.py.
"""

import pytest
from commands import MANIFEST, batchdiff, events


def test_valid(fleet):
    done = batchdiff("validate", "fleet.yaml", cwd=fleet.folder)
    assert done.stdout == "fleet.yaml is valid: 4 guests\n"
    assert done.stderr == ""


def test_valid_as_json(fleet):
    (event,) = events(batchdiff("validate", "--json", "fleet.yaml", cwd=fleet.folder))
    assert event["event"] == "valid"
    assert event["manifest"] == str(fleet.folder / "fleet.yaml")
    assert len(event["guests"]) == 4


@pytest.mark.parametrize("verb", ["validate", "plan"])
def test_every_problem_at_once(fleet, verb):
    broken = (
        MANIFEST.replace("raw.img", "rew.img")
        .replace("auto", "5000")
        .replace("version: 1", "version: 1\nretrie: keep")
    )
    fleet.write_manifest(broken)
    before = fleet.state()
    done = batchdiff(verb, "fleet.yaml", cwd=fleet.folder, expect=3)
    assert done.stdout == ""
    assert "retire" in done.stderr
    assert "raw.img" in done.stderr
    assert "cluster_size" in done.stderr
    assert "fleet.yaml:2:" in done.stderr
    assert fleet.state() == before


@pytest.mark.parametrize("text", ["", "[", "version: 9\n", "- 1\n", "\0", "version: 1\n"])
def test_no_manifest_at_all(fleet, text):
    fleet.write_manifest(text)
    done = batchdiff("validate", "fleet.yaml", "--json", cwd=fleet.folder, expect=3)
    (event,) = events(done)
    assert (event["event"], event["exit_code"]) == ("error", 3)
    assert "fleet.yaml" in done.stderr


@pytest.mark.parametrize("name", ["none.yaml", ".", "none/fleet.yaml", "fleet.yaml/x"])
def test_a_manifest_that_cannot_be_read(fleet, name):
    done = batchdiff("validate", name, cwd=fleet.folder, expect=3)
    assert name.split("/")[0] in done.stderr
    assert done.stdout == ""


def test_a_file_that_is_no_text(fleet):
    batchdiff("validate", "thick.qcow2", cwd=fleet.folder, expect=3)


@pytest.mark.parametrize(
    "name", ["a\nbatchdiff: all is well.yaml", "a\x1b[2J.yaml", "a\u202e.yaml", "a\udc80.yaml"]
)
def test_a_name_cannot_forge_what_is_said(fleet, name):
    for there in (True, False):
        if there:
            (fleet.folder / "fleet.yaml").rename(fleet.folder / name)
        done = batchdiff("validate", name, cwd=fleet.folder, expect=0 if there else 3)
        said = done.stdout + done.stderr
        assert name not in said
        assert "\nbatchdiff: all is well" not in done.stdout
        assert "\x1b" not in said
        (fleet.folder / name).unlink(missing_ok=True)


@pytest.mark.parametrize("verb", ["validate", "plan"])
def test_a_raw_template_that_is_declared_qcow2(fleet, verb):
    fleet.write_manifest(MANIFEST.replace("template.img, format: raw", "template.img, format: qcow2"))
    done = batchdiff(verb, "fleet.yaml", cwd=fleet.folder, expect=0 if verb == "validate" else 4)
    hint = f"the template, {fleet.folder}/template.img, is declared qcow2, but does not start with a qcow2 header"
    assert f"{hint}; did you mean `format: raw`?" in done.stderr


def test_read_only_guests(fleet):
    """As `cp` makes them of a template that is protected; their overlays get that mode."""
    (fleet.folder / "raw.img").chmod(0o444)
    path = f"{fleet.folder}/raw.img"
    warning = f"batchdiff: warning: {path} is read-only (mode 0444). An overlay gets its guest's mode:"
    advice = f" if the VM must write to its overlay, first run `chmod u+w {path}`\n"
    assert batchdiff("validate", "fleet.yaml", cwd=fleet.folder).stderr == warning + advice
    (fleet.folder / "same.img").chmod(0o400)
    (fleet.folder / "large.img").chmod(0o420)
    many = warning.replace(" (mode 0444).", " (mode 0444), and so is 1 more guest.")
    first = " if a VM must write to its overlay, first make the guest's file writable, as with"
    assert batchdiff("validate", "fleet.yaml", cwd=fleet.folder).stderr == f"{many}{first} `chmod u+w {path}`\n"
    batchdiff("plan", "fleet.yaml", "--guest", "raw", cwd=fleet.folder)
    (fleet.folder / "raw.img").chmod(0o644)  # the advice, after planning: the plan holds
    fleet.apply()
    assert (fleet.folder / "raw.qcow2").stat().st_mode & 0o777 == 0o644


def test_a_guest_that_is_declared_raw_and_is_qcow2(fleet):
    fleet.write_manifest(MANIFEST.replace("thick.qcow2, format: qcow2", "thick.qcow2"))
    done = batchdiff("validate", "fleet.yaml", cwd=fleet.folder)
    assert "the guest thick, " in done.stderr
    assert "looks like a qcow2 image" in done.stderr


def test_a_guest_that_is_declared_raw_and_ends_like_a_vhd(fleet):
    with (fleet.folder / "raw.img").open("r+b") as file:
        file.seek(-512, 2)
        file.write(b"conectix".ljust(512, b"\0"))
    done = batchdiff("validate", "fleet.yaml", cwd=fleet.folder)
    assert "is declared raw, but looks like a vpc image" in done.stderr


def test_a_guest_that_is_declared_raw_and_looks_encrypted(fleet):
    (fleet.folder / "raw.img").write_bytes(b"LUKS\xba\xbe".ljust(1 << 20, b"\1"))
    done = batchdiff("validate", "fleet.yaml", cwd=fleet.folder)
    assert "is declared raw, but looks like a luks image" in done.stderr
    assert "write `format: luks` and `secret_file: PATH`" in done.stderr

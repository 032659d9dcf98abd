"""`batchdiff doctor`, as its users see it."""

from commands import batchdiff, events


def test_text(tmp_path):
    done = batchdiff("doctor", ".", cwd=tmp_path)
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0] == "machine"
    assert str(tmp_path) in lines
    assert lines[-1].startswith("batchdiff can do its work here")


def test_events_and_several_folders(tmp_path):
    (tmp_path / "images").mkdir()
    done = batchdiff("doctor", "images", "missing", "images", "--json", cwd=tmp_path, expect=1)
    found = events(done)
    assert {event["event"] for event in found} == {"fact"}
    assert found[0].keys() == {"event", "subject", "name", "value", "ability", "effect"}
    subjects = dict.fromkeys(event["subject"] for event in found)
    assert list(subjects) == ["machine", "QEMU", f"{tmp_path}/images", f"{tmp_path}/missing"]
    assert [event["name"] for event in found if event["ability"] == "missing"] == ["folder"]


def test_without_qemu(tmp_path):
    done = batchdiff("doctor", cwd=tmp_path, path=str(tmp_path), expect=7)
    assert "\n! qemu-img" in done.stdout
    assert done.stdout.splitlines()[-1] == (
        "batchdiff cannot do all of its work here: see the lines that start with !"
    )

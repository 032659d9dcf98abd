"""Apply, restore and purge on images that real programs have open, before and in the middle."""

import fake_judge
import notation
import pytest
import real_holders
from commands import GUESTS, OVERLAYS, assert_no_traceback, batchdiff, events
from real_holders import process, vm_command

RAW, NAME = "raw.img", "raw"


def outcomes(done):
    return {event["name"]: event for event in events(done) if event["event"] == "guest"}


@pytest.mark.parametrize("holding_it", real_holders.WRITERS.values(), ids=real_holders.WRITERS)
def test_a_guest_in_use(planned, holding_it):
    """It is refused with who has it, nothing of it is touched, and the others are converted."""
    before = (planned.folder / RAW).read_bytes()
    with holding_it(planned.folder / RAW) as who:
        done = planned.apply("--retire", "delete", "--yes", "--json", expect=1)
    found = outcomes(done)
    assert found[NAME]["status"] == "failed"
    assert "in use" in found[NAME]["reason"]
    assert who in found[NAME]["reason"]
    assert (planned.folder / RAW).read_bytes() == before
    assert OVERLAYS[RAW] not in planned.names()
    assert [event["status"] for name, event in found.items() if name != NAME] == ["converted"] * 3


@pytest.mark.parametrize("holding_it", real_holders.WRITERS.values(), ids=real_holders.WRITERS)
def test_a_template_in_use(planned, holding_it):
    before = planned.names()
    with holding_it(planned.folder / "template.img"):
        done = planned.apply("--retire", "delete", "--yes", expect=4)
        assert "in use" in done.stderr
    assert before <= planned.names()
    planned.assert_not_converted(*GUESTS)


@pytest.mark.parametrize("retire", ["quarantine", "delete"])
def test_a_reader_keeps_its_file(planned, retire):
    """A program that only reads is in nobody's way until its file shall be retired."""
    with real_holders.reader(planned.folder / RAW) as who:
        done = planned.apply("--retire", retire, "--yes", "--json", expect=1)
        assert who in outcomes(done)[NAME]["reason"]
        assert RAW in planned.names()
    planned.apply("--retire", retire, "--yes")
    assert RAW not in planned.names()
    planned.assert_converted()


@pytest.mark.parametrize("retire", ["quarantine", "delete"])
def test_a_vm_that_starts_in_the_middle_gets_its_disk(planned, tmp_path, retire):
    """While QEMU compares: the guest is given up, its VM runs on the untouched original."""
    before = (planned.folder / RAW).read_bytes()
    path = fake_judge.install(tmp_path, fake_judge.COMPARES)
    options = ("--guest", NAME, "--retire", retire, "--yes", "--json")
    with (
        fake_judge.applying(planned.folder, path, *options) as (applying, _),
        process(vm_command(planned.folder / RAW)) as vm,
    ):
        said, complained = applying.communicate(timeout=60)
        assert vm.poll() is None, vm.communicate()
    assert_no_traceback(complained)
    assert applying.returncode == 1
    assert "in use" in said
    assert (planned.folder / RAW).read_bytes() == before
    assert not [name for name in planned.names() if name.endswith(("-tmp", "-deleting", "-original"))]
    assert OVERLAYS[RAW] not in planned.names()


@pytest.mark.parametrize(("verb", "path"), [("purge", f"{RAW}.batchdiff-original"), ("restore", OVERLAYS[RAW])])
def test_what_shall_go_is_in_use(planned, verb, path):
    planned.apply("--retire", "quarantine")
    content = (planned.folder / path).read_bytes()
    with real_holders.vm(planned.folder / path):
        arguments = ["--yes"] if verb == "purge" else []
        done = batchdiff(
            verb, "fleet.plan.json", "--guest", NAME, "--json", *arguments, cwd=planned.folder, expect=None
        )
        assert done.returncode in {1, 7}
        assert outcomes(done)[NAME]["status"] == "failed"
    assert (planned.folder / path).read_bytes() == content
    assert notation.run("qemu-img", "check", "-q", str(planned.folder / OVERLAYS[RAW])) == ""

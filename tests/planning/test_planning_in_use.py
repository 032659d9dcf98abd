"""Planning while real programs have guests or the template open."""

from contextlib import ExitStack

import notation
import pytest
import real_holders
from commands import rarely
from filesystems import tmpfs
from test_planner import manifest, planned

from batchdiff.choices import Verdict
from batchdiff.errors import ImageError
from batchdiff.planning.planner import make_plan

TEMPLATE = "1M:A 1M:-"
READERS = {name: holding for name, holding in real_holders.READERS.items() if name != "vm-on-overlay"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with tmpfs(tmp_path_factory.mktemp("planning")) as point:
        yield point


@pytest.fixture
def template(folder):
    path = notation.write_raw(folder / "template.img", TEMPLATE)
    yield path
    path.unlink()


@pytest.fixture(params=["guest.img", *rarely("guest.qcow2")])
def guest(folder, request):
    write = notation.write_qcow2 if request.param.endswith("qcow2") else notation.write_raw
    path = write(folder / request.param, "1M:A 64k:B 960k:-")
    yield path
    path.unlink()


@pytest.fixture
def idle(folder):
    path = notation.write_raw(folder / "idle.img", "1M:A 64k:C 960k:-")
    yield path
    path.unlink()


def verdicts(plan):
    return {guest.name: guest.verdict for guest in plan.guests}


@pytest.mark.parametrize("holding", (real_holders.WRITERS | READERS).values(), ids=real_holders.WRITERS | READERS)
def test_a_guest_in_use_is_refused_and_the_others_are_planned(template, guest, idle, holding):
    with holding(guest) as name:
        plan = planned(template, guest, idle)
    assert verdicts(plan) == {guest.name: Verdict.REFUSE, "idle.img": Verdict.CONVERT}
    reason = plan.guests[0].reason
    assert "is in use" in reason
    assert name in reason
    assert "shut down the VM" in reason
    assert verdicts(planned(template, guest)) == {guest.name: Verdict.CONVERT}


def test_an_overlay_of_a_guest_in_use(template, guest):
    with real_holders.vm_on_overlay(guest):
        assert verdicts(planned(template, guest)) == {guest.name: Verdict.REFUSE}


@pytest.mark.parametrize("holding", real_holders.WRITERS.values(), ids=real_holders.WRITERS)
def test_a_template_that_is_written_to(template, idle, holding):
    with holding(template) as name, pytest.raises(ImageError, match="is in use") as caught:
        planned(template, idle)
    assert caught.value.exit_code == 4
    assert str(template) in caught.value.what
    assert name in caught.value.why
    assert "overlays" in caught.value.remedy


def test_a_template_on_whose_overlays_vms_run(template, guest):
    with real_holders.vm_on_overlay(template):
        assert verdicts(planned(template, guest)) == {guest.name: Verdict.CONVERT}


def during_the_scan(stack, holding, path):
    """Has the image open from the scan's end on."""

    def progress(done, total):
        if done == total:
            stack.enter_context(holding(path))

    return progress


def test_a_guest_that_a_vm_opens_while_it_is_scanned(template, guest, idle):
    with ExitStack() as stack:
        progress = during_the_scan(stack, real_holders.vm_without_locks, guest)
        plan = make_plan(manifest(template, guest, idle), jobs=1, progress=progress)
    assert verdicts(plan) == {guest.name: Verdict.REFUSE, "idle.img": Verdict.CONVERT}
    assert "VM web01" in plan.guests[0].reason


def test_a_template_that_a_vm_opens_while_it_is_scanned(template, idle):
    with ExitStack() as stack:
        progress = during_the_scan(stack, real_holders.vm, template)
        with pytest.raises(ImageError, match="VM web01"):
            make_plan(manifest(template, idle), jobs=1, progress=progress)


def test_planning_locks_out_no_other_process(template, guest):
    with ExitStack() as stack:
        vms = []

        def progress(done, total):
            if done < total:
                vms.append(stack.enter_context(real_holders.vm(guest)))

        make_plan(manifest(template, guest), jobs=1, progress=progress)
    assert vms

"""Warnings about a plan, in every form of its report. Guards report/plan/dangers.py."""

import pytest
from plans import guest_plan, planned_image, small_plan

from batchdiff.plan.overlay_options import BackingPath, OverlayOptions
from batchdiff.report.facts import PlanFacts
from batchdiff.report.plan.dangers import dangers
from batchdiff.report.plan.html_form import plan_html
from batchdiff.report.plan.json_form import plan_report
from batchdiff.report.plan.markdown_form import plan_markdown
from batchdiff.report.plan.text import plan_text

BASE, RAW = "/s/images/9000/base-9000-disk-0.qcow2", "/s/images/101/vm-101-disk-0.raw"
RELATIVE = OverlayOptions(backing_path=BackingPath.RELATIVE)


def plan(*guests, template=BASE):
    return small_plan(*guests, template=planned_image(template, "qcow2"))


def guest(name="a", path=RAW, overlay="/s/images/101/vm-101-disk-0.qcow2", **changes):
    return guest_plan(name, path=path, overlay_path=overlay, **changes)


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (plan(guest()), "the backing file name is not"),
        (plan(guest(overlay="/s/thin/a.qcow2", options=RELATIVE)), "the overlay is not in the folder of a VM"),
        (
            plan(guest(options=RELATIVE), template="/s/images/9000/vm-9000-disk-0.qcow2"),
            "the template's path does",
        ),
        (
            plan(guest(overlay=RAW, options=RELATIVE)),
            "the name of the overlay does not end in .qcow2. `overlay: {la",
        ),
        (plan(guest(options=RELATIVE)), None),
        # Any name that begins with base- is that of a base.
        (plan(guest(options=RELATIVE), template="/s/images/9000/base-web.qcow2"), None),
        (plan(guest(path="/i/a.img", overlay="/i/a.qcow2"), template="/i/t.qcow2"), None),
    ],
)
def test_what_proxmox_would_not_see(found, why):
    warnings = list(dangers(found))
    assert len(warnings) == (why is not None)
    assert why is None or f"a depends on the template, and would let the template be removed: {why}" in warnings[0]
    # The layout alone would only be refused.
    assert why is None or ("A base image as the template, with" in warnings[0]) == ("the template's path" in why)


@pytest.mark.parametrize(
    ("overlay", "options", "why"),
    [
        (
            "/s/thin/{}.qcow2",
            RELATIVE,
            "the overlays are not in folders of VMs in the template's storage, or have names that Proxmox VE"
            " ignores",
        ),
        ("/s/images/101/{}.raw", RELATIVE, "the names of the overlays do not end in .qcow2"),
        ("/s/images/101/{}.qcow2", OverlayOptions(), "the backing file names are not ../VMID/base-NAME.FORMAT"),
    ],
)
def test_what_proxmox_would_not_see_of_several(overlay, options, why):
    guests = [guest(name, overlay=overlay.format(name), options=options) for name in "ab"]
    (warning,) = dangers(plan(*guests))
    assert f"that a and b depend on the template, and would let the template be removed: {why}." in warning


def test_one_warning_for_all_guests_in_every_form():
    others = [guest(f"b{at}", overlay=f"/s/images/101/vm-101-disk-{at}.qcow2") for at in range(2)]
    facts = PlanFacts(plan(*others, guest(options=RELATIVE)))
    (warning,) = plan_report(facts)["warnings"]
    assert "b0 and b1 depend on the template" in warning
    for form in (plan_text, plan_html, plan_markdown):
        text = " ".join(form(facts).split())
        assert "Proxmox VE would not see that b0 and b1 depend on the template" in text, form
        assert "warning" in text

"""report/events.py: the fields of events, which scripts read, in their order and as plain values."""

import json

from plans import guest_plan

from batchdiff.applying.journal.records import Fate
from batchdiff.applying.results.finding import Finding, Health
from batchdiff.applying.results.outcome import GuestOutcome, Original, Status
from batchdiff.applying.results.status_row import StatusRow
from batchdiff.report.events import finding_event, guest_event, status_event

KEPT = Original(Fate.KEPT)


def test_a_guest():
    outcome = GuestOutcome("web01", Status.CONVERTED, "", 10, 12, 8, 9, original=KEPT, remarks=("a",))
    assert json.dumps(guest_event(guest_plan("web01", path="/a.img", overlay_path="/a.qcow2"), outcome)) == (
        '{"name": "web01", "status": "converted", "reason": "", "predicted_overlay_bytes": 10,'
        ' "actual_overlay_bytes": 12, "predicted_overlay_disk_bytes": 8, "actual_overlay_disk_bytes": 9,'
        ' "original": "kept", "exit_code": 0, "gained_bytes": null, "notes": ["a"], "source": "/a.img",'
        ' "overlay": "/a.qcow2"}'
    )


def test_a_finding():
    assert json.dumps(finding_event(Finding("template", "/t.img", Health.IN_USE, "a VM"))) == (
        '{"name": "template", "path": "/t.img", "health": "in-use", "why": "a VM"}'
    )


def test_a_state():
    assert json.dumps(status_event(StatusRow("web01", "written", "2026-01-02T03:04:05Z", "", "apply"))) == (
        '{"name": "web01", "step": "written", "since": "2026-01-02T03:04:05Z", "failure": "", "next": "apply"}'
    )

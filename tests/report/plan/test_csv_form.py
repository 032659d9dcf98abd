"""Plans as CSV. Guards report/plan/csv_form.py."""

import csv
import io

from plans import guest_plan, refused_guest, small_plan

from batchdiff.report.facts import PlanFacts
from batchdiff.report.plan.csv_form import plan_csv
from batchdiff.units import GIB, MIB


def rows_of(*guests, **facts):
    return list(csv.DictReader(io.StringIO(plan_csv(PlanFacts(small_plan(*guests), **facts)), newline="")))


def test_the_header_stays():
    assert plan_csv(PlanFacts(small_plan())).split("\r\n")[0] == (
        "guest,verdict,reason,path,format,virtual_size,overlay_path,cluster_size,allocated_bytes,reclaimable_bytes,"
        "overlay_bytes,overlay_error_bytes,overlay_disk_bytes,saved_bytes,exactness,equal_bytes,nonzero_bytes,"
        "original,actual_overlay_bytes,actual_overlay_disk_bytes,came_back_bytes,strategy,sharing_saved_bytes,"
        "sharing_exactness,shareable_bytes,left_out_bytes,now,came_back_exactness"
    )


def test_a_line_for_each_guest_and_bytes_as_whole_numbers():
    web, old = rows_of(guest_plan("web01"), refused_guest("old", "it is in use, says the kernel"))
    assert (web["guest"], web["verdict"], web["exactness"]) == ("web01", "convert", "exact")
    assert (int(web["allocated_bytes"]), int(web["overlay_bytes"])) == (2 * GIB, 256 * MIB)
    assert int(web["saved_bytes"]) == 2 * GIB - 256 * MIB
    assert old["reason"] == "it is in use, says the kernel"
    assert {old[name] for name in ("allocated_bytes", "saved_bytes", "exactness", "virtual_size")} == {""}


def test_names_with_commas_quotes_and_line_breaks():
    assert [row["guest"] for row in rows_of(guest_plan('a,"b"\nc'), guest_plan("plain"))] == ['a,"b"\\nc', "plain"]


def test_only_the_selected_guests_in_their_order():
    one, two = guest_plan("one"), guest_plan("two")
    assert [row["guest"] for row in rows_of(one, two, selection=[two])] == ["two"]

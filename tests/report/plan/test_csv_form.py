"""Plans as CSV. Guards report/plan/csv_form.py."""

import csv
import io

from plans import guest_plan, refused_guest, savings, shared_guest, small_plan

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
        "sharing_exactness,shareable_bytes,left_out_bytes,now,came_back_exactness,"
        "older_verdict,older_overlay_bytes,older_overlay_error_bytes,older_saved_bytes,older_exactness,"
        "older_sharing_saved_bytes,older_sharing_exactness"
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


NOTHING = ("",) * 7


def older_of(row):
    return tuple(value for name, value in row.items() if name.startswith("older_"))


def test_an_older_plan_beside_the_newer_one():
    older = small_plan(
        guest_plan("gone,1", savings=savings(GIB, 100 * MIB)),
        guest_plan("web", savings=savings(GIB, 90 * MIB)),
        refused_guest("log"),
        shared_guest("db"),
    )
    now = [guest_plan("web"), guest_plan("log"), guest_plan("db"), guest_plan("new")]
    *found, gone = rows_of(*now, older=older)
    assert [(row["guest"], row["verdict"]) for row in found] == [
        (name, "convert") for name in ("web", "log", "db", "new")
    ]
    web, log, db, new = map(older_of, found)
    assert web == ("convert", str(90 * MIB), "0", str(GIB - 90 * MIB), "exact", "", "")
    assert log == ("refuse", *NOTHING[1:])
    assert (db[0], *db[-2:]) == ("share", str(GIB), "exact")
    assert new == NOTHING
    assert older_of(gone) == ("convert", str(100 * MIB), "0", str(GIB - 100 * MIB), "exact", "", "")
    rest = {name: value for name, value in gone.items() if value and not name.startswith("older_")}
    assert rest == {"guest": "gone,1", "path": "/srv/clones/gone,1.img", "format": "raw"}


def test_guests_that_are_gone_were_not_selected():
    new = guest_plan("new")
    (row,) = rows_of(new, guest_plan("web"), older=small_plan(guest_plan("gone")), selection=[new])
    assert (row["guest"], older_of(row)) == ("new", NOTHING)


def test_without_an_older_plan_its_columns_are_empty():
    (row,) = rows_of(guest_plan())
    assert older_of(row) == NOTHING


def test_only_the_selected_guests_in_their_order():
    one, two = guest_plan("one"), guest_plan("two")
    assert [row["guest"] for row in rows_of(one, two, selection=[two])] == ["two"]

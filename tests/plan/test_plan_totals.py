"""Sums over a plan's guests, and the space that apply needs at its worst moment."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plans import guest_plan, refused_guest, savings

from batchdiff.choices import Retire, Verdict
from batchdiff.image.storage.exactness import Exactness
from batchdiff.image.storage.overlayfs import NOTHING, CopyUp
from batchdiff.plan.totals import PLANNED_AT_ONCE, peak_extra_bytes, totals_of


def test_only_guests_to_convert_count():
    guests = [
        guest_plan("a", savings=savings(1000, 100)),
        guest_plan("b", savings=savings(3000, 200)),
        guest_plan("c", verdict=Verdict.SKIP, savings=savings(5000, 4999)),
        refused_guest("d"),
    ]
    found = totals_of(guests, Retire.KEEP)
    assert (found.guests, found.convert, found.skip, found.refuse) == (4, 2, 1, 1)
    assert (found.allocated_bytes, found.overlay_bytes, found.saved_bytes) == (4000, 300, 3700)
    assert found.peak_extra_bytes == 300


def test_no_guests_are_nothing():
    found = totals_of([], Retire.DELETE)
    assert (found.guests, found.allocated_bytes, found.saved_bytes, found.peak_extra_bytes) == (0, 0, 0, 0)


@pytest.mark.parametrize("retire", [Retire.KEEP, Retire.QUARANTINE])
def test_while_originals_stay_all_overlays_are_extra(retire):
    assert peak_extra_bytes([savings(1000, 100), savings(9000, 800), savings(1000, 10)], retire, at_once=1) == 910


@pytest.mark.parametrize("at_once", [1, 2, 3, 4])
def test_deleting_gives_space_back_once_no_more_guests_can_be_under_way(at_once):
    chosen = [savings(1000, 100)] * 9
    assert peak_extra_bytes(chosen, Retire.DELETE, at_once=at_once) == (at_once + 1) * 100
    assert peak_extra_bytes(chosen[:2], Retire.DELETE, at_once=at_once) == 200


def test_what_comes_back_may_be_less_than_the_next_takes():
    chosen = [savings(100, 90), savings(100, 90), savings(9000, 800)]
    assert peak_extra_bytes(chosen, Retire.DELETE, at_once=1) == 880
    assert peak_extra_bytes(chosen, Retire.DELETE, at_once=2) == 980


def test_a_plan_reckons_with_the_same_number_on_every_machine():
    guests = [guest_plan(name, savings=savings(1000, 100)) for name in "abcde"]
    assert totals_of(guests, Retire.DELETE).peak_extra_bytes == (PLANNED_AT_ONCE + 1) * 100 == 300


def test_what_deleting_does_not_free_stays_extra():
    shared = savings(1000, 100, reclaimable_bytes=0)
    assert peak_extra_bytes([shared, shared, shared], Retire.DELETE, at_once=1) == 300


def test_the_error_of_an_estimate_is_kept_free_too():
    assert (
        peak_extra_bytes([savings(1000, 100, error=7), savings(1000, 100, error=8)], Retire.KEEP, at_once=2) == 215
    )


def test_space_on_disk_counts_and_not_the_length_of_the_file():
    assert peak_extra_bytes([savings(1000, 100, overlay_disk_bytes=60)], Retire.KEEP, at_once=2) == 60


@given(
    st.lists(st.tuples(st.integers(0, 100), st.integers(0, 100), st.integers(0, 9))),
    st.sampled_from(Retire),
    st.integers(1, 5),
)
def test_the_peak_is_that_of_a_disk_that_is_watched(guests, retire, at_once):
    used = [0]
    for number, (_, overlay, error) in enumerate(guests):
        if retire is Retire.DELETE and number > at_once:
            used.append(used[-1] - guests[number - at_once - 1][0])
        used.append(used[-1] + overlay + error)
    chosen = [savings(reclaimable, overlay, error) for reclaimable, overlay, error in guests]
    assert peak_extra_bytes(iter(chosen), retire, at_once=at_once) == max(used)


def test_a_total_is_as_exact_as_its_guests():
    def total(*kinds: Exactness, protecting: CopyUp = NOTHING) -> Exactness:
        guests = [guest_plan(kind, savings=savings(exactness=kind)) for kind in kinds]
        skipped = guest_plan("z", verdict=Verdict.SKIP, savings=savings(exactness=Exactness.UNKNOWN))
        return totals_of([*guests, skipped], Retire.KEEP, protecting=protecting).exactness

    exact, least, most, unknown = Exactness.EXACT, Exactness.AT_LEAST, Exactness.AT_MOST, Exactness.UNKNOWN
    assert total() is total(exact) is exact
    assert total(exact, least, exact) is least
    assert total(most, exact) is most
    assert total(most, least) is unknown
    assert total(exact, unknown) is unknown
    assert total(exact, protecting=CopyUp(0, least, "it may be copied")) is most


def test_the_copy_of_a_protected_template_is_taken_off():
    guests = [guest_plan("a", savings=savings(1000, 100))]
    found = totals_of(guests, Retire.DELETE, protecting=CopyUp(50))
    assert (found.saved_bytes, found.peak_extra_bytes, found.template_copy_bytes) == (850, 150, 50)
    found = totals_of([], Retire.DELETE, protecting=CopyUp(50, Exactness.AT_LEAST, "why"))
    assert (found.saved_bytes, found.peak_extra_bytes, found.template_copy_bytes) == (0, 0, 0)
    assert (found.exactness, found.note) == (Exactness.EXACT, "")

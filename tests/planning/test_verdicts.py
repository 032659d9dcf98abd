"""Which guests are worth converting, by what they would save and what they rest on now."""

import dataclasses
import math

import pytest
from plans import savings

from batchdiff.choices import Verdict
from batchdiff.extents import empty
from batchdiff.image.storage.allocation import DiskUse
from batchdiff.image.storage.exactness import Exactness
from batchdiff.plan.plan import Sharing, Similarity
from batchdiff.planning.overlay_content import OverlayContent
from batchdiff.planning.sizes.overlay_sizes import ComparedSizes
from batchdiff.planning.verdicts import Below, LeastSavings, sharing_verdict, verdict_of
from batchdiff.qcow2.geometry import Geometry
from batchdiff.units import KIB, MIB

NO_MINIMUM = -math.inf
GEOMETRY = Geometry(65536)
CONTENT = OverlayContent(GEOMETRY, empty(), ComparedSizes({GEOMETRY: MIB}, {}), Similarity(1, 2))
USE = DiskUse(10 * MIB, 10 * MIB)


def judged(saved, minimum, below, *, noise=0, content=CONTENT):
    figures = dataclasses.replace(
        savings(), allocated_bytes=USE.allocated, reclaimable_bytes=USE.reclaimable, saved_bytes=saved
    )
    return verdict_of(figures, USE, content, LeastSavings(minimum, noise + 1), below)


@pytest.mark.parametrize("below", Below)
@pytest.mark.parametrize(
    ("saved", "minimum", "verdict"),
    [
        (1, 0.0, Verdict.CONVERT),
        (0, 0.0, Verdict.SKIP),
        (-1, 0.0, Verdict.SKIP),
        (MIB, 0.1, Verdict.CONVERT),
        (MIB - 1, 0.1, Verdict.SKIP),
    ],
)
def test_a_minimum(saved, minimum, verdict, below):
    assert judged(saved, minimum, below)[0] is verdict


@pytest.mark.parametrize("below", Below)
@pytest.mark.parametrize("minimum", [0.0, 0.1, NO_MINIMUM])
@pytest.mark.parametrize("noise", [0, 4096, 2 * MIB])
def test_the_threshold_is_where_the_verdict_changes(minimum, noise, below):
    threshold = LeastSavings(minimum, noise + 1).threshold(USE.allocated, below)
    for saved in (-MIB, 0, 1, 4096, 4097, MIB - 1, MIB, 2 * MIB, 2 * MIB + 1):
        found, _ = judged(saved, minimum, below, noise=noise)
        assert (found is Verdict.CONVERT) is (saved >= threshold)


@pytest.mark.parametrize("saved", [MIB, 0, -20 * MIB])
def test_no_minimum(saved):
    """A guest that is to leave another template does so at any price; a thinner overlay must be thinner."""
    assert judged(saved, NO_MINIMUM, Below.ANOTHER) == (Verdict.CONVERT, "")
    assert judged(saved, NO_MINIMUM, Below.NOTHING) == (Verdict.CONVERT, "")
    assert (judged(saved, NO_MINIMUM, Below.TEMPLATE)[0] is Verdict.CONVERT) is (saved > 0)


def test_what_may_be_saved_by_chance_does_not_count():
    assert judged(4096, 0.0, Below.TEMPLATE, noise=4096) == (
        Verdict.SKIP,
        "it is already an overlay of this template; a new one would hardly be smaller",
    )
    assert judged(4097, 0.0, Below.TEMPLATE, noise=4096)[0] is Verdict.CONVERT


@pytest.mark.parametrize(
    ("below", "reason"),
    [
        (Below.NOTHING, "its overlay would not be smaller than the guest is now"),
        (
            Below.ANOTHER,
            "its overlay would not be smaller than the guest is now; `minimum_savings: none` converts it anyway",
        ),
        (Below.TEMPLATE, "it is already an overlay of this template; a new one would not be smaller"),
    ],
)
def test_the_reason(below, reason):
    assert judged(0, 0.0, below) == (Verdict.SKIP, reason)


@pytest.mark.parametrize(
    ("below", "begin"),
    [
        (Below.NOTHING, "its overlay"),
        (Below.TEMPLATE, "it is already an overlay of this template; a new one"),
    ],
)
@pytest.mark.parametrize(
    ("exactness", "would"),
    [
        (Exactness.EXACT, "would"),
        (Exactness.AT_MOST, "would"),
        (Exactness.AT_LEAST, "might"),
        (Exactness.UNKNOWN, "might"),
    ],
)
def test_an_overlay_smaller_than_a_guest_that_shares_its_blocks(below, begin, exactness, would):
    """What counts is the space that the original gives back, not what it takes."""
    use = DiskUse(10 * MIB, 256 * KIB, exactness, "other files share its blocks")
    figures = dataclasses.replace(
        savings(10 * MIB, 384 * KIB),
        reclaimable_bytes=use.reclaimable,
        saved_bytes=-128 * KIB,
        exactness=exactness,
    )
    assert verdict_of(figures, use, CONTENT, LeastSavings(0.0), below) == (
        Verdict.SKIP,
        f"{begin} would take 384 KiB, and deleting the original {would} free only 256 KiB: other files share the"
        " rest",
    )


NOTHING = "deleting it would free nothing"
PERHAPS = "whether deleting it would free anything is unknown"


@pytest.mark.parametrize(
    ("exactness", "frees_nothing", "begin"),
    [
        (Exactness.EXACT, True, NOTHING),
        (Exactness.AT_MOST, False, NOTHING),
        (Exactness.AT_LEAST, True, NOTHING),
        (Exactness.AT_LEAST, False, PERHAPS),
        (Exactness.UNKNOWN, True, PERHAPS),
        (Exactness.UNKNOWN, False, PERHAPS),
    ],
)
def test_that_nothing_is_freed_is_said_only_if_that_is_known(exactness, frees_nothing, begin):
    note = "it shares all its blocks with other files"
    use = DiskUse(10 * MIB, 0, exactness, note, frees_nothing)
    figures = dataclasses.replace(savings(10 * MIB, MIB), reclaimable_bytes=0, saved_bytes=-MIB)
    found = verdict_of(figures, use, CONTENT, LeastSavings(0.0), Below.NOTHING)
    assert found == (Verdict.SKIP, f"{begin}: {note}")


@pytest.mark.parametrize(
    ("exactness", "begin"),
    [
        (Exactness.EXACT, "sharing would free nothing"),
        (Exactness.UNKNOWN, "whether sharing would free anything is unknown"),
    ],
)
def test_that_sharing_frees_nothing_is_said_only_if_that_is_known(exactness, begin):
    sharing = Sharing(
        allocated_bytes=10 * MIB, shareable_bytes=MIB, saved_bytes=0, exactness=exactness, note="never checked"
    )
    verdict, reason = sharing_verdict(sharing, Similarity(1, 2), 0.0)
    assert verdict is Verdict.SKIP
    assert reason.startswith(f"{begin}: never checked; ")


def test_an_overlay_of_this_template_is_not_asked_where_it_comes_from():
    """It may hold nothing of it any longer: then all of its disk has been rewritten."""
    unlike = dataclasses.replace(CONTENT, similarity=Similarity(0, MIB))
    assert "was it copied from another one" in judged(0, 0.0, Below.NOTHING, content=unlike)[1]
    assert "already an overlay" in judged(0, 0.0, Below.TEMPLATE, content=unlike)[1]


def test_what_a_guest_shares_already_is_not_among_what_cannot_be_shared():
    sharing = Sharing(allocated_bytes=MIB, shareable_bytes=0, saved_bytes=0, left_out_bytes=64 * KIB)
    assert sharing_verdict(sharing, Similarity(1, 2), 0.0) == (
        Verdict.SKIP,
        "none of the 64 KiB that it has in common with the template, and does not share yet, can be shared: in one"
        " of the two images, that data is compressed or encrypted, at unaligned offsets, or in a file on a"
        " different filesystem",
    )

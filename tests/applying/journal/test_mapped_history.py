"""What a journal says after its pool moved."""

from plans import fingerprint

from batchdiff.applying.journal.records import Fate, GuestState, History, Step, mapped_history
from batchdiff.plan.path_map import Move, PathMap

MOVED = PathMap((Move("/images", "/fast/images"),))


def history(**folders):
    found = History()
    for guest, folder in folders.items():
        aside = f"{folder}/{guest}.img.batchdiff-original"
        retired = GuestState(Step.RETIRED, published=True, fate=Fate.QUARANTINED, aside=aside)
        for name, state in (
            (guest, GuestState(Step.CHECKED, temporary=f"{folder}/.x.tmp")),
            (f"{guest}-retired", retired),
        ):
            found.take_in({"time": "t", "guest": name} | state.record())
    found.take_in({"time": "t", "guest": "other", "step": "failed", "reason": "/images/other.img is in use"})
    found.take_in(
        {"time": "t", "guest": "deleted"} | GuestState(Step.RETIRED, published=True, fate=Fate.DELETED).record()
    )
    found.changed.add(fingerprint())
    return found


def test_a_journal_of_an_older_batchdiff():
    line = {"time": "t", "guest": "web01", "step": "retired", "goal": "apply", "published": True}
    found = History()
    found.take_in(line | {"original": "quarantined as /images/web01.img.batchdiff-original"})
    assert mapped_history(found, MOVED).states["web01"].aside == "/fast/images/web01.img.batchdiff-original"


def test_every_path_as_it_is_now():
    """Recorded before the move or since: the guests `old` and `new` stand side by side."""
    before, expected = history(old="/images", new="/fast/images"), history(old="/fast/images", new="/fast/images")
    found = mapped_history(before, MOVED)
    assert found == expected != before
    assert mapped_history(found, MOVED) == expected
    assert mapped_history(before, PathMap()) == before


def test_what_is_noted_later_is_taken_in_as_it_is():
    found = mapped_history(history(old="/images"), MOVED)
    line = {"time": "t", "guest": "old", "step": "checked", "goal": "restore", "temporary": "/fast/images/.y.tmp"}
    found.take_in(line)
    assert found.states["old"].temporary == "/fast/images/.y.tmp"

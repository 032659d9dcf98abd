"""What a journal says after its pool moved."""

from plans import fingerprint

from batchdiff.applying.journal.records import Fate, Notes, Standing, Step, mapped_notes
from batchdiff.plan.path_map import Move, PathMap

MOVED = PathMap((Move("/images", "/fast/images"),))


def notes(**folders):
    found = Notes()
    for guest, folder in folders.items():
        aside = f"{folder}/{guest}.img.batchdiff-original"
        retired = Standing(Step.RETIRED, published=True, fate=Fate.QUARANTINED, aside=aside)
        for name, standing in (
            (guest, Standing(Step.CHECKED, temporary=f"{folder}/.x.tmp")),
            (f"{guest}-retired", retired),
        ):
            found.take_in({"time": "t", "guest": name} | standing.record())
    found.take_in({"time": "t", "guest": "other", "step": "failed", "reason": "/images/other.img is in use"})
    found.take_in(
        {"time": "t", "guest": "deleted"} | Standing(Step.RETIRED, published=True, fate=Fate.DELETED).record()
    )
    found.changed.add(fingerprint())
    return found


def test_a_journal_of_an_older_batchdiff():
    line = {"time": "t", "guest": "web01", "step": "retired", "goal": "apply", "published": True}
    found = Notes()
    found.take_in(line | {"original": "quarantined as /images/web01.img.batchdiff-original"})
    assert mapped_notes(found, MOVED).standings["web01"].aside == "/fast/images/web01.img.batchdiff-original"


def test_every_path_as_it_is_now():
    """Recorded before the move or since: the guests `old` and `new` stand side by side."""
    before, expected = notes(old="/images", new="/fast/images"), notes(old="/fast/images", new="/fast/images")
    found = mapped_notes(before, MOVED)
    assert found == expected != before
    assert mapped_notes(found, MOVED) == expected
    assert mapped_notes(before, PathMap()) == before


def test_what_is_noted_later_is_taken_in_as_it_is():
    found = mapped_notes(notes(old="/images"), MOVED)
    line = {"time": "t", "guest": "old", "step": "checked", "goal": "restore", "temporary": "/fast/images/.y.tmp"}
    found.take_in(line)
    assert found.standings["old"].temporary == "/fast/images/.y.tmp"

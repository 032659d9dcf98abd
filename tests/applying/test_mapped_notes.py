"""What a journal says after its pool moved."""

from plans import fingerprint

from batchdiff.applying.endings import fate
from batchdiff.applying.notes import Notes, mapped_notes
from batchdiff.applying.places import original_names
from batchdiff.applying.steps import OutgoingAt
from batchdiff.model.moved import Move, PathMap

MOVED = PathMap((Move("/images", "/fast/images"),))


def notes(**original):
    found = Notes()
    for guest, path in original.items():
        names = original_names(f"{path}/{guest}.img")
        found.take_in(
            {"time": "t", "guest": guest, "step": "checked", "goal": "apply", "temporary": f"{path}/.x.tmp"}
        )
        found.take_in(
            {"time": "t", "guest": f"{guest}-done", "step": "retired", "goal": "apply", "published": True}
            | {"original": fate(names, OutgoingAt.ASIDE)}
        )
    found.take_in({"time": "t", "guest": "other", "step": "failed", "reason": "/images/other.img is in use"})
    found.take_in({"time": "t", "guest": "deleted", "step": "retired", "goal": "apply", "original": "deleted"})
    found.changed.add(fingerprint())
    return found


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

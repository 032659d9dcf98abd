"""Reasons and notes that several guests can share: none speaks of one guest when it is given for several.

The texts come from the source of the modules that make them, so a new one is tested, too.
"""

import ast
import re
from pathlib import Path

import pytest

import batchdiff
from batchdiff.choices import Loss
from batchdiff.image.layer import Losses
from batchdiff.plan.plan import Similarity, why_unlike
from batchdiff.planning.original_losses import forbidden_loss
from batchdiff.report.figures import of_several

PACKAGE = Path(batchdiff.__file__).parent

SOURCES = {
    "applying/apply.py": {"_left_alone"},
    "applying/guests/given_back.py": set(),
    "applying/undo.py": {"NOTHING_TO_UNDO", "NOTHING_TO_PURGE", "nothing_to_do"},
    "files/hard_links.py": set(),
    "image/storage/allocation.py": set(),
    "image/storage/allocation_units.py": set(),
    "image/storage/sharing_gain.py": set(),
    "image/storage/sharing_obstacle.py": set(),
    "linux/permissions.py": {"lacking_access"},
    "managers/managed.py": set(),
    "manifest/images.py": {"FoundGuest"},
    "plan/earlier_plans.py": {"EarlierPlans"},
    "plan/plan.py": {"why_unlike"},
    "planning/assessment.py": set(),
    "planning/candidates.py": set(),
    "planning/original_losses.py": set(),
    "planning/overlay_content.py": {"better_clusters"},
    "planning/owners.py": {"Owners"},
    "planning/share_in_place.py": set(),
    "planning/sharing_objections.py": set(),
    "planning/verdicts.py": set(),
}
"""The modules that make reasons and notes, each with the names of the parts that do; all of its parts if empty."""

ONLY_ERRORS = {"estimation/estimator.py", "estimation/jobs.py"}
"""Modules whose only reasons are errors, each about one guest's own file."""

OF_EACH = (
    "all its blocks",
    "as one of its files",
    "could read its data",
    "its overlay would not be",
    "of its overlayfs",
    "smaller than its guest",
    "where deleting it frees",
    "while it was being examined",
    "would be lost without it",
)
"""Parts of reasons that begin with "each" or "the overlay of each", which is what they refer to."""

OF_SOMETHING_ELSE = (
    "whose size is not known until it has been written",
    "and it shares a block",
    "could remove it",
    "depend on it",
    "image below it",
    "it could be stored",
    "has any part of it, and only root (CAP_SYS_ADMIN) can see the extents",
    "judged on its own",
    "because it is compressed or encrypted",
    "none of its own instances",
    "(no journal in X names it)",
    "which plan put it thereX, and purge it with that plan",
    "make that image standalone (`qemu-img convert`) or remove it",
    "space returns to its pool, which df does not show; a thin device returns only the space that it",
    "start its VM as if",
    "while the file is empty",
    "their file X is also X, which would be lost without it",
)
"""Parts that refer to an overlay, a template, an extent and so on, as the words before them say."""

OF_ONE_PATH = (
    "delete it with `batchdiff purge",
    "shortened it, `X` gives it the template's size",
    "in quarantine is taken: X is the original of an earlier conversion; X, or move it away",
    "mount it read-write",
    "files that both have it or both lack it",
    "whose attribute C matches the guest's",
)
"""Parts of reasons that name a file of one guest, so that no other guest has the same reason."""

WORDS_IN_REASONS = {
    "it",
    "its",
    "its filesystem",
    "next to nothing (X of its data)",
    "the guest of that name",
    "the guest X",
    "leave this guest out",
}
"""Texts that are put into reasons, all of which are tested below as a whole."""

ONE_GUEST = re.compile(r"\b(?:it|its|itself|this guest|the guest)\b", re.IGNORECASE)


def texts_in(path: str, names: set[str]) -> set[str]:
    """Returns the texts in parts of a module, with an X for each value in them, but no docstrings."""
    whole = ast.parse((PACKAGE / path).read_text())
    found = {
        getattr(part, "name", "") or ast.unparse(getattr(part, "targets", [part])[0]): part for part in whole.body
    }
    assert names <= found.keys(), f"{path} has no {names - found.keys()}"
    nodes = [node for name, part in found.items() if not names or name in names for node in ast.walk(part)]
    no_reasons = {id(part) for node in nodes if isinstance(node, ast.Expr) for part in ast.walk(node.value)}
    no_reasons |= {
        id(part)
        for node in nodes
        if isinstance(node, ast.JoinedStr)
        for part in ast.walk(node)
        if part is not node
    }
    texts = set()
    for node in nodes:
        if id(node) in no_reasons:
            continue
        if isinstance(node, ast.JoinedStr):
            texts.add("".join(part.value if isinstance(part, ast.Constant) else "X" for part in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            texts.add(node.value)
    return texts


TEXTS = sorted({text for path, names in SOURCES.items() for text in texts_in(path, names)})


@pytest.mark.parametrize("text", [text for text in TEXTS if ONE_GUEST.search(text)])
def test_no_reason_of_several_guests_speaks_of_one(text):
    said = of_several(text)
    left = said
    for part in (*OF_SOMETHING_ELSE, *OF_ONE_PATH, *(OF_EACH if "each" in said else ())):
        left = left.replace(part, "")
    assert text in WORDS_IN_REASONS or not ONE_GUEST.search(left), said


def test_all_modules_that_skip_or_refuse_guests_are_known():
    makers = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if re.search(r"(?<!def )untouched_guest\(|Status\.SKIPPED, ", path.read_text())
    }
    assert makers <= SOURCES.keys() | ONLY_ERRORS


@pytest.mark.parametrize(
    ("one", "several"),
    [
        (why_unlike(Similarity(0, 1)), "they have nothing in common with the template: were they copied from "),
        (
            why_unlike(Similarity(1, 1000)),
            "they have next to nothing (0.10% of the data of each) in common with the template: were they copied",
        ),
        (
            forbidden_loss(Losses(snapshots=2), frozenset()),
            "each has 2 internal snapshots, which an overlay would",
        ),
        (
            forbidden_loss(Losses(bitmaps=1), frozenset()),
            "each has 1 persistent bitmap, which an overlay would lose",
        ),
        (
            forbidden_loss(Losses(encryption=True), frozenset({Loss.BITMAPS})),
            "each is encrypted, and its overlay would not be: anyone who can read the overlay could read its data",
        ),
        (
            forbidden_loss(Losses(encryption=True), frozenset(), only_below=True),
            "each is partly encrypted (in an image below it), and its overlay would not be: anyone",
        ),
        ("it has 1 MiB preallocated (reserved on disk", "each has 1 MiB preallocated (reserved on disk"),
        (
            "its overlay would not be smaller than the guest is now; with clusters of 4 KiB, it would save about 1"
            " GiB (`overlay: {cluster_size: auto}`); `minimum_savings: none` converts it anyway",
            "the overlay of each would not be smaller than its guest is now; with clusters of 4 KiB, each would"
            " save about 1 GiB (`overlay: {cluster_size: auto}`); `minimum_savings: none` converts them anyway",
        ),
        (
            "deleting it would free nothing: it shares all its blocks with other files",
            "deleting any of them would free nothing: each shares all its blocks with other files",
        ),
        (
            "deleting it would free nothing: it has 2 names (hard links)",
            "deleting any of them would free nothing: each has 2 names (hard links)",
        ),
        (
            "whether deleting it would free anything is unknown: btrfs has compressed it, and only root can see",
            "whether deleting any of them would free anything is unknown: btrfs has compressed them, and only",
        ),
        (
            "none of the 1 GiB that it has in common with the template can be shared",
            "none of the 1 GiB that each has in common with the template can be shared",
        ),
        (
            "sharing would free nothing: other parts stay in use; with `minimum_savings: none`, its blocks are",
            "sharing would free nothing: other parts stay in use; with `minimum_savings: none`, their blocks are",
        ),
        ("it already shares all blocks", "each already shares all blocks"),
        (
            "its overlay would take 3 GiB, and deleting the original would free only 2 GiB: other files share",
            "the overlay of each would take 3 GiB, and deleting its original would free only 2 GiB: other files"
            " share",
        ),
        (
            "it is already an overlay of this template; `rethin: true` compares it with the template, and may make"
            " it thinner",
            "each is already an overlay of this template; `rethin: true` compares them with the template, and may"
            " make them thinner",
        ),
        (
            "it is needed by the guest db, which would be lost without it; make that image standalone",
            "each is needed by the guest db, which would be lost without it; make that image standalone",
        ),
        (
            "its file /a.vmdk is also a file of the template, which would be lost without it; leave this guest"
            " out of the manifest",
            "their file /a.vmdk is also a file of the template, which would be lost without it; leave these"
            " guests out of the manifest",
        ),
        ("it is already an overlay on /t.img", "each is already an overlay on /t.img"),
        ("it has no data", "they have no data"),
        ("the folder cannot be listed: why", "the folders cannot be listed: why"),
        (
            "it or a folder above it does not exist",
            "each of them, or a folder above it, does not exist",
        ),
        (
            "too little of its data is in the same places in any other image",
            "too little of the data of each is in the same places in any other image",
        ),
        (
            "40% of its data is in /t.img, but its disk is smaller than that image's disk (1 MiB and 2 MiB)",
            "40% of the data of each is in /t.img, but their disks are smaller than that image's disk (1 MiB and ",
        ),
        (
            "100% of its samples that can be compared are in /t.img, but too few can be compared to be sure; if it"
            " is a copy, add it to a manifest",
            "100% of the samples of each that can be compared are in /t.img, but too few can be compared to be"
            " sure; if they are copies, add them to a manifest",
        ),
        (
            "its path contains a line break; rename the file or the folder",
            "the path of each contains a line break; rename the files or their folders",
        ),
        (
            "it changed while it was being read; shut its VM down",
            "each changed while it was being read; shut their VMs down",
        ),
        (
            "its name has a line break; rename it, or `exclude` it",
            "the name of each has a line break; rename them, or `exclude` them",
        ),
        (
            "its filesystem has no reflinks, so files there cannot share blocks",
            "the filesystem of each has no reflinks, so files there cannot share blocks",
        ),
        (
            "cannot access /o, the folder of its overlay: /o, or a folder above it, does not exist",
            "cannot access /o, the folder of their overlays: /o, or a folder above it, does not exist",
        ),
        (
            "there is nothing to restore; `batchdiff status p` shows the guest's state",
            "there is nothing to restore; `batchdiff status p` shows the state of each",
        ),
        (
            "there is no original to delete: with `strategy: share`, the guest itself is kept",
            "there is no original to delete: with `strategy: share`, the guests themselves are kept",
        ),
    ],
)
def test_in_the_plural(one, several):
    assert several in of_several(one)

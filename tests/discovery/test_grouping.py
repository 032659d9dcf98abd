"""Truth tests on simulated fleets: every image gets its template, and no stranger any.

Guards discovery/grouping.py, discovery/copies.py.
"""

import dataclasses

import numpy as np
import pytest
from sampled_fleets import Fleet

from batchdiff.discovery.copies import Placement
from batchdiff.discovery.exclusion import Cause
from batchdiff.discovery.grouping import Grouping, Tie
from batchdiff.discovery.sampled_image import SampledImage
from batchdiff.image_source import ImageFormat, ImageSource
from batchdiff.report.discovery.discovery_text import why_template


class Found:
    """The templates and the copies of a fleet, by name."""

    def __init__(self, fleet, given=(), **changes):
        names, index, traits = fleet.sampled()
        grouping = Grouping(index, traits)
        choices = {names.index(name): None for name in given} or {
            each.template: each for each in grouping.templates()
        }
        images = [
            SampledImage(
                ImageSource(trait.path, ImageFormat.RAW), trait.virtual_size, trait.allocated, trait.allocated,
                trait.modified_ns, trait.read_only, None,
            )
            for trait in traits
        ]  # fmt: skip
        images = [
            dataclasses.replace(each, **changes.get(name, {})) for name, each in zip(names, images, strict=True)
        ]
        self.groups, left = Placement(images, index, grouping).groups(choices)
        self.templates = [group.template.path[1:] for group in self.groups]
        self.choices = {group.template.path[1:]: group.choice for group in self.groups}
        self.copies = {copy.image.path[1:]: copy for group in self.groups for copy in group.copies}
        self.template_of = {
            copy.image.path[1:]: group.template.path[1:] for group in self.groups for copy in group.copies
        }
        self.left = {each.path[1:]: each for each in left}


def two_templates(seed, derived, counts, changed, *, shuffled=False):
    """Two templates, the second one copied from the first, with copies of both, and strangers."""
    fleet = Fleet(seed)
    fleet.new("1")
    fleet.copy("1", "2", derived, clump=50)
    for template, count in zip("12", counts, strict=True):
        for number in range(count):
            fleet.copy(template, f"{template}-{number}", float(fleet.random.uniform(*changed)))
    for number in range(3):
        fleet.new(f"stranger{number}")
    if shuffled:  # so that the time of the last write is no help
        names = list(fleet.disks)
        fleet.random.shuffle(names)
        fleet.disks = {name: fleet.disks[name] for name in names}
    return fleet


def wrong(fleet, found):
    """The copies with a template that is not theirs, nor as good as theirs."""
    result = []
    for name, template in found.template_of.items():
        right, is_copy, _ = name.partition("-")
        other = found.copies[name].other
        also = other.path[1:] if other else ""
        # A hardly changed copy of the right template may stand for it.
        if is_copy and right not in {template.partition("-")[0], also.partition("-")[0]}:
            result.append((name, template, also))
    return result


FLEETS = [(0.1, (5, 5)), (0.02, (8, 8)), (0.4, (3, 3)), (0.05, (20, 3)), (0.6, (3, 20))]


@pytest.mark.parametrize("changed", [(0.002, 0.05), (0.02, 0.3)])
@pytest.mark.parametrize(("derived", "counts"), FLEETS)
def test_each_copy_gets_its_own_template_or_either(derived, counts, changed):
    for seed in range(2):
        fleet = two_templates(seed, derived, counts, changed, shuffled=bool(seed))
        found = Found(fleet)
        assert wrong(fleet, found) == []
        assert set(found.left) == {"stranger0", "stranger1", "stranger2"}
        assert {each.cause for each in found.left.values()} == {Cause.UNLIKE}


@pytest.mark.long
@pytest.mark.parametrize("changed", [(0.002, 0.05), (0.02, 0.3)])
@pytest.mark.parametrize("counts", [(3, 3), (15, 15), (15, 3), (3, 15), (40, 5)])
@pytest.mark.parametrize("derived", [0.02, 0.05, 0.1, 0.3, 0.6])
def test_so_it_is_on_many_fleets(derived, counts, changed):
    inside = total = 0
    for seed in range(6):
        fleet = two_templates(100 + seed, derived, counts, changed, shuffled=bool(seed % 2))
        found = Found(fleet)
        assert (seed, wrong(fleet, found)) == (seed, [])
        assert all(name.startswith("stranger") for name in found.left)
        for name, copy in found.copies.items():
            truth = fleet.similarity(name, found.template_of[name])
            inside += copy.similarity.low <= truth <= copy.similarity.high
            total += 1
    assert inside / total >= 0.95


def test_templates_that_hardly_differ_are_named_both():
    """Half a per cent: less than any interval of 512 samples, so some copies get the other template."""
    mixed = named = 0
    for seed in range(6):
        fleet = two_templates(seed, 0.006, (6, 6), (0.01, 0.05))
        found = Found(fleet)
        for name, template in found.template_of.items():
            if "-" in name and name[0] != template[0]:
                mixed += 1
                named += found.copies[name].other is not None
    assert mixed
    assert named > 0.7 * mixed


def test_a_template_is_the_image_on_which_all_overlays_are_smallest():
    fleet = Fleet(3)
    fleet.new("clean", modified_ns=9)
    for number in range(6):
        fleet.copy("clean", f"vm{number}", 0.1, modified_ns=number)
    found = Found(fleet)
    assert found.templates == ["clean"]
    assert found.choices["clean"].ties == ()


@pytest.mark.parametrize(
    ("traits", "tie"),
    [
        ({"read_only": True}, Tie.READ_ONLY),
        ({"is_backing": True}, Tie.BACKING),
        ({"modified_ns": -1}, Tie.OLDEST),
        ({"modified_ns": 0, "allocated": 0}, Tie.SMALLEST),
        ({"modified_ns": 0, "allocated": 5, "path": "/ "}, Tie.NAME),
    ],
)
def test_identical_images_are_distinguished_by_other_traits(traits, tie):
    fleet = Fleet(4)
    same = {"modified_ns": 0, "allocated": 5}
    fleet.new("a", **same)
    fleet.copy("a", "b", 0, **same)
    fleet.copy("a", "the one", 0, **(same | traits))
    found = Found(fleet)
    (choice,) = found.choices.values()
    assert (choice.ties, choice.equals) == ((tie,), 2)
    assert found.groups[0].template.path.strip() in {"/the one", "/"}
    assert [copy.similarity.estimate for copy in found.copies.values()] == [1, 1]


def test_the_count_of_equals_is_no_total_if_not_all_were_tried():
    fleet = Fleet(4)
    fleet.new("a", modified_ns=0)
    for number in range(60):
        fleet.copy("a", f"copy{number}", 0, modified_ns=1 + number)
    found = Found(fleet)
    assert found.templates == ["a"]
    assert not found.choices["a"].all_tried
    assert "; at least 15 other images would do almost as well, but" in why_template(found.groups[0])


def test_rules_are_named_in_the_order_in_which_they_decide():
    fleet = Fleet(4)
    fleet.new("young", read_only=True, modified_ns=6, allocated=5)
    fleet.copy("young", "writable", 0, modified_ns=1, allocated=5)
    fleet.copy("young", "chosen", 0, read_only=True, modified_ns=5, allocated=5)
    found = Found(fleet)
    assert found.templates == ["chosen"]
    assert found.choices["chosen"].ties == (Tie.READ_ONLY, Tie.OLDEST)
    assert why_template(found.groups[0]) == (
        "its copies equal it in every sample; 2 other images would do almost as well, but this one is read-only"
        " and, among those still tied, was modified least recently"
    )


def test_data_that_guests_have_added_does_not_make_them_templates():
    fleet = Fleet(5)
    base = fleet.new("old", modified_ns=1)
    empty = np.flatnonzero(base == 0)
    for number in range(4):
        disk = fleet.copy("old", f"vm{number}", 0, modified_ns=5 + number)
        disk[empty[number * 500 : number * 500 + 500]] = 77
    assert Found(fleet).templates == ["old"]


def test_a_smaller_disk_is_not_a_guest():
    fleet = Fleet(6)
    fleet.new("large")
    fleet.copy("large", "copy", 0.05)
    fleet.copy("large", "copy2", 0.05)
    fleet.copy("large", "cut", 0.02)
    fleet.traits["cut"] = {"virtual_size": 1 << 20, "allocated": 1 << 40, "modified_ns": 99}
    found = Found(fleet, given=["large"])
    assert set(found.template_of) == {"copy", "copy2"}
    assert "but its disk is smaller than that image's disk" in found.left["cut"].reason
    assert found.left["cut"].cause is Cause.UNUSABLE


def test_a_resized_copy_is_a_guest():
    fleet = Fleet(7)
    fleet.new("base")
    for name in ("a", "b"):
        fleet.copy("base", name, 0.03)
        fleet.disks[name] = np.concatenate([fleet.disks[name], np.zeros(5_000, dtype=np.uint64)])
    found = Found(fleet)
    assert found.template_of == {"a": "base", "b": "base"}


def test_what_cannot_be_a_guest_can_be_a_template():
    fleet = Fleet(8)
    fleet.new("base")
    fleet.copy("base", "a", 0.03)
    fleet.copy("base", "b", 0.03)
    busy = {"not_a_guest": "qemu has it open", "in_use": True}
    assert Found(fleet, base=busy).template_of == {"a": "base", "b": "base"}
    found = Found(fleet, a=busy)
    assert found.template_of == {"b": "base"}
    assert found.left["a"].cause is Cause.IN_USE
    assert found.left["a"].reason.startswith("qemu has it open; 97% of its data is in /base")


def test_only_given_templates_count():
    fleet = two_templates(9, 0.1, (4, 4), (0.01, 0.05))
    found = Found(fleet, given=["2"])
    assert found.templates == ["2"]
    assert {"1", "1-0", "2-0", "2-3"} <= set(found.template_of)
    alone = Found(fleet, given=["stranger0"])
    assert (alone.templates, alone.copies) == (["stranger0"], {})


def test_a_few_equal_samples_do_not_make_a_copy():
    """Nor does a message claim that little of the image's data is in the template."""
    fleet = Fleet(17)
    template = fleet.new("t")
    fleet.new("small", used=0)
    fleet.disks["small"][:16] = template[:16] = np.arange(1, 17, dtype=np.uint64)
    found = Found(fleet, given=["t"])
    assert found.left["small"].cause is Cause.UNLIKE
    assert found.left["small"].reason == (
        "100% of its samples that can be compared are in /t, but too few can be compared to be sure; if it is a"
        " copy, add it to a manifest"
    )


@pytest.mark.parametrize(("of_larger", "no_more"), [(0.2, False), (0.05, True)])
def test_no_template_has_more_of_an_image(of_larger, no_more):
    """The templates whose disks are larger than the image's count, too."""
    fleet = Fleet(18)
    for name in ("1", "2", "larger", "image"):
        fleet.new(name, used=0.9)
    places = fleet.random.permutation(20_000)
    for name, part, share in (("1", 0, 0.12), ("2", 1, 0.05), ("larger", 2, of_larger)):
        fleet.adopt("image", name, places[part::3], 3 * share)
    fleet.traits["larger"] = {"virtual_size": 1 << 50}
    found = Found(fleet, given=["1", "2", "larger"])
    assert found.left["image"].cause is Cause.UNLIKE
    only, _, others = found.left["image"].reason.partition(" of its data is in /1")
    assert only.startswith("only ")
    assert others == (", and no more in any other template" if no_more else "")


def test_an_image_that_is_alone_is_left_out():
    fleet = Fleet(10)
    fleet.new("only")
    found = Found(fleet)
    assert (found.groups, list(found.left)) == ([], ["only"])


def test_a_fleet_of_pairs_is_found():
    """Each group is found without a comparison with the others."""
    fleet = Fleet(11, blocks=400)
    for number in range(300):
        fleet.new(f"{number}", used=0.2)
        fleet.copy(f"{number}", f"{number}-copy", 0.1, clump=5)
    found = Found(fleet)
    assert len(found.groups) == 300
    assert all(
        name.partition("-")[0] == template.partition("-")[0] for name, template in found.template_of.items()
    )


def test_what_strangers_have_in_common_makes_no_group():
    """The same boot loader, at the same place in all."""
    fleet = Fleet(12)
    for number in range(8):
        fleet.new(f"s{number}")
    for disk in fleet.disks.values():
        disk[: 20_000 // 20] = np.arange(1, 1_001, dtype=np.uint64)
    found = Found(fleet)
    assert found.copies == {}
    assert len(found.left) == 8


def test_savings_are_what_an_overlay_leaves():
    fleet = Fleet(13, blocks=400)
    fleet.new("base", used=0.5)
    fleet.copy("base", "vm", 0.1)
    copy = Found(fleet).copies["vm"]
    data = int(np.count_nonzero(fleet.disks["vm"]))
    changed = round(data * (1 - fleet.similarity("vm", "base")))
    # Four blocks of 4 KiB before the tables, and a table for each 512 MiB of the disk.
    saved = (data - changed) * 65536 - 4 * 4096
    assert copy.saved.estimate == pytest.approx(saved - 65536)
    assert copy.saved.estimate - copy.saved.low == 4096  # a block that lists the extents of the file
    assert copy.saved.high == pytest.approx(saved)


def test_shared_blocks_are_not_saved():
    fleet = Fleet(13, blocks=400)
    fleet.new("base", used=0.5)
    fleet.copy("base", "vm", 0.1)
    whole = Found(fleet).copies["vm"].saved.estimate
    assert Found(fleet, vm={"reclaimable": 0}).copies["vm"].saved.estimate < whole - 100 * 65536


def test_a_guest_that_a_plan_refuses_is_not_in_the_sum():
    fleet = Fleet(13, blocks=400)
    fleet.new("base", used=0.5)
    fleet.copy("base", "vm", 0.1)
    fleet.copy("base", "kept", 0.1)
    found = Found(fleet, kept={"snapshots": 1})
    assert found.copies["kept"].saved.estimate > 0
    assert found.groups[0].saved == found.copies["vm"].saved


def test_a_template_without_a_copy_is_an_image_like_others():
    fleet = Fleet(14)
    fleet.new("base")
    fleet.copy("base", "a", 0.03)
    found = Found(fleet, a={"not_a_guest": "qemu has it open", "in_use": True})
    assert found.groups == []
    assert set(found.left) == {"base", "a"}

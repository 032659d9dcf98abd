"""Plans for tests: one small plan by hand, and any plan at all by hypothesis."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from batchdiff.choices import Retire, Strategy, Verdict
from batchdiff.errors import PlanError
from batchdiff.extents import Extents, Kind, from_kinds
from batchdiff.files.fingerprint import Fingerprint
from batchdiff.image.storage.exactness import Exactness
from batchdiff.image_source import ImageFormat, ImageSource
from batchdiff.plan.extents import runs_of
from batchdiff.plan.file import checksum_of, read_plan
from batchdiff.plan.overlay_options import (
    CLUSTER_SIZES,
    BackingPath,
    Compat,
    Compression,
    OverlayOptions,
    geometry_of,
)
from batchdiff.plan.overlay_rules import contradictions
from batchdiff.plan.plan import (
    Diff,
    GuestPlan,
    GuestToConvert,
    GuestToShare,
    Plan,
    PlannedImage,
    Savings,
    Sharing,
    Similarity,
    UntouchedGuest,
)
from batchdiff.plan.runs import NO_RUNS, Runs
from batchdiff.plan.totals import totals_of
from batchdiff.qcow2.geometry import REFCOUNT_BITS
from batchdiff.units import GIB, KIB, MIB, ceil_div

SHA256 = "5e" * 32


def fingerprint(number: int = 1, **changes) -> Fingerprint:
    return dataclasses.replace(Fingerprint(64768, 1000 + number, 8 * MIB, 10**18 + number, 10**18), **changes)


def planned_image(path: str, image_format: str = "raw", virtual_size: int = 8 * MIB) -> PlannedImage:
    source = ImageSource(path, ImageFormat(image_format))
    return PlannedImage(source, virtual_size, (fingerprint(len(path)),))


def savings(allocated: int = 2 * GIB, overlay: int = 256 * MIB, error: int = 0, **changes) -> Savings:
    """Savings of a guest that shares nothing, with an overlay that has no holes."""
    sizes = ((65536, overlay), (131072, overlay + 64 * KIB))
    found = Savings(allocated, allocated, overlay, error, overlay, allocated - overlay, sizes)
    return dataclasses.replace(found, **changes)


def guest_plan(name: str = "web01", **changes) -> GuestPlan:
    """A raw guest to convert: 1 data cluster, 2 zero clusters, 3 data clusters. ``changes``: also of its diff."""
    path = changes.pop("path", f"/srv/clones/{name}.img")
    image = planned_image(path)
    fields = {
        "name": name,
        "source": image.source,
        "image": image,
        "reason": "",
        "overlay_path": path.removesuffix(".img") + ".qcow2",
        "options": OverlayOptions(),
    }
    in_diff = {"data": Runs("[[0,1],[7,3]]"), "zero": Runs("[[4,2]]"), "savings": savings(), "similarity": None}
    in_diff = {key: changes.pop(key, value) for key, value in in_diff.items()}
    verdict = changes.pop("verdict", Verdict.CONVERT)
    fields |= changes
    if "diff" not in fields:
        fields["diff"] = diff_of(fields["options"], **in_diff)
    if verdict is Verdict.CONVERT:
        return GuestToConvert(**fields)
    return UntouchedGuest(verdict=verdict, **fields)


def shared_guest(name: str = "db01", **changes) -> GuestToShare:
    """A raw guest that is to share two runs of its blocks."""
    guest = guest_plan(name, **changes)
    fields = {each.name: getattr(guest, each.name) for each in dataclasses.fields(guest) if each.name != "losses"}
    sharing = fields.pop("sharing") or Sharing(
        allocated_bytes=2 * GIB, shareable_bytes=GIB, saved_bytes=GIB, runs=Runs("[[0,7],[100,3]]")
    )
    return GuestToShare(**fields | {"strategy": Strategy.SHARE, "sharing": sharing})


def untouched(guest: GuestToConvert, verdict: Verdict, reason: str = "") -> UntouchedGuest:
    """The same guest with another verdict."""
    fields = {each.name: getattr(guest, each.name) for each in dataclasses.fields(guest) if each.name != "losses"}
    return UntouchedGuest(**fields | {"verdict": verdict, "reason": reason})


def diff_of(options: OverlayOptions, **fields) -> Diff:
    return Diff(geometry=geometry_of(options, options.cluster_size), **fields)


def refused_guest(name: str = "broken", reason: str = "it is in use", **changes) -> GuestPlan:
    """A guest that could not even be opened."""
    without = {"verdict": Verdict.REFUSE, "reason": reason, "image": None, "diff": None}
    return guest_plan(name, **without | changes)


def small_plan(*guests: GuestPlan, **changes) -> Plan:
    """A plan for these guests, or for one to convert; its totals fit."""
    guests = guests or (guest_plan(),)
    retire = changes.get("retire", Retire.KEEP)
    plan = Plan(
        generator="batchdiff 0.1.0",
        created="2026-01-02T03:04:05Z",
        manifest_path="/srv/fleet.yaml",
        manifest_sha256=SHA256,
        template=planned_image("/srv/images/template.qcow2", "qcow2"),
        template_digest="xxh3-128-64m-512k:" + "0f" * 16,
        retire=retire,
        protect_template=True,
        guests=guests,
        totals=totals_of(guests, retire),
    )
    return dataclasses.replace(plan, **changes)


def large_plan(folder: str, *, guests: int, runs: int) -> Plan:
    """A plan of many guests of 256 GiB whose images are not there, each with its own random runs."""
    rng = np.random.default_rng(1)
    found = []
    for number in range(guests):
        path = f"{folder}/guest-{number:04}.img"
        image = planned_image(path, virtual_size=256 * GIB)
        # Gaps of 13 clusters on average, so that all runs end before the disk does; never none, so never merged.
        ends = rng.integers(1, 26, 2 * runs).cumsum()
        kinds = rng.choice(np.array([Kind.ZERO, Kind.DATA], dtype=np.uint8), runs, p=[0.2, 0.8])
        data, zero = runs_of(Extents(ends[::2], ends[1::2] - ends[::2], kinds))
        found.append(guest_plan(path=path, name=f"guest-{number:04}", image=image, data=data, zero=zero))
    return small_plan(*found, template=planned_image(f"{folder}/template.qcow2", "qcow2"))


_SIZES = st.integers(0, 1 << 59)  # the sums of all guests still fit into 63 bits
_TIMES = st.integers(-(1 << 63), (1 << 63) - 1)
_TEXTS = st.text(max_size=20)
_NAMES = st.binary(min_size=1, max_size=12).map(
    lambda name: name.replace(b"\0", b"/").decode(errors="surrogateescape")
)
_PATHS = _NAMES.map(lambda name: "/" + name)
_FINGERPRINTS = st.builds(
    Fingerprint,
    device=st.integers(0, (1 << 64) - 1),
    inode=st.integers(0, (1 << 64) - 1),
    size=_SIZES,
    mtime_ns=_TIMES,
    ctime_ns=_TIMES,
)
_OPTIONS = (
    st.builds(
        OverlayOptions,
        cluster_size=st.sampled_from(CLUSTER_SIZES),
        compression=st.sampled_from(Compression),
        backing_path=st.sampled_from(BackingPath),
        lazy_refcounts=st.booleans(),
        compression_level=st.sampled_from([None, None, 1, 9]),
        refcount_bits=st.sampled_from([16, *REFCOUNT_BITS]),
    )
    | st.builds(OverlayOptions, cluster_size=st.sampled_from(CLUSTER_SIZES), compat=st.just(Compat.V2))
    | st.builds(OverlayOptions, cluster_size=st.sampled_from(CLUSTER_SIZES[5:]), extended_l2=st.just(True))
).filter(lambda chosen: not list(contradictions(chosen)))
_BY_CLUSTER_SIZE = st.dictionaries(st.sampled_from(CLUSTER_SIZES), _SIZES).map(
    lambda sizes: tuple(sorted(sizes.items()))
)
_SAVINGS = st.builds(
    Savings,
    allocated_bytes=_SIZES,
    reclaimable_bytes=_SIZES,
    overlay_bytes=_SIZES,
    overlay_error_bytes=_SIZES,
    overlay_disk_bytes=_SIZES,
    saved_bytes=_TIMES,
    overlay_bytes_by_cluster_size=_BY_CLUSTER_SIZE,
    standard_l2_disk_bytes=st.just(()) | _BY_CLUSTER_SIZE,
    extended_l2_disk_bytes=st.just(()) | _BY_CLUSTER_SIZE,
    allocation_unit=st.sampled_from([512, 4096, 65536]),
    exactness=st.sampled_from(Exactness),
    note=_TEXTS,
)
_SHARINGS = st.builds(
    Sharing,
    allocated_bytes=_SIZES,
    shareable_bytes=_SIZES,
    saved_bytes=_TIMES,
    left_out_bytes=_SIZES,
    exactness=st.sampled_from(Exactness),
    note=_TEXTS,
)
_KINDS = st.lists(st.sampled_from([0, 0, Kind.ZERO, Kind.DATA]), max_size=30)


@st.composite
def planned_images(draw, *, virtual_size: int | None = None) -> PlannedImage:
    formats = st.sampled_from(ImageFormat)
    below = tuple(draw(st.lists(st.builds(ImageSource, _PATHS, formats), max_size=2)))
    prints = tuple(draw(_FINGERPRINTS) for _ in range(1 + len(below)))
    source = ImageSource(draw(_PATHS), draw(formats), below)
    return PlannedImage(source, draw(_SIZES) if virtual_size is None else virtual_size, prints)


@st.composite
def guest_plans(draw) -> GuestPlan:
    options, kinds = draw(_OPTIONS), draw(_KINDS)
    if options.compat is Compat.V2:  # it has no zero clusters
        kinds = [Kind.DATA if kind else 0 for kind in kinds]
    unit = geometry_of(options, options.cluster_size).granule
    cut_off = draw(st.integers(0, unit - 1)) if kinds else 0
    image = draw(planned_images(virtual_size=len(kinds) * unit - cut_off))
    assert ceil_div(image.virtual_size, unit) == len(kinds)
    data, zero = runs_of(from_kinds(np.array(kinds, dtype=np.uint8)))
    sharing = draw(st.none() | _SHARINGS)
    make = guest_plan if sharing is None else draw(st.sampled_from([guest_plan, shared_guest]))
    runs = runs_of(from_kinds(np.array(draw(_KINDS), dtype=np.uint8)))[0]
    if make is shared_guest and runs != NO_RUNS and image.virtual_size >= 30 * 512:
        sharing = dataclasses.replace(sharing, unit=512, runs=runs)
    return make(
        name=draw(_NAMES),
        source=image.source,
        image=image,
        verdict=Verdict.CONVERT
        if make is shared_guest
        else draw(st.sampled_from([Verdict.CONVERT, Verdict.SKIP])),
        sharing=sharing,
        reason=draw(_TEXTS),
        overlay_path=draw(_PATHS),
        options=options,
        data=data,
        zero=zero,
        savings=draw(_SAVINGS),
        alias=draw(st.just("") | _PATHS),
        similarity=draw(st.none() | st.builds(Similarity, _SIZES, _SIZES)),
    )


def refused_guests() -> st.SearchStrategy[GuestPlan]:
    auto = st.sampled_from([OverlayOptions(None), OverlayOptions(None, None), OverlayOptions(extended_l2=None)])
    options = _OPTIONS | auto
    return st.builds(refused_guest, _NAMES, _TEXTS, path=_PATHS, options=options)


def plans() -> st.SearchStrategy[Plan]:
    """Any plan that a planner could make, with sums that may be of other guests."""
    distinct = (lambda guest: guest.name, lambda guest: guest.overlay_path)
    guests = st.lists(guest_plans() | refused_guests(), max_size=4, unique_by=distinct).map(tuple)
    return st.builds(
        Plan,
        generator=_TEXTS,
        created=_TEXTS,
        manifest_path=_PATHS,
        manifest_sha256=st.just(SHA256),
        template=planned_images(),
        template_digest=_TEXTS,
        retire=st.sampled_from(Retire),
        protect_template=st.booleans(),
        guests=guests,
        totals=guests.map(lambda chosen: totals_of(chosen, Retire.KEEP)),
        left_out=st.lists(planned_images().map(lambda image: image.source), max_size=2).map(tuple),
        minimum_savings=st.sampled_from([0.0, 0.05, 1.0, -math.inf]),
    )


def leaves(value: object, where: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """The places of all scalars and all empty lists of a document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = [leaf for key, item in items for leaf in leaves(item, (*where, key))]
    return found or [where]


ONE_FOLDER = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
"""For a property whose examples all write to the folder of one test."""


def save(document: dict[str, object], path: str) -> None:
    """Writes a plan's document with the checksum that it should have."""
    document["checksum"] = checksum_of(document)
    Path(path).write_text(json.dumps(document))


def refusal(path: str) -> str:
    """The message with which a plan is refused."""
    with pytest.raises(PlanError) as caught:
        read_plan(path)
    assert caught.value.exit_code == 5
    assert path in caught.value.what
    return str(caught.value)

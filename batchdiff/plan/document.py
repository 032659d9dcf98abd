"""Conversion of a plan to the plain values of its JSON and back; runs stay text."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict
from typing import Any

from batchdiff.choices import NO_MINIMUM, Retire, Strategy, Verdict
from batchdiff.files.fingerprint import Fingerprint
from batchdiff.frozen import field_names
from batchdiff.image_source import ImageFormat, ImageSource
from batchdiff.plan.overlay_options import (
    AUTO,
    DEFAULT_TABLE_SIZE,
    BackingPath,
    Compat,
    Compression,
    Encryption,
    OverlayFormat,
    OverlayOptions,
    Preallocation,
)
from batchdiff.plan.overlay_rules import contradictions, misplaced_data_files
from batchdiff.plan.plan import (
    DEFAULT_UNIT,
    FORMAT_VERSION,
    NO_LOSSES,
    GuestPlan,
    GuestToConvert,
    GuestToShare,
    OriginalLosses,
    Plan,
    PlannedImage,
    Totals,
    UntouchedGuest,
)
from batchdiff.plan.runs import NO_RUNS
from batchdiff.plan.savings_document import diff_fields, diff_in, fields_in, sharing_fields, sharing_in
from batchdiff.qcow2.geometry import DEFAULT_REFCOUNT_BITS

ENCRYPTED = "encrypted"
"""Recorded as the ``compression`` of an encrypted overlay: a version of batchdiff that does not know
``encryption`` refuses this value, and so does not write the data unencrypted."""


def to_dict(plan: Plan) -> dict[str, Any]:
    """Return the document of a plan, without its checksum."""
    return {
        "format_version": ".".join(map(str, FORMAT_VERSION)),
        "generator": plan.generator,
        "created": plan.created,
        "manifest": _manifest(plan),
        "template": _source(plan.template.source) | _state(plan.template) | {"digest": plan.template_digest},
        "retire": plan.retire.value,
        "protect_template": plan.protect_template,
        "guests": [_guest(guest) for guest in plan.guests],
        "totals": asdict(plan.totals),
    }


def from_dict(document: dict[str, Any]) -> Plan:
    """Return the plan in a document that its schema has accepted; the order and ends of runs are not checked.

    :raises KeyError, TypeError, ValueError, OverflowError: the document is invalid.
    """
    guests = tuple(_guest_plan(guest) for guest in document["guests"])
    _check_distinct("name", [guest.name for guest in guests])
    overlays = [guest.overlay_path for guest in guests if guest.strategy is Strategy.OVERLAY]
    _check_distinct("overlay path", overlays)
    template = _planned_image(document["template"])
    for name, why in misplaced_data_files(guests, template.paths):
        raise ValueError(f"overlay.data_file of guest {name!r}: {why}")
    return Plan(
        generator=document["generator"],
        created=document["created"],
        manifest_path=document["manifest"]["path"],
        manifest_sha256=document["manifest"]["sha256"],
        template=template,
        template_digest=document["template"]["digest"],
        retire=Retire(document["retire"]),
        protect_template=document["protect_template"],
        guests=guests,
        totals=Totals(**fields_in(document["totals"], field_names(Totals))),
        left_out=tuple(map(_image_source, document["manifest"].get("left_out", ()))),
        minimum_savings=_minimum_savings(document["manifest"].get("minimum_savings", 0)),
    )


def _check_distinct(what: str, values: list[str]) -> None:
    twice = next((value for value, count in Counter(values).items() if count > 1), None)
    if twice is not None:
        raise ValueError(f"two guests have the {what} {twice!r}")


def _manifest(plan: Plan) -> dict[str, Any]:
    found: dict[str, Any] = {"path": plan.manifest_path, "sha256": plan.manifest_sha256}
    if plan.left_out:
        found["left_out"] = list(map(_source, plan.left_out))
    if plan.minimum_savings:
        found["minimum_savings"] = NO_MINIMUM if plan.minimum_savings == -math.inf else plan.minimum_savings
    return found


def _minimum_savings(value: object) -> float:
    if value == NO_MINIMUM:
        return -math.inf
    if not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"manifest.minimum_savings is {value!r}")
    return float(value)


def _source(source: ImageSource) -> dict[str, Any]:
    found: dict[str, Any] = {"path": source.path, "format": source.format.value}
    if source.secret_file is not None:
        found["secret_file"] = source.secret_file
    if source.allow_folders:
        found["allow_folders"] = list(source.allow_folders)
    if source.other_files:
        found["other_files"] = list(source.other_files)
    if source.backing:
        found["backing"] = [_source(below) for below in source.backing]
    return found


def _state(image: PlannedImage) -> dict[str, Any]:
    first, *rest = map(asdict, image.fingerprints)
    below, others = rest[: len(image.source.backing)], rest[len(image.source.backing) :]
    found: dict[str, Any] = {"virtual_size": image.virtual_size, "fingerprint": first}
    found |= {"backing_fingerprints": below} if below else {}
    return found | ({"other_fingerprints": others} if others else {})


def _guest(guest: GuestPlan) -> dict[str, Any]:
    found: dict[str, Any] = {"name": guest.name} | _source(guest.source)
    if guest.alias:
        found["link"] = guest.alias
    if guest.image is not None:
        found |= _state(guest.image)
    if isinstance(guest, GuestToConvert) and guest.losses != NO_LOSSES:
        found["losses"] = asdict(guest.losses)
    found |= {"verdict": guest.verdict.value, "reason": guest.reason}
    if guest.strategy is not Strategy.OVERLAY:
        found["strategy"] = guest.strategy.value
    found["overlay"] = {
        "path": guest.overlay_path,
        "cluster_size": guest.options.cluster_size or AUTO,
        "extended_l2": AUTO if guest.options.extended_l2 is None else guest.options.extended_l2,
        "compression": guest.options.compression.value if guest.options.encryption is None else ENCRYPTED,
        "backing_path": guest.options.backing_path.value,
        "lazy_refcounts": guest.options.lazy_refcounts,
        **_newer_options(guest.options),
    }
    if guest.diff is None:
        unit = guest.options.cluster_size or DEFAULT_UNIT
        found |= {"extents": {"unit": unit, "data": NO_RUNS, "zero": NO_RUNS}}
    else:
        found |= diff_fields(guest.diff)
    return found | sharing_fields(guest.sharing)


def _newer_options(options: OverlayOptions) -> dict[str, Any]:
    """Return the options that format version 1.3 added, unless they have their defaults.

    A QED overlay's table size is always included.
    """
    found: dict[str, Any] = {}
    if options.format is not OverlayFormat.QCOW2:
        found |= {"format": options.format.value, "table_size": options.table_size}
    if options.preallocation is not Preallocation.OFF:
        found["preallocation"] = options.preallocation.value
    if options.encryption is not None:
        found["encryption"] = {"format": "luks"} | options.encryption._asdict()
    if options.data_file is not None:
        found["data_file"] = options.data_file
    if options.compression_level is not None:
        found["compression_level"] = options.compression_level
    if options.refcount_bits != DEFAULT_REFCOUNT_BITS:
        found["refcount_bits"] = options.refcount_bits
    if options.compat is not Compat.V3:
        found["compat"] = options.compat.value
    return found


def _image_source(record: dict[str, Any]) -> ImageSource:
    return ImageSource(
        record["path"],
        ImageFormat(record["format"]),
        tuple(_image_source(item) for item in record.get("backing", ())),
        secret_file=record.get("secret_file"),
        allow_folders=tuple(record.get("allow_folders", ())),
        other_files=tuple(record.get("other_files", ())),
    )


def _planned_image(record: dict[str, Any]) -> PlannedImage:
    source = _image_source(record)
    below, others = record.get("backing_fingerprints", ()), record.get("other_fingerprints", ())
    prints = [record["fingerprint"], *below, *others]
    if len(below) != len(source.backing) or len(prints) != len(source.files):
        raise ValueError(f"{source.path} does not have one fingerprint for each of its files")
    return PlannedImage(source, record["virtual_size"], tuple(_fingerprint(item) for item in prints))


def _fingerprint(record: dict[str, Any]) -> Fingerprint:
    # Fingerprints in plans of version 1.0 do not name the filesystem.
    return Fingerprint(**{name: record[name] for name in field_names(Fingerprint) if name in record})


def _guest_plan(record: dict[str, Any]) -> GuestPlan:
    options = _options(record["overlay"], record["name"])
    for key, why in contradictions(options):
        raise ValueError(f"overlay.{key} of guest {record['name']!r}: {why}")
    common: dict[str, Any] = {
        "name": record["name"],
        "source": _image_source(record),
        "reason": record["reason"],
        "overlay_path": record["overlay"]["path"],
        "options": options,
        "alias": record.get("link", ""),
        "strategy": Strategy(record.get("strategy", Strategy.OVERLAY)),
    }
    image = _planned_image(record) if "fingerprint" in record else None
    diff, sharing = diff_in(record, options), sharing_in(record)
    verdict = Verdict(record["verdict"])
    if verdict not in {Verdict.CONVERT, Verdict.SHARE}:
        return UntouchedGuest(**common, verdict=verdict, image=image, diff=diff, sharing=sharing)
    if verdict is Verdict.SHARE and image is not None and sharing is not None:
        return GuestToShare(**common, image=image, diff=diff, sharing=sharing)
    if verdict is Verdict.SHARE or image is None or diff is None:
        what = "share blocks" if verdict is Verdict.SHARE else "be converted"
        raise ValueError(f"guest {record['name']!r} is to {what}, but was not compared")
    losses = OriginalLosses(**fields_in(record.get("losses", {}), field_names(OriginalLosses)))
    return GuestToConvert(**common, image=image, diff=diff, losses=losses, sharing=sharing)


def _options(record: dict[str, Any], guest: str) -> OverlayOptions:
    compression, encryption = record["compression"], record.get("encryption")
    if (compression == ENCRYPTED) != (encryption is not None):
        what = f"both `compression: {ENCRYPTED}` and `encryption`, or neither"
        raise ValueError(f"the overlay of guest {guest!r} must have {what}")
    return OverlayOptions(
        cluster_size=None if record["cluster_size"] == AUTO else record["cluster_size"],
        extended_l2=None if record["extended_l2"] == AUTO else record["extended_l2"],
        compression=Compression.NONE if compression == ENCRYPTED else Compression(compression),
        backing_path=BackingPath(record["backing_path"]),
        lazy_refcounts=record["lazy_refcounts"],
        compression_level=record.get("compression_level"),
        refcount_bits=record.get("refcount_bits", DEFAULT_REFCOUNT_BITS),
        compat=Compat(record.get("compat", Compat.V3)),
        format=OverlayFormat(record.get("format", OverlayFormat.QCOW2)),
        table_size=record.get("table_size", DEFAULT_TABLE_SIZE),
        preallocation=Preallocation(record.get("preallocation", Preallocation.OFF)),
        encryption=None if encryption is None else _encryption(encryption),
        data_file=record.get("data_file"),
    )


def _encryption(record: dict[str, Any]) -> Encryption:
    return Encryption(**{name: record[name] for name in Encryption._fields})

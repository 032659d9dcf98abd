"""The sidecar of a template: the template's state when overlays were created on it, and a list of these overlays.

An overlay does not record the identity of its backing file, so a change to a template damages overlays silently.
The sidecar reveals the change, and lets the next plan recognise converted guests.
``NAME.batchdiff-template.json``::

    {"format_version": "1.2",
     "template": {"path", "format", "virtual_size", "digest", "fingerprints": [...], "earlier": [[...], ...]},
     "overlays": {"/images/web01.qcow2": {"guest": "web01", "plan": "sha256:...", "plan_path": "/images/...",
                                          "original": "/images/web01.img", "fingerprint": {...}}}}

Version 1.0 had only ``guest`` and ``plan`` for an overlay, and no ``earlier``. Version 1.2 added ``before`` for an
overlay.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Iterator
from typing import Any

from batchdiff.files import own_files
from batchdiff.files.fingerprint import Fingerprint
from batchdiff.frozen import field_names, frozen
from batchdiff.linux.device_names import is_among_devices
from batchdiff.plan.file import read_regular
from batchdiff.plan.plan import Plan, PlannedImage

SIDECAR_VERSION = "1.2"
LARGEST = 64 << 20
"""Bytes; an overlay without ``before`` takes about 700."""

MOST_BEFORE = 16
"""The maximum number of origins in ``before``."""

Chain = tuple[Fingerprint, ...]
"""One fingerprint for each file of a template's chain, the template first."""


@frozen
class OverlayOrigin:
    """The origin of an overlay; fields are empty or None if they were not recorded.

    ``plan``: the plan's checksum. ``original``: the path of the guest. ``fingerprint``: that of the overlay.
    ``before``: the origins of the thicker overlays that this one replaced, newest first.
    """

    guest: str
    plan: str
    plan_path: str = ""
    original: str = ""
    fingerprint: Fingerprint | None = None
    before: tuple[OverlayOrigin, ...] = ()

    @property
    def lineage(self) -> tuple[OverlayOrigin, ...]:
        """The origin itself and those of the replaced overlays, newest first."""
        return (self, *self.before)

    def made_by(self, plan: str, guest: str) -> bool:
        """Return True if the plan with that checksum made this overlay for that guest."""
        return (self.plan, self.guest) == (plan, guest)


@frozen
class Sidecar:
    """The record of a template. ``overlays`` has absolute paths as keys.

    ``earlier``: other fingerprints that the template had with the same digest.
    """

    digest: str
    fingerprints: Chain
    overlays: dict[str, OverlayOrigin]
    earlier: tuple[Chain, ...] = ()


def sidecar_path(template_path: str, overlay_path: str) -> str:
    """Return the path of a template's sidecar: beside a template file; for a block device, beside the overlay.

    A sidecar in /dev would be lost at the next reboot. The name of a device's sidecar contains the
    device's whole path, as in ``dev-vg-lv``, so that two volumes with the same name do not share a sidecar.
    """
    if not _is_device(template_path):
        return template_path + own_files.SIDECAR
    plain = template_path.strip("/").replace("%", "%25").replace("-", "%2D")
    return os.path.join(os.path.dirname(overlay_path), plain.replace("/", "-") + own_files.SIDECAR)


def _is_device(path: str) -> bool:
    try:
        return stat.S_ISBLK(os.stat(path).st_mode)
    except OSError:
        # An inactive volume can be recognised only by its name. A link that leads nowhere is taken for one to a
        # device, because links to files are resolved before a path is recorded.
        return is_among_devices(path) or os.path.islink(path)


def read_sidecar(path: str) -> Sidecar | None:
    """Return the sidecar in a file; None if the file cannot be read as one."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        document = json.loads(read_regular(path, LARGEST))
        if str(document["format_version"]).split(".", 1)[0] == SIDECAR_VERSION.split(".", 1)[0]:
            return _from_document(document)
    return None


def sidecar_paths(plan: Plan) -> list[str]:
    """Return the paths of the sidecars that list a plan's overlays."""
    return sorted({sidecar_path(plan.template.source.path, guest.overlay_path) for guest in plan.to_convert})


def sidecars_of(plan: Plan) -> Iterator[Sidecar]:
    """Yield the readable sidecars of a plan's template."""
    for path in sidecar_paths(plan):
        found = read_sidecar(path)
        if found is not None:
            yield found


def to_document(sidecar: Sidecar, template: dict[str, Any]) -> dict[str, Any]:
    """Return a sidecar's plain values; ``template`` has path, format and virtual size."""
    return {
        "format_version": SIDECAR_VERSION,
        "template": template
        | {
            "digest": sidecar.digest,
            "fingerprints": [_fields(each) for each in sidecar.fingerprints],
            "earlier": [[_fields(each) for each in chain] for chain in sidecar.earlier],
        },
        "overlays": {path: origin_fields(origin) for path, origin in sorted(sidecar.overlays.items())},
    }


def encode_sidecar(document: dict[str, Any]) -> Iterator[str]:
    """Yield a sidecar's text, with one overlay per line; indented JSON would take ten times as long."""
    encode = json.JSONEncoder().encode
    rest = ",\n ".join(f"{encode(key)}: {encode(value)}" for key, value in document.items() if key != "overlays")
    yield f'{{{rest},\n "overlays": {{'
    overlays = (f"\n  {encode(path)}: {encode(origin)}" for path, origin in document["overlays"].items())
    yield ",".join(overlays)
    yield "}}\n"


def origin_fields(origin: OverlayOrigin) -> dict[str, Any]:
    """Return the plain values of an overlay's origin."""
    found = _fields(origin) | {"fingerprint": None if origin.fingerprint is None else _fields(origin.fingerprint)}
    del found["before"]
    return found | ({"before": [origin_fields(each) for each in origin.before]} if origin.before else {})


def _fields(value: OverlayOrigin | Fingerprint) -> dict[str, Any]:
    # asdict() copies deeply, which takes ten times as long.
    return {name: getattr(value, name) for name in field_names(value)}


def _from_document(document: dict[str, Any]) -> Sidecar:
    template = document["template"]
    return Sidecar(
        digest=str(template["digest"]),
        fingerprints=_chain(template["fingerprints"]),
        overlays={str(path): _origin(each) for path, each in document["overlays"].items()},
        earlier=tuple(_chain(each) for each in template.get("earlier", ())),
    )


def _chain(values: list[dict[str, Any]]) -> Chain:
    return tuple(_fingerprint(each) for each in values)


def _origin(value: dict[str, Any]) -> OverlayOrigin:
    print_ = value.get("fingerprint")
    return OverlayOrigin(
        guest=str(value["guest"]),
        plan=str(value["plan"]),
        plan_path=str(value.get("plan_path", "")),
        original=str(value.get("original", "")),
        fingerprint=None if print_ is None else _fingerprint(print_),
        before=tuple(_origin(each) for each in value.get("before", ())[:MOST_BEFORE]),
    )


def _fingerprint(value: dict[str, Any]) -> Fingerprint:
    return Fingerprint(**{name: value[name] for name in field_names(Fingerprint) if name in value})


def is_known_state(before: Chain, now: Chain, sidecar: Sidecar | None) -> bool:
    """Return True if the two chains are equal, or are recorded as states of the same content.

    batchdiff changes a template's mode; that must not make a second plan for the template stale.
    """
    if before == now:
        return True
    return sidecar is not None and now == sidecar.fingerprints and before in sidecar.earlier


def is_known_template(template: PlannedImage, now: Chain) -> bool:
    """Return True if a template's present fingerprints are the planned ones, or recorded for the same content.

    ``now``: the present fingerprints.
    """
    path = template.source.path
    return is_known_state(template.fingerprints, now, read_sidecar(sidecar_path(path, path)))


def first_state(now: Chain, sidecar: Sidecar | None) -> Chain:
    """Return the earliest recorded state of a chain's present content; ``now`` if none is known."""
    if sidecar is None or now != sidecar.fingerprints or not sidecar.earlier:
        return now
    return sidecar.earlier[0]

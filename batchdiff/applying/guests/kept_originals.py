"""Find the kept originals that the operator must not delete, because other images depend on them.

Reports must work with few permissions, so unreadable files and folders are ignored.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from batchdiff.applying.guests.status import OnDisk
from batchdiff.dependents.dependents import Forbidden, dependents_in_plan
from batchdiff.files import own_files
from batchdiff.plan.plan import Plan
from batchdiff.plan.sidecar import read_sidecar


def dependents_of_kept(plan: Plan, names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return what depends on kept originals of these guests, in words, by guest name."""
    wanted = set(names)
    paths = {guest.name: guest.source.path for guest in plan.to_convert if guest.name in wanted}
    if not paths:
        return {}
    found = dependents_in_plan(plan).on_each(paths.values(), forbidden=Forbidden.IGNORED)
    words = {name: tuple(found[path].words or _listed(path)) for name, path in paths.items()}
    return {name: each for name, each in words.items() if each}


def with_dependents(plan: Plan, there: Mapping[str, OnDisk]) -> dict[str, OnDisk]:
    """Return the files of guests, with the dependents of kept originals."""
    paths = {guest.name: guest.source.path for guest in plan.to_convert}
    kept = [name for name, each in there.items() if each.overlay is not None and each.original == paths[name]]
    found = dependents_of_kept(plan, kept)
    return {name: replace(each, dependents=found.get(name, ())) for name, each in there.items()}


def _listed(path: str) -> list[str]:
    sidecar = read_sidecar(path + own_files.SIDECAR)
    return [f"perhaps an overlay listed in {path}{own_files.SIDECAR}"] if sidecar and sidecar.overlays else []

"""Which overlays rest on an image, as its sidecar says: ``NAME.batchdiff-template.json``, which apply writes."""

from __future__ import annotations

import errno
import json

from batchdiff.model import own_names
from batchdiff.model.plan_file import read_regular

_LARGEST = 64 << 20


def dependents_of(path: str) -> str:
    """What rests on an image by its sidecar, in words; empty where there is none, or it names nothing.

    A sidecar that cannot be read might name overlays, and counts as if it did.
    """
    sidecar = path + own_names.SIDECAR
    try:
        overlays = json.loads(read_regular(sidecar, _LARGEST))["overlays"]
        first = next(iter(sorted(overlays)), None)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        if isinstance(error, OSError) and error.errno in {errno.ENOENT, errno.ENAMETOOLONG}:
            return ""  # there is none, or can be none
        return f"whatever {sidecar} names, which cannot be read"
    if first is None:
        return ""
    more = f" and {len(overlays) - 1} more" if len(overlays) > 1 else ""
    return f"the overlay {first}{more} ({sidecar})"

"""The JSON Schema of a plan, made from the types of a plan: ``python tools/plan_schema.py`` writes the file.

The fields of a type become the properties of an object, and those without a default are required. What is written
out here is the nesting of the document (:mod:`batchdiff.plan.document`), and the limits that types do not have.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import types
from pathlib import Path
from typing import Any, get_args, get_type_hints

from batchdiff.choices import NO_MINIMUM, Retire, Strategy, Verdict
from batchdiff.files.fingerprint import Fingerprint
from batchdiff.image.storage.exactness import Exactness
from batchdiff.image_source import MAX_CHAIN, ImageFormat
from batchdiff.plan.document import ENCRYPTED
from batchdiff.plan.overlay_options import (
    AUTO,
    CLUSTER_SIZES,
    COMPRESSION_LEVELS,
    QED_CLUSTER_SIZES,
    QED_TABLE_SIZES,
    Compression,
    Encryption,
    OverlayOptions,
)
from batchdiff.plan.plan import FORMAT_VERSION, OriginalLosses, Savings, Sharing, Similarity, Totals
from batchdiff.qcow2.geometry import REFCOUNT_BITS

Schema = dict[str, Any]

FILE = Path(__file__).parent.parent / "batchdiff/plan/schemas/plan.schema.json"

MAJOR, MINOR = FORMAT_VERSION
SHA256 = "[0-9a-f]{64}$"
TEXT = {"type": "string"}
# Absolute. Of lone surrogates, it has only those that stand for bytes that are not UTF-8.
PATH = {"type": "string", "pattern": "^/[^\\u0000\\ud800-\\udc7f\\udd00-\\udfff]*$"}
INTEGER = {"type": "integer"}
SIZE = INTEGER | {"minimum": 0, "maximum": (1 << 63) - 1}
CLUSTER_SIZE = INTEGER | {"enum": sorted({*CLUSTER_SIZES, *QED_CLUSTER_SIZES})}
RUNS = {"type": "array", "items": {"type": "array", "items": SIZE, "minItems": 2, "maxItems": 2}}
BY_SIZE = {"type": "object", "propertyNames": {"pattern": "^[0-9]{3,8}$"}, "additionalProperties": SIZE}
FIELDS: dict[str, Schema] = {
    **dict.fromkeys(("device", "inode"), SIZE | {"maximum": (1 << 64) - 1}),
    **dict.fromkeys(("mtime_ns", "ctime_ns", "saved_bytes"), INTEGER),
    "allocation_unit": SIZE | {"minimum": 1},
    "cluster_size": {"anyOf": [{"const": AUTO}, CLUSTER_SIZE]},
    "extended_l2": {"enum": [True, False, AUTO]},
    "compression": {"enum": [*(each.value for each in Compression), ENCRYPTED]},
    "compression_level": INTEGER | {"minimum": 1, "maximum": max(map(max, COMPRESSION_LEVELS.values()))},
    "refcount_bits": INTEGER | {"enum": list(REFCOUNT_BITS)},
    **dict.fromkeys(
        ("overlay_bytes_by_cluster_size", "standard_l2_disk_bytes", "extended_l2_disk_bytes"), BY_SIZE
    ),
    "exactness": {"$ref": "#/$defs/exactness"},
    "encryption": {"$ref": "#/$defs/encryption"},
    "data_file": PATH,
    "runs": RUNS,
    "unit": SIZE | {"minimum": 512},
    "table_size": INTEGER | {"enum": list(QED_TABLE_SIZES)},
}
"""Fields with limits or a form that their types do not show."""


def of_type(kind: object) -> Schema:
    """Return the schema of a simple type.

    :raises TypeError: it is another type; its field must be in ``FIELDS``.
    """
    if isinstance(kind, types.UnionType):
        (kind,) = set(get_args(kind)) - {type(None)}
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return {"enum": [each.value for each in kind]}
    for simple, schema in ((int, SIZE), (str, TEXT), (bool, {"type": "boolean"})):
        if kind is simple:
            return schema
    raise TypeError(str(kind))


def of_fields(dataclass: type) -> Schema:
    """Return the schema of an object with the fields of a dataclass."""
    hints, fields = get_type_hints(dataclass), dataclasses.fields(dataclass)
    required = [field.name for field in fields if field.default is dataclasses.MISSING]
    return of(required, **{each.name: FIELDS.get(each.name) or of_type(hints[each.name]) for each in fields})


def of(required: list[str] | None = None, /, **properties: Schema) -> Schema:
    """Return the schema of an object; all its properties are required unless ``required`` names some."""
    required = list(properties) if required is None else required
    return {"type": "object", "properties": properties, "required": required}


def refer_to(name: str) -> Schema:
    """Return a reference to one of the definitions."""
    return {"$ref": f"#/$defs/{name}"}


PATHS: Schema = {"type": "array", "items": PATH}
ALWAYS_SET = ("cluster_size", "extended_l2", "compression", "backing_path", "lazy_refcounts")
"""The options of an overlay that every plan has; the others are left out if they have their defaults."""
FILE_OF_CHAIN: dict[str, Schema] = {"path": PATH, "format": of_type(ImageFormat), "secret_file": PATH}
MORE_FILES = {"allow_folders": PATHS, "other_files": PATHS}
ALWAYS = ["path", "format"]
BACKING_FILE = of(ALWAYS, **FILE_OF_CHAIN, **MORE_FILES)
BACKING: dict[str, Schema] = {"backing": {"type": "array", "items": BACKING_FILE, "maxItems": MAX_CHAIN}}
SOURCE = of(ALWAYS, **FILE_OF_CHAIN, **MORE_FILES, **BACKING)
IMAGE = of(
    ALWAYS,
    **FILE_OF_CHAIN,
    **MORE_FILES,
    virtual_size=SIZE,
    **BACKING,
    fingerprint=refer_to("fingerprint"),
    backing_fingerprints={"type": "array", "items": refer_to("fingerprint")},
    other_fingerprints={"type": "array", "items": refer_to("fingerprint")},
)
TEMPLATE = of(virtual_size=SIZE, fingerprint=refer_to("fingerprint"), digest=TEXT)
GUEST = of(
    ["name", "verdict", "reason", "overlay", "extents"],
    name=TEXT | {"minLength": 1},
    link=PATH,
    similarity=of_fields(Similarity),
    losses=of_fields(OriginalLosses),
    strategy=of_type(Strategy),
    sharing=of_fields(Sharing),
    verdict=of_type(Verdict),
    reason=TEXT,
    overlay=of(["path", *ALWAYS_SET], path=PATH, **of_fields(OverlayOptions)["properties"]),
    extents=of(unit=CLUSTER_SIZE, data=RUNS, zero=RUNS),
    savings=refer_to("savings"),
)
PLAN: Schema = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": f"batchdiff diff plan, format version {MAJOR}.{MINOR}",
    "description": "Readers ignore fields that they do not know and refuse another major version. All sizes are in"
    " bytes. docs/plan-format.md explains every field.",
} | of(
    format_version=TEXT | {"pattern": rf"^{MAJOR}\.[0-9]+$"},
    generator=TEXT,
    created=TEXT,
    checksum=TEXT | {"pattern": f"^sha256:{SHA256}"},
    manifest=of(
        ["path", "sha256"],
        path=TEXT,
        sha256=TEXT | {"pattern": f"^{SHA256}"},
        left_out={"type": "array", "items": SOURCE},
        minimum_savings={"anyOf": [{"const": NO_MINIMUM}, {"type": "number", "minimum": 0, "maximum": 1}]},
    ),
    template={"allOf": [refer_to("image"), TEMPLATE]},
    retire=of_type(Retire),
    protect_template={"type": "boolean"},
    guests={"type": "array", "items": refer_to("guest")},
    totals=of_fields(Totals),
)
PLAN["$defs"] = {
    "encryption": of(
        format={"const": "luks"},
        **{
            name: of_type(kind) | (PATH if name == "secret_file" else {})
            for name, kind in get_type_hints(Encryption).items()
        },
    ),
    "exactness": of_type(Exactness),
    "fingerprint": of_fields(Fingerprint),
    "image": IMAGE,
    "guest": {"allOf": [refer_to("image"), GUEST]},
    "savings": of_fields(Savings),
}
TEXT_OF_FILE = json.dumps(PLAN, indent=2) + "\n"

if __name__ == "__main__":
    FILE.write_text(TEXT_OF_FILE, encoding="ascii")

"""The JSON Schemas of the report and of events, made by ``python tools/report_schemas.py`` from their types."""

from __future__ import annotations

import enum
import json

from plan_schema import (
    FILE,
    GUEST,
    IMAGE,
    INTEGER,
    PATH,
    PLAN,
    SIZE,
    TEXT,
    Schema,
    of,
    of_fields,
    of_type,
    refer_to,
)

from batchdiff.applying.journal.records import Fate, Step
from batchdiff.applying.results.finding import Health
from batchdiff.applying.results.outcome import Status
from batchdiff.choices import Retire, Strategy, Verdict
from batchdiff.cli.output.command_events import EVENTS_VERSION
from batchdiff.discovery.exclusion import Cause
from batchdiff.doctor.fact import Ability
from batchdiff.image.storage.exactness import Exactness
from batchdiff.image_source import ImageFormat
from batchdiff.plan.plan import Similarity, Totals
from batchdiff.progress import Phase
from batchdiff.report.estimate.json_form import ESTIMATE_VERSION
from batchdiff.report.plan.json_form import REPORT_VERSION

REPORT_FILE, EVENTS_FILE = (FILE.with_name(f"{name}.schema.json") for name in ("report", "events"))

BOOLEAN: Schema = {"type": "boolean"}
NUMBER: Schema = {"type": "number", "minimum": 0}
TEXTS: Schema = {"type": "array", "items": TEXT}
SHARE: Schema = {"type": ["number", "null"]}
NAMED: Schema = {"$schema": "https://json-schema.org/draft/2020-12/schema"}


def or_null(schema: Schema) -> Schema:
    """Return the schema of a value that may be null."""
    return {"anyOf": [schema, {"type": "null"}]}


def array(items: Schema) -> Schema:
    """Return the schema of an array."""
    return {"type": "array", "items": items}


def values(*kinds: type[enum.Enum], more: tuple[str, ...] = ()) -> Schema:
    """Return the schema of one of the values of enumerations, or one of some words."""
    return {"enum": [*(each.value for kind in kinds for each in kind), *more]}


def older_and_newer(kind: Schema, **more: Schema) -> Schema:
    """Return the schema of a value in two plans."""
    return of(**more, older=kind, newer=kind)


SHARE_OF_ONE: Schema = {"type": "number", "minimum": 0, "maximum": 1}
INTERVAL_OF_SHARE = of(estimate=SHARE_OF_ONE, low=SHARE_OF_ONE, high=SHARE_OF_ONE)
INTERVAL_OF_BYTES = of(estimate=INTEGER, low=INTEGER, high=INTEGER)

TEMPLATE = PLAN["properties"]["template"]
OVERLAY = GUEST["properties"]["overlay"]
REPORT_GUEST = of(
    name=TEXT,
    path=PATH,
    format=of_type(ImageFormat),
    backing=or_null(IMAGE["properties"]["backing"]),
    virtual_size=or_null(SIZE),
    verdict=of_type(Verdict),
    reason=TEXT,
    overlay=OVERLAY,
    data_bytes=or_null(SIZE),
    zero_bytes=or_null(SIZE),
    link=or_null(PATH),
    savings=or_null(refer_to("savings")),
    similarity=or_null(of_fields(Similarity)),
    saved_share=SHARE,
    similar_share=SHARE,
    looks_copied=or_null(BOOLEAN),
    conversion=or_null(
        of(
            original=values(Fate),
            quarantined_as=or_null(PATH),
            actual_overlay_bytes=SIZE,
            actual_overlay_disk_bytes=or_null(SIZE),
            used=BOOLEAN,
            came_back_bytes=INTEGER,
            dependents=TEXTS,
        )
    ),
    restored=BOOLEAN,
    strategy=of_type(Strategy),
    sharing=or_null(
        of(
            allocated_bytes=SIZE,
            shareable_bytes=SIZE,
            saved_bytes=INTEGER,
            left_out_bytes=SIZE,
            exactness=refer_to("exactness"),
            note=TEXT,
            came_back_bytes=or_null(INTEGER),
            came_back_exactness=or_null(values(Exactness)),
        )
    ),
)
TOTALS = of_fields(Totals)
TOTALS_OF_REPORT = of(
    overlay_error_bytes=SIZE,
    saved_share=SHARE,
    converted=SIZE,
    shared=SIZE,
    came_back_bytes=INTEGER,
    came_back_exactness=values(Exactness),
    better_cluster_size=or_null(SIZE),
    better_overlay_disk_bytes_at_most=or_null(SIZE),
)
AGAINST = of(
    created=TEXT,
    saved_bytes=older_and_newer(INTEGER),
    template_changed=BOOLEAN,
    appeared=TEXTS,
    gone=TEXTS,
    verdicts=array(older_and_newer(of_type(Verdict), name=TEXT)),
    overlay_bytes=array(older_and_newer(SIZE, name=TEXT)),
)
FIELDS: dict[str, Schema] = {
    "report_version": TEXT | {"pattern": rf"^{REPORT_VERSION.partition('.')[0]}\.[0-9]+$"},
    "generator": TEXT,
    "created": TEXT,
    "manifest": PLAN["properties"]["manifest"],
    "template": TEMPLATE,
    "retire": of_type(Retire),
    "protect_template": BOOLEAN,
    "stale": TEXTS,
    "warnings": TEXTS,
    "guests": array(refer_to("report_guest")),
    "totals": {"allOf": [TOTALS, TOTALS_OF_REPORT]},
}
REPORT_BODY = of(list(FIELDS), **FIELDS, against=AGAINST)
DEFINITIONS: dict[str, Schema] = PLAN["$defs"] | {"report_guest": REPORT_GUEST}
REPORT: Schema = (
    NAMED
    | {
        "title": f"batchdiff savings report, version {REPORT_VERSION}",
        "description": "Printed by `show --format json`, and part of some events. Readers ignore fields that they"
        " do not know. All sizes are in bytes. docs/plan-format.md explains every field.",
    }
    | REPORT_BODY
    | {"$defs": DEFINITIONS}
)

BOUNDS = of(estimate=INTEGER, low=INTEGER, high=INTEGER)
ESTIMATED_GUEST = of(
    name=TEXT,
    path=PATH,
    format=of_type(ImageFormat),
    verdict=of_type(Verdict),
    reason=TEXT,
    undecided=BOOLEAN,
    exact=BOOLEAN,
    allocated_bytes=or_null(SIZE),
    reclaimable_bytes=or_null(SIZE),
    overlay_disk_bytes=or_null(BOUNDS),
    saved_bytes=or_null(BOUNDS),
    cluster_size=or_null(SIZE),
    exactness=or_null(values(Exactness)),
    note=TEXT,
    probes=SIZE,
    read_bytes=SIZE,
)
ESTIMATE = of(
    estimate_version=TEXT | {"pattern": rf"^{ESTIMATE_VERSION.partition('.')[0]}\.[0-9]+$"},
    generator=TEXT,
    created=TEXT,
    manifest=PLAN["properties"]["manifest"],
    template=of(path=PATH, format=of_type(ImageFormat), virtual_size=SIZE),
    seed=SIZE,
    wanted_error=NUMBER,
    seconds=NUMBER,
    probes=SIZE,
    read_bytes=SIZE,
    plan_read_bytes=SIZE,
    guests=array(ESTIMATED_GUEST),
    totals=of(
        **dict.fromkeys(("guests", *(verdict.value for verdict in Verdict), "undecided"), SIZE),
        allocated_bytes=SIZE,
        sampled_bytes=SIZE,
        overlay_disk_bytes=BOUNDS,
        saved_bytes=BOUNDS,
        error=NUMBER,
    ),
)

TIME = TEXT | {"pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$"}
CODE = INTEGER | {"minimum": 0, "maximum": 255}
EVENTS: dict[str, dict[str, Schema]] = {
    "version": {
        "version": TEXT,
        "verb": TEXT,
        "events_version": TEXT | {"pattern": rf"^{EVENTS_VERSION.partition('.')[0]}\.[0-9]+$"},
        "report_version": TEXT,
        "plan_format_version": TEXT,
    },
    "progress": {
        "bytes_done": SIZE,
        "bytes_total": SIZE,
        "percent_done": NUMBER | {"maximum": 100},
        "bytes_per_second": or_null(SIZE),
        "seconds_elapsed": NUMBER,
        "seconds_remaining": or_null(NUMBER),
        "step": or_null(values(Phase)),
        "guest": or_null(TEXT),
        "guest_bytes_done": or_null(SIZE),
        "guest_bytes_total": or_null(SIZE),
        "guest_seconds_remaining": or_null(NUMBER),
        "openings_done": or_null(SIZE),
        "openings_total": or_null(SIZE),
    },
    "summary": {
        "verb": TEXT,
        "exit_code": CODE,
        "seconds_elapsed": NUMBER,
        "guests": {"type": "object", "additionalProperties": SIZE},
    },
    "valid": {"manifest": TEXT, "guests": TEXTS},
    "plan": {"path": PATH, "kept": or_null(PATH), "report": refer_to("report")},
    "report": {"report": refer_to("report")},
    "estimate": {"report": ESTIMATE},
    "step": {"guest": TEXT, "step": values(Step)},
    "guest": {
        "name": TEXT,
        "status": values(Status),
        "reason": TEXT,
        **dict.fromkeys(
            (
                "predicted_overlay_bytes",
                "actual_overlay_bytes",
                "predicted_overlay_disk_bytes",
                "actual_overlay_disk_bytes",
            ),
            or_null(SIZE),
        ),
        "original": TEXT,
        "exit_code": CODE,
        "gained_bytes": or_null(INTEGER),
        "notes": TEXTS,
        "source": PATH,
        "overlay": or_null(PATH),
    },
    "status": {
        "name": TEXT,
        "step": values(Step, more=("planned", "skipped", "refused")),
        "since": TEXT,
        "failure": TEXT,
        "next": TEXT,
    },
    "finding": {"name": TEXT, "path": PATH, "health": values(Health), "why": TEXT},
    "notice": {"message": TEXT},
    "space": {"folder": PATH, "grown_bytes": INTEGER},
    "definition": {
        "domain": TEXT,
        "from": TEXT,
        "guests": array(of(guest=TEXT, disk=TEXT, path=TEXT, format=TEXT)),
        "right": BOOLEAN,
        "waiting": TEXTS,
        "by_hand": TEXTS,
        "diff": TEXT,
        "commands": TEXTS,
    },
    "template": {
        "path": PATH,
        "format": of_type(ImageFormat),
        "virtual_size": SIZE,
        "copies": SIZE,
        "saved_bytes": INTERVAL_OF_BYTES,
        "exactness": of_type(Exactness),
        "why": TEXT,
    },
    "copy": {
        "path": PATH,
        "format": of_type(ImageFormat),
        "template": PATH,
        "similarity": INTERVAL_OF_SHARE,
        "saved_bytes": INTERVAL_OF_BYTES,
        "exactness": of_type(Exactness),
        "allocated_bytes": SIZE,
        "shared_bytes": SIZE,
        "snapshots": SIZE,
        "bitmaps": SIZE,
        "other_template": or_null(PATH),
        "other_similarity": or_null(INTERVAL_OF_SHARE),
    },
    "left_out": {"path": TEXT, "cause": values(Cause), "reason": TEXT, "template": or_null(PATH)},
    "discovery": {
        **dict.fromkeys(("images", "ignored", "reads", "read_bytes"), SIZE),
        "can_share": BOOLEAN,
    },
    "manifest": {"path": PATH, "template": PATH, "guests": TEXTS},
    "fact": {"subject": TEXT, "name": TEXT, "value": TEXT, "ability": values(Ability), "effect": TEXT},
    "schema": {"name": TEXT, "schema": {"type": "object"}},
    "error": {"message": TEXT, "remedy": TEXT, "exit_code": CODE},
}
"""The fields of each event, besides ``event`` and ``time``, which all have."""

EVENTS_SCHEMA: Schema = NAMED | {
    "title": f"batchdiff events, version {EVENTS_VERSION}",
    "description": "One line of the output of any verb with --json. Readers ignore events and fields that they do"
    " not know. All sizes are in bytes. docs/scripting.md explains every field.",
    "oneOf": [refer_to(f"{name}_event") for name in EVENTS],
    "$defs": DEFINITIONS
    | {"report": REPORT_BODY}
    | {f"{name}_event": of(event={"const": name}, time=TIME, **fields) for name, fields in EVENTS.items()},
}
TEXTS_OF_FILES = {
    REPORT_FILE: json.dumps(REPORT, indent=2) + "\n",
    EVENTS_FILE: json.dumps(EVENTS_SCHEMA, indent=2) + "\n",
}

if __name__ == "__main__":
    for file, text in TEXTS_OF_FILES.items():
        file.write_text(text, encoding="ascii")

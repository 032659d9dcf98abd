"""What is true of the events of every command: they are as the schema has them, and begin and end as promised."""

from __future__ import annotations

import copy
import functools
import json

import jsonschema

from batchdiff.plan.json_schema import schema_of

COMMON = {"version", "progress", "summary"}
"""The events about a command as a whole."""


@functools.cache
def _validator(event: str) -> jsonschema.Draft202012Validator:
    """Of one event, which may have no field that the schema does not list."""
    whole = schema_of("events")
    strict = copy.deepcopy(whole["$defs"][f"{event}_event"]) | {"additionalProperties": False}
    return jsonschema.Draft202012Validator(strict | {"$defs": whole["$defs"]})


def check_events(text: str, code: int | None = None) -> list[dict]:
    """Check the events that a command printed, and return them. ``code``: its exit code; None if it was killed."""
    found = [json.loads(line) for line in text.splitlines()]
    for event in found:
        problems = [
            f"{problem.json_path}: {problem.message}" for problem in _validator(event["event"]).iter_errors(event)
        ]
        assert not problems, (event, problems)
    if not found:  # the command line is wrong
        return found
    assert found[0]["event"] == "version"
    assert [event["event"] for event in found].count("version") == 1
    if code is not None and code >= 0:
        assert found[-1]["event"] == "summary"
        assert found[-1]["exit_code"] == code
        assert found[-1]["verb"] == found[0]["verb"]
    check_progress([event for event in found if event["event"] == "progress"], code)
    return found


def check_progress(found: list[dict], code: int | None = 0) -> None:
    """Check that progress only grows, and that it is all done at the end of a command that was not cut short."""
    done = [event["bytes_done"] for event in found]
    assert done == sorted(done)
    totals = [event["bytes_total"] for event in found]
    assert totals == sorted(totals)
    for event in found:
        opening = event["step"] == "open"  # nothing is known of the bytes yet
        assert opening == (event["openings_total"] is not None)
        assert event["bytes_done"] <= event["bytes_total"]
        is_all = event["bytes_done"] == event["bytes_total"] and not opening
        assert (event["percent_done"] == 100) == is_all
        if event["guest"] is not None:
            assert event["guest_bytes_done"] <= event["guest_bytes_total"] <= event["bytes_total"]
    if found and code == 0:
        assert len(found) >= 2
        assert done[-1] == totals[-1]
        assert found[-1]["seconds_remaining"] == 0

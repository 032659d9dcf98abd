"""Recognition of batchdiff's own documents by their first bytes.

::

    {"format_version": ..., "generator": ...         a plan
    {"format_version": ..., "template": ...          a template's sidecar
    {"report_version": ...                           output of show --format json
    {"time": ..., "step": ...                        a journal
    {"event": ...                                    output of a command with --json
    {"event": ... "verb": "estimate" ...             output of estimate with --json: an estimate
    {"estimate_version": ...                         the report of an estimate
    Estimate for ...                                 the same report as text
"""

from __future__ import annotations

import enum
import re


class Document(enum.StrEnum):
    """Kinds of documents, as named in messages."""

    PLAN = "a plan"
    SIDECAR = "the sidecar of a template"
    REPORT = "a savings report as JSON"
    JOURNAL = "the journal of a plan"
    EVENTS = "the output of a command with --json"
    ESTIMATE = "an estimate of savings"


LARGEST_DOCUMENT = 1 << 30
"""In bytes. A plan of 1,000 guests with 10,000 extents each takes 130 MiB."""

_FIRST_KEY = re.compile(rb'(?:\xef\xbb\xbf)?\s*\{\s*"(\w+)"\s*:')
_BY_FIRST_KEY = {
    b"report_version": Document.REPORT,
    b"time": Document.JOURNAL,
    b"event": Document.EVENTS,
    b"estimate_version": Document.ESTIMATE,
}
ESTIMATE_HEADING = b"Estimate for "

_VERSIONED = b"format_version"


def own_document(head: bytes) -> Document | None:
    """Return the kind of a document; None if it is not batchdiff's own."""
    if head.startswith(ESTIMATE_HEADING):
        return Document.ESTIMATE
    found = _FIRST_KEY.match(head)
    if found is None:
        return None
    if found[1] == b"event" and b'"verb": "estimate"' in head:
        return Document.ESTIMATE
    if found[1] == _VERSIONED:
        return Document.PLAN if b'"generator"' in head else Document.SIDECAR
    return _BY_FIRST_KEY.get(found[1])

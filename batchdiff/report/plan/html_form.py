"""A plan as one HTML file that needs no network.

::

    facts -> words, pictures -> page/plan.html, with page/page.css and page/page.js inside it

Text from outside is escaped; a browser runs only the script whose digest the page names.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from batchdiff.applying.journal.records import Fate
from batchdiff.applying.results.conversion import Conversion
from batchdiff.choices import Strategy, Verdict
from batchdiff.errors import PlanError
from batchdiff.image.storage.exactness import Exactness
from batchdiff.plan.plan import Diff, GuestPlan, Savings
from batchdiff.plan.recognise import plan_again
from batchdiff.report.facts import PlanFacts, figures_of, share
from batchdiff.report.figures import percent, size
from batchdiff.report.plan import words
from batchdiff.report.plan.change_map import BINS, ChangeMap, change_map
from batchdiff.report.plan.outliers import outliers_first
from batchdiff.report.plan.pictures import MapPath, SizeBar, crowd_paths, map_paths, size_bars
from batchdiff.report.plan.rows import columns, guest_cells, now, rows, total_cells
from batchdiff.report.plan.strategies import STRATEGIES, strategy_rows
from batchdiff.report.printable import printable
from batchdiff.units import format_size


class GuestView(NamedTuple):
    """A guest as the page shows it.

    The fields from ``allocated`` to ``cluster`` are for sorting. They are in bytes, but ``share`` is a percentage,
    and 0 for a loss. A value that is missing or unknown is -1, or None for ``saved``. ``cells``: the guest's row
    without its first and last cells.
    """

    number: int
    name: str
    verdict: str
    reason: str
    cells: Sequence[str]
    now: str
    allocated: int
    overlay: int
    actual: int
    saved: int | None
    share: float
    cluster: int
    path: str
    overlay_path: str
    disk: str
    width: float
    paths: Sequence[MapPath]
    described: str
    alike: str
    after: str
    bars: Sequence[SizeBar]


def plan_html(facts: PlanFacts) -> str:
    """Return the savings report of a plan as an HTML document.

    :raises PlanError: the extents of a guest to report are invalid.
    """
    page = Environment(
        loader=PackageLoader("batchdiff.report.plan", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    page.filters["size"] = format_size
    page.filters["code"] = _code
    script = page.loader.get_source(page, "page.js")[0] if page.loader else ""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return page.get_template("plan.html").render(_content(facts), script=script, script_digest=digest)


def _content(facts: PlanFacts) -> dict[str, Any]:
    plan = facts.plan
    scale = max((guest.image.virtual_size for guest in plan.guests if guest.image is not None), default=1)
    maps = {
        guest.name: _map(guest.name, guest.diff, scale, facts.path)
        for guest in facts.guests
        if guest.diff is not None
    }
    shown = enumerate(outliers_first(facts.guests))
    guests = [_view(number, guest, facts, maps.get(guest.name), scale) for number, guest in shown]
    return {
        "heading": words.heading(facts),
        "figures": list(words.main_figures(facts)),
        "stale": [printable(notice) for notice in facts.stale],
        "stale_warning": words.STALE,
        "attention_heading": words.ATTENTION,
        "attention": list(words.attention(facts)),
        "nothing": words.nothing_chosen(facts),
        "applied": facts.is_applied,
        "since": list(words.since(facts)),
        "below": [*words.how_saved(facts), *words.not_exact(facts)],
        "strategies_heading": STRATEGIES,
        "strategies": strategy_rows(facts),
        "next": list(words.next_steps(facts)),
        "commands": words.next_commands(facts),
        "guests": guests,
        "columns": [column.heading for column in columns(facts)[1:]],
        "shares": bool(facts.to_share),
        "total": total_cells(facts) if rows(facts) and len(guests) > 1 else (),
        "verdicts": [verdict.value for verdict in Verdict if verdict in {each.verdict for each in facts.guests}],
        "scale": format_size(scale),
        "bins": BINS,
        "crowd": crowd_paths(np.mean([each.data > 0 for each in maps.values()], axis=0)) if maps else [],
        "mapped": len(maps),
        "generator": printable(plan.generator),
        "checksum": plan.checksum,
    }


def _map(guest: str, diff: Diff, scale: int, path: str) -> ChangeMap:
    try:
        return change_map(diff, scale)
    except ValueError as error:
        why = f"guest {guest!r}: {error}"
        raise PlanError("cannot draw the plan", why=why, remedy=plan_again(path)) from error


def _view(number: int, guest: GuestPlan, facts: PlanFacts, changes: ChangeMap | None, scale: int) -> GuestView:
    diff, image, done = guest.diff, guest.image, facts.conversions.get(guest.name)
    savings, figures = diff.savings if diff else None, figures_of(guest)
    disk = image.virtual_size if image else 0
    is_known = figures is not None and figures.exactness is not Exactness.UNKNOWN
    part = share(figures.saved_bytes, figures.allocated_bytes) if figures and is_known else None
    overlay = figures.overlay_bytes if isinstance(figures, Savings) else -1
    return GuestView(
        number=number,
        name=printable(guest.name),
        verdict=guest.verdict.value,
        reason=printable(guest.reason),
        cells=guest_cells(facts, guest)[1:6],
        now=now(facts, guest) if facts.is_applied else guest.verdict.value,
        allocated=figures.allocated_bytes if figures else -1,
        overlay=overlay,
        actual=done.overlay_bytes if done else -1,
        saved=figures.saved_bytes if figures and is_known else None,
        share=-1 if part is None else round(max(100 * part, 0), 2),
        cluster=guest.options.cluster_size or -1,
        path=printable(guest.source.path),
        overlay_path=printable(guest.overlay_path) if guest.strategy is Strategy.OVERLAY else "",
        disk=format_size(disk) if image else "",
        width=round(BINS * disk / scale, 2),
        paths=map_paths(changes) if changes else (),
        described=_described(diff, disk) if diff and disk else "",
        alike=f"it has {percent(diff.similarity.share)} of the guest's data" if diff and diff.similarity else "",
        after=_after(diff, done) if diff and done else "",
        bars=size_bars(savings.overlay_bytes_by_cluster_size, guest.options.cluster_size) if savings else (),
    )


def _described(diff: Diff, disk: int) -> str:
    """Return the map in words, for those who cannot see it."""
    # The last unit may reach past the end of the disk.
    data, zeros = (min(runs.units * diff.unit / disk, 1) for runs in (diff.data, diff.zero))
    text = f"data differs in {percent(data)} of the disk"
    return f"{text}, and zeros cover data of the template in {percent(zeros)}" if zeros else text


def _after(diff: Diff, done: Conversion) -> str:
    predicted, on_disk = diff.savings.overlay_bytes, diff.savings.overlay_disk_bytes
    kept = "state of the original" if done.fate is Fate.UNKNOWN else "original"
    original = f"the {kept} is {done.fate}{f' as {printable(done.aside)}' if done.aside else ''}"
    taken = f"takes {size(done.overlay_disk_bytes)} on disk now ({format_size(on_disk)} predicted)"
    if done.overlay_disk_bytes is None:
        taken = "cannot be found or read now"
    length = f"{format_size(done.overlay_bytes)} long when written ({format_size(predicted)} predicted)"
    return f"{original}; the overlay was {length}, and {taken}"


def _code(text: str) -> Markup:
    parts = re.split(r"`([^`\n]+)`", text)
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if number % 2 else escape(part) for number, part in enumerate(parts)
    )

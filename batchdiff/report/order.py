"""The order and the selection of guests in a report (``show --sort``, ``--only``); pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from batchdiff.choices import Verdict
from batchdiff.plan.plan import GuestPlan, Savings
from batchdiff.report.facts import figures_of
from batchdiff.report.form import Order


def in_order(guests: Iterable[GuestPlan], order: Order) -> list[GuestPlan]:
    """Return the guests sorted; guests with equal keys keep their order.

    Unless sorted by name, guests without figures come last.
    For OVERLAY, a guest with the strategy ``share`` counts as 0 bytes.
    """
    if order is Order.NAME:
        return sorted(guests, key=lambda guest: _numbers_by_value(guest.name))
    return sorted(guests, key=lambda guest: _figure(guest, order), reverse=True)


def chosen(guests: Iterable[GuestPlan], only: Collection[Verdict]) -> list[GuestPlan]:
    """Return the guests whose verdict is in ``only``; all guests if ``only`` is empty."""
    return [guest for guest in guests if not only or guest.verdict in only]


def _numbers_by_value(name: str) -> list[tuple[int, int, str]]:
    """Return a key that sorts web2 before web10."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]


def _figure(guest: GuestPlan, order: Order) -> float:
    savings = figures_of(guest)
    if savings is None:
        return float("-inf")
    match order:
        case Order.SHARE:
            return savings.saved_bytes / savings.allocated_bytes if savings.allocated_bytes else 0.0
        case Order.ALLOCATED:
            return savings.allocated_bytes
        case Order.OVERLAY:
            return savings.overlay_bytes if isinstance(savings, Savings) else 0
        case _:
            return savings.saved_bytes

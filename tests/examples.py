"""How many examples hypothesis makes: few in ``make test``, many in ``make test-long``; never by the clock."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

_SLOW_TESTS_TOO: list[bool] = []


def configure(*, slow: bool) -> None:
    """Sets what holds for every test that does not say otherwise; ``slow``: whether the slow tests run."""
    _SLOW_TESTS_TOO[:] = [slow]
    # A deadline, and the check for slow data, read the wall clock: they would fail on a busy machine.
    settings.register_profile(
        "batchdiff",
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
        max_examples=examples(100, slow=500),
    )
    settings.load_profile("batchdiff")


def examples(few: int, *, slow: int) -> int:
    """The number of examples of an expensive test in this run."""
    return slow if any(_SLOW_TESTS_TOO) else few

"""``python -m bench.scan_time FILE ARGUMENTS``: run batchdiff, and write the seconds of its scan to FILE.

The scan starts when the images are opened for it and ends with the result of the last range. The rest of the time
goes to examining the guests before, and to savings, plan and report afterwards.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import NoReturn, ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def main() -> NoReturn:
    """Run batchdiff, and exit as it does."""
    path, *sys.argv[1:] = sys.argv[1:]
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as batchdiff does before it loads numpy
    from batchdiff.__main__ import main as batchdiff  # noqa: PLC0415
    from batchdiff.planning import planner, scan_all  # noqa: PLC0415

    vars(planner)["scan_guests"] = _clocked(scan_all.scan_guests, path)
    batchdiff()


def _clocked(work: Callable[Parameters, Result], path: str) -> Callable[Parameters, Result]:
    """Wrap a function so that it writes the seconds that it took into a file."""

    def clocked(*arguments: Parameters.args, **options: Parameters.kwargs) -> Result:
        begin = time.perf_counter()
        found = work(*arguments, **options)
        with open(path, "w", encoding="ascii") as file:
            file.write(repr(time.perf_counter() - begin))
        return found

    return clocked


if __name__ == "__main__":
    main()

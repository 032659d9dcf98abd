"""``python -m bench.start IMAGE... -- ARGUMENTS``: run batchdiff as a user starts it, until it opens an image.

An audit hook of Python reports each file that any module is about to open, so batchdiff itself is not changed.
"""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Exit with code 0 as soon as an image is opened, or as batchdiff does if it opens none."""
    divide = sys.argv.index("--")
    images = frozenset(sys.argv[1:divide])

    def watch(event: str, details: tuple[object, ...]) -> None:
        # O_PATH does not open a file for reading: it only identifies it.
        if event == "open" and details[0] in images and not int(str(details[2])) & os.O_PATH:
            os._exit(0)

    sys.addaudithook(watch)
    sys.argv[1:] = sys.argv[divide + 1 :]
    from batchdiff.__main__ import main as batchdiff  # noqa: PLC0415  # as late as it is otherwise

    batchdiff()


if __name__ == "__main__":
    main()

"""``python -m batchdiff``."""

from __future__ import annotations

import os
import sys

_INTERRUPTED = 130


def main() -> None:
    """The installed command: runs a verb and exits with its code."""
    # numpy's linear algebra, never used here, would start a thread for each CPU: a seventh of the time to load
    # numpy, and forking with threads is not safe.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        # Imported here: Ctrl-C while it loads is no reason for a traceback.
        from batchdiff.cli.main import run  # noqa: PLC0415

        sys.exit(run(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)


if __name__ == "__main__":
    main()

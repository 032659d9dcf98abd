"""``python -m bench FOLDER``: make each fleet, run all contestants on it in turn, and report the results."""

from __future__ import annotations

import argparse
import compileall
import datetime as dt
import os
import sys
import time

import batchdiff
from bench.content import SEED
from bench.contestants import JOBS
from bench.machine import Work, described, work
from bench.report import Report, to_json
from bench.studies import STUDIES, Study
from bench.tables import markdown

_QUICK_SMALLER = 16


def main() -> None:
    """Run the benchmark; the figures are written after each study, so an interrupted run has some."""
    arguments = _arguments()
    # Absolute, because QEMU resolves the name of a backing file relative to the overlay.
    folder = os.path.abspath(arguments.folder)
    os.makedirs(folder, exist_ok=True)
    # pip does this, too. If Python could not write bytecode, every run would compile all of batchdiff first.
    compileall.compile_dir(os.path.dirname(batchdiff.__file__), quiet=1)
    study = Study(folder, arguments.rounds, arguments.cold_rounds)
    start = work()
    if arguments.quick:
        study = Study(folder, 1, 1, smaller=_QUICK_SMALLER)
    for name in arguments.fleets:
        begin = time.monotonic()
        STUDIES[name](study)
        print(f"{name}: {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)
        with open(arguments.output, "w", encoding="ascii") as file:
            file.write(to_json(_report(study, start)))
    print(markdown(_report(study, start)))


def _report(study: Study, start: Work) -> Report:
    return Report(
        machine=described(),
        version=batchdiff.__version__,
        date=dt.datetime.now(dt.UTC).date().isoformat(),
        seed=SEED,
        jobs=JOBS,
        others=round(work().others_share_since(start), 3),
        races=tuple(study.races),
        facts=tuple(study.facts),
        points=tuple(study.points),
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("folder", help="the folder in which fleets are made and removed; 32 GiB of space")
    parser.add_argument(
        "--fleets", nargs="+", choices=list(STUDIES), default=list(STUDIES), help="only these (default: all)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds with a warm page cache (default: 5)")
    parser.add_argument("--cold-rounds", type=int, default=5, help="rounds with a cold one (default: 5)")
    parser.add_argument("--quick", action="store_true", help="one round on small images, as a test")
    parser.add_argument("--output", default="bench.json", help="the file for the figures (default: bench.json)")
    return parser.parse_args()


if __name__ == "__main__":
    main()

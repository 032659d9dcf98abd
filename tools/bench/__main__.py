"""``python -m bench FOLDER``: makes each fleet, lets all contestants run on it in turn, and tells their times."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
from contextlib import AbstractContextManager, nullcontext

from batchdiff import __version__
from batchdiff.units import format_size
from bench.contestants import CONTESTANTS, JOBS, Contestant, Run
from bench.fleets import MAKERS, SEED, Fleet

_PEERS_OF = {"sparse": ("plan",)}
"""Fleets on which the others would take hours."""


def main() -> None:
    """Runs the benchmark."""
    arguments = _arguments()
    os.makedirs(arguments.folder, exist_ok=True)
    results = []
    for name in arguments.fleets:
        folder = os.path.join(arguments.folder, name)
        shutil.rmtree(folder, ignore_errors=True)
        made = MAKERS[name](folder)
        with made if isinstance(made, AbstractContextManager) else nullcontext(made) as fleet:
            contestants = {key: CONTESTANTS[key] for key in _PEERS_OF.get(name, tuple(CONTESTANTS))}
            runs = _race(fleet, contestants, arguments.rounds)
        shutil.rmtree(folder)
        results.append({"fleet": name, "what": fleet.what, "runs": _figures(runs)})
        print(_table(fleet, runs), flush=True)
    report = {"machine": _machine(), "version": __version__, "seed": SEED, "jobs": JOBS, "results": results}
    with open(arguments.output, "w", encoding="ascii") as file:
        json.dump(report, file, indent=2)
    print(f"machine: {_machine()}\nresults: {arguments.output}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("folder", help="where the fleets are made and removed; 40 GiB of space")
    parser.add_argument("--fleets", nargs="+", choices=list(MAKERS), default=list(MAKERS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", default="bench.json", help="where the figures go")
    return parser.parse_args()


def _race(fleet: Fleet, contestants: dict[str, Contestant], rounds: int) -> dict[str, list[Run]]:
    """Runs of each contestant, round after round, after one round that warms the page cache and is not counted."""
    runs: dict[str, list[Run]] = {name: [] for name in contestants}
    for number in range(rounds + 1):
        for name, contestant in contestants.items():
            run = contestant(fleet)
            if number > 0:
                runs[name].append(run)
    return runs


def _figures(runs: dict[str, list[Run]]) -> dict[str, dict[str, object]]:
    return {
        name: {
            "seconds": [round(run.seconds, 4) for run in each],
            "median": round(_median(each), 4),
            "resident_bytes": max(run.resident for run in each),
        }
        for name, each in runs.items()
    }


def _median(runs: list[Run]) -> float:
    return statistics.median(run.seconds for run in runs)


def _table(fleet: Fleet, runs: dict[str, list[Run]]) -> str:
    ours = _median(runs["plan"])
    lines = [f"\n{fleet.what}", f"  {'':28}{'median':>9}{'least':>9}{'most':>9}{'/ plan':>9}{'memory':>12}"]
    for name, each in runs.items():
        seconds = [run.seconds for run in each]
        median = _median(each)
        memory = format_size(max(run.resident for run in each))
        lines.append(
            f"  {name:28}{median:8.2f}s{min(seconds):8.2f}s{max(seconds):8.2f}s{median / ours:8.2f}x{memory:>12}"
        )
    return "\n".join(lines)


def _machine() -> str:
    with open("/proc/cpuinfo", encoding="ascii") as file:
        model = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), "?")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    qemu = subprocess.run(["qemu-img", "--version"], capture_output=True, text=True, check=True).stdout.split()[2]
    cores = len(os.sched_getaffinity(0))
    python = platform.python_version()
    return f"{cores} x {model}, {format_size(memory)}, Linux {platform.release()}, Python {python}, QEMU {qemu}"


if __name__ == "__main__":
    main()

"""``python -m bench.plot bench.json FOLDER``: draw the growth of time and memory as scaling.svg."""

from __future__ import annotations

import os
import sys

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from batchdiff.units import MIB
from bench.contestants import REBASE
from bench.report import Point, Report, from_json
from bench.scaling import CHANGED, GUESTS, ONE_JOB, SIZE, TWO_JOBS

_AXES = {GUESTS: "guests of 256 MiB", SIZE: "GiB of the one guest", CHANGED: "% changed of 4 x 1 GiB"}
_COLOURS = {ONE_JOB: "#56b4e9", TWO_JOBS: "#0072b2", REBASE: "#d55e00"}
"""From Okabe and Ito's palette, whose colours colour-blind people can distinguish, too."""


def draw(report: Report, path: str) -> None:
    """Draw two rows of panels: seconds above, memory below. The same report always gives the same bytes."""
    mpl.use("svg")
    # A fixed salt and no date, so that the file changes only if the figures do; text stays text.
    mpl.rcParams.update({"svg.hashsalt": "batchdiff", "svg.fonttype": "none", "font.size": 9})
    figure = Figure(figsize=(10, 5.6), layout="constrained")
    panels = figure.subplots(2, len(_AXES))
    for column, (axis, label) in enumerate(_AXES.items()):
        points = [point for point in report.points if point.axis == axis]
        _draw_times(panels[0][column], points)
        _draw_memory(panels[1][column], points)
        panels[1][column].set_xlabel(label)
        for panel in (panels[0][column], panels[1][column]):
            _label_values(panel, axis, points)
    panels[0][0].set_ylabel("seconds")
    panels[1][0].set_ylabel("MiB resident")
    panels[0][0].legend(frameon=False)
    panels[1][0].legend(frameon=False)
    figure.suptitle(report.machine, fontsize=8)
    figure.savefig(path, metadata={"Date": None, "Creator": None})


def _draw_times(panel: Axes, points: list[Point]) -> None:
    for name, colour in _COLOURS.items():
        line = [point for point in points if point.contestant == name]
        panel.plot([p.value for p in line], [p.seconds for p in line], "o-", color=colour, label=name)
    panel.set_ylim(bottom=0)


def _draw_memory(panel: Axes, points: list[Point]) -> None:
    line = [point for point in points if point.contestant == TWO_JOBS]
    values = [point.value for point in line]
    colour = _COLOURS[TWO_JOBS]
    panel.plot(values, [p.worker_bytes / MIB for p in line], "o-", color=colour, label="a worker")
    panel.plot(values, [p.own_bytes / MIB for p in line], "s--", color=colour, label="the planner")
    panel.axhline(120, color="#999999", linewidth=0.8, linestyle=":")
    panel.set_ylim(bottom=0)


def _label_values(panel: Axes, axis: str, points: list[Point]) -> None:
    """Use a logarithmic axis, so that values that double are equally far apart; shares include a 0."""
    values = sorted({point.value for point in points})
    if axis == CHANGED:
        panel.set_xscale("symlog", linthresh=1)
        panel.set_xlim(left=-0.3)
    else:
        panel.set_xscale("log", base=2)
    panel.set_xticks(values, [f"{value:g}" for value in values])
    panel.minorticks_off()
    panel.spines[["top", "right"]].set_visible(False)


def main() -> None:
    """Draw the plot of a report."""
    source, folder = sys.argv[1:]
    with open(source, encoding="ascii") as file:
        draw(from_json(file.read()), os.path.join(folder, "scaling.svg"))


if __name__ == "__main__":
    main()

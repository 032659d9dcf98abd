"""The problems with a manifest, collected so that all are reported together."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from batchdiff.quoting import escape

YamlPath: TypeAlias = tuple[str | int, ...]
"""Such as ``("guests", 1, "overlay")``."""


class Problem(NamedTuple):
    """A problem with the value at ``where``; lines are counted from 1."""

    line: int
    where: YamlPath
    message: str


class Problems:
    """The problems and warnings found so far."""

    def __init__(self) -> None:
        self._found: dict[Problem, None] = {}
        self._alike: set[tuple[YamlPath, str]] = set()
        self._odd: dict[Problem, None] = {}
        self._objected: set[YamlPath] = set()
        self._touched: set[YamlPath] = set()
        self._lines: dict[YamlPath, int] = {}

    def locate(self, where: YamlPath, line: int) -> None:
        """Record the line of a value, unless one is recorded already."""
        self._lines.setdefault(where, line)

    def line(self, where: YamlPath) -> int:
        """Return the line of a value or, if unknown, of the nearest value around it; 1 if none is known."""
        for length in range(len(where), -1, -1):
            if where[:length] in self._lines:
                return self._lines[where[:length]]
        return 1

    def add(self, where: YamlPath, message: str, *, line: int | None = None, alike: str = "") -> None:
        """Add a problem; a repeated one counts only once.

        ``line``: None for the line of the value. ``alike``: the message without the file that it names; only the
        first of all problems with the same place and the same ``alike`` counts, unless ``alike`` is empty.
        """
        if alike and (where, alike) in self._alike:
            return
        self._alike.add((where, alike))
        self._found[Problem(line or self.line(where), where, message)] = None
        self._objected.add(where)
        self._touched.update(where[:length] for length in range(len(where) + 1))

    def warn(self, where: YamlPath, message: str) -> None:
        """Add a warning."""
        self._odd[Problem(self.line(where), where, message)] = None

    @property
    def warnings(self) -> tuple[str, ...]:
        """The texts of the warnings, each with its line."""
        return tuple(f"{each.line}: {_placed(each)}" for each in self._odd)

    def touches(self, where: YamlPath) -> bool:
        """Return True if a value, or anything inside it, has a problem."""
        return where in self._touched

    def objects_to(self, where: YamlPath) -> bool:
        """Return True if a value itself has a problem."""
        return where in self._objected

    def __len__(self) -> int:
        return len(self._found)

    def report(self, name: str) -> str:
        """Return the problems in the order of their lines, then the warnings, which may explain a problem."""
        ordered = sorted(self._found, key=lambda problem: problem.line)
        odd = [f"{name}:{each.line}: warning: {_placed(each)}" for each in self._odd]
        return "\n".join([*(sentence(name, problem) for problem in ordered), *odd])


def sentence(name: str, problem: Problem) -> str:
    """Return ``NAME:LINE: YAML.PATH: message``, with no path if the problem concerns the whole document."""
    return f"{name}:{problem.line}: {_placed(problem)}"


def _placed(problem: Problem) -> str:
    return ": ".join(part for part in (show_path(problem.where), problem.message) if part)


def show_path(where: YamlPath) -> str:
    """Return a path in the form ``guests[1].overlay.cluster_size``, with long keys shortened."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{escape(step)}" for step in where)
    return text.removeprefix(".")

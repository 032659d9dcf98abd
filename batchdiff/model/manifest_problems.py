"""What is wrong with a manifest, gathered until all of it can be told at once, each with its line."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable

YamlPath: TypeAlias = tuple[str | int, ...]
"""The way to a value: ``("guests", 1, "overlay")``."""

_LONGEST_SHOWN = 200


class Problem(NamedTuple):
    """One thing that is wrong: the line, the value's place in the document, and a sentence."""

    line: int
    where: YamlPath
    message: str


class Problems:
    """The problems found so far, and the line of every value of the document."""

    def __init__(self) -> None:
        self._found: dict[Problem, None] = {}
        self._odd: dict[Problem, None] = {}
        self._objected: set[YamlPath] = set()
        self._touched: set[YamlPath] = set()
        self._lines: dict[YamlPath, int] = {}

    def locate(self, where: YamlPath, line: int) -> None:
        """Notes the line of a value; the first word counts, so that a key's line wins over its value's."""
        self._lines.setdefault(where, line)

    def line(self, where: YamlPath) -> int:
        """The line of a value, or of the nearest value around it."""
        for length in range(len(where), -1, -1):
            if where[:length] in self._lines:
                return self._lines[where[:length]]
        return 1

    def add(self, where: YamlPath, message: str, *, line: int | None = None) -> None:
        """Adds a problem; the same one twice (a default that several guests share) counts once."""
        self._found[Problem(line or self.line(where), where, message)] = None
        self._objected.add(where)
        self._touched.update(where[:length] for length in range(len(where) + 1))

    def warn(self, where: YamlPath, message: str) -> None:
        """Adds what is odd and no problem: it is shown with the problems, and counts as none."""
        self._odd[Problem(self.line(where), where, message)] = None

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is odd, as ``LINE: YAML.PATH: message``."""
        return tuple(f"{each.line}: {_placed(each)}" for each in self._odd)

    def touches(self, where: YamlPath) -> bool:
        """Whether there is a problem with a value or anything inside it."""
        return where in self._touched

    def objects_to(self, where: YamlPath) -> bool:
        """Whether there is a problem with a value itself, not only with something inside it."""
        return where in self._objected

    def __len__(self) -> int:
        return len(self._found)

    def report(self, name: str) -> str:
        """``NAME:LINE: YAML.PATH: message``, a line for each problem, in the order of the file.

        What is odd follows: it may be why something else is wrong.
        """
        ordered = sorted(self._found, key=lambda problem: problem.line)
        odd = [f"{name}:{each.line}: warning: {_placed(each)}" for each in self._odd]
        return "\n".join([*(sentence(name, problem) for problem in ordered), *odd])


def sentence(name: str, problem: Problem) -> str:
    """One problem as a line: ``NAME:LINE: YAML.PATH: message``."""
    return f"{name}:{problem.line}: {_placed(problem)}"


def _placed(problem: Problem) -> str:
    return ": ".join(part for part in (show_path(problem.where), problem.message) if part)


def show_path(where: YamlPath) -> str:
    """``guests[1].overlay.cluster_size``; keys that would break the line are escaped."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{_bare(step)}" for step in where)
    return text.removeprefix(".")


def show(text: str) -> str:
    """Text in quotes for a message: on one line, nothing unprintable, cut where it is very long."""
    return f'"{_bare(text)}"'


def _bare(text: str) -> str:
    if len(text) > _LONGEST_SHOWN:
        text = text[: _LONGEST_SHOWN - 3] + "..."
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def suggestion(wrong: str, known: Iterable[str]) -> str:
    """``; did you mean "x"?`` where something known is near, else nothing."""
    from difflib import get_close_matches  # noqa: PLC0415  # only where something is wrong

    near = get_close_matches(wrong, list(known), n=1)
    return f"; did you mean {show(near[0])}?" if near else ""

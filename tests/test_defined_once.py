"""Sentences and numbers that have a meaning of their own stand in one module; others import them.

::

    AGAIN = "then run the same command again."     in two modules: one of them will be reworded some day
    _FLAG = 0x200                                  in two modules: the same name and number are the same thing
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1] / "batchdiff"
LONG = 25
"""Letters of a text that two modules would hardly have by chance."""

MODULES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in sorted(ROOT.rglob("*.py"))}

TWICE = {
    "_HEAD = 4096": "each reader's own choice of how much shows the kind of a file",
}
"""Equal ones in several modules, each with the reason."""


def sentences(tree: ast.Module) -> Iterator[str]:
    """Yield whole texts of a module: no docstrings, and no parts of formatted ones."""
    apart = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    apart |= {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in apart:
            yield from [repr(node.value)] * (len(node.value) > LONG)


def numbers(tree: ast.Module) -> Iterator[str]:
    """Yield the constants of a module that are numbers other than 0 and 1, as ``NAME = 512``."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name, value = node.targets[0].id, ast.unparse(node.value)
            if name.isupper() and any(letter.isdigit() for letter in value) and value not in {"0", "1"}:
                yield f"{name} = {value}"


def twice(modules: dict[str, str]) -> dict[str, list[str]]:
    places: dict[str, list[str]] = defaultdict(list)
    for module, text in modules.items():
        tree = ast.parse(text)
        for found in {*sentences(tree), *numbers(tree)}:
            places[found].append(module)
    return {found: where for found, where in places.items() if len(where) > 1}


def test_each_stands_in_one_module():
    assert {found: where for found, where in twice(MODULES).items() if found not in TWICE} == {}


def test_every_exception_is_one():
    assert TWICE.keys() <= twice(MODULES).keys()


def test_those_that_stand_twice_are_found():
    text = '"""A docstring of more than 25 letters."""\nx = f"a formatted text of a module {x}"\nA = 512\nB = 1\n'
    sentence = "\nremedy('Run the same command again, please.')"
    assert twice({"a": text + sentence, "b": text + sentence, "c": "A = 513"}) == {
        "A = 512": ["a", "b"],
        "'Run the same command again, please.'": ["a", "b"],
    }

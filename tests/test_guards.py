"""Each module that decides something has tests that can be found: by their name, or by what their docstring names.

::

    batchdiff/linux/mounts.py       ->  tests/linux/test_mounts.py
    batchdiff/linux/fiemap.py       ->  tests/image/storage/test_allocation.py, "Guards linux/fiemap.py."
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FEW_BRANCHES = 5
"""A module with no more of them hardly decides anything; its callers' tests cover it."""


def branches(tree: ast.Module) -> int:
    """Return how many times a module chooses between two ways."""
    count = 0
    for node in ast.walk(tree):
        if isinstance(node, ast.comprehension):
            count += len(node.ifs)
        else:
            count += isinstance(
                node, ast.If | ast.IfExp | ast.For | ast.While | ast.Try | ast.BoolOp | ast.match_case
            )
    return count


def docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text())) or ""


def deciding() -> list[str]:
    return sorted(
        path.relative_to(ROOT / "batchdiff").as_posix()
        for path in (ROOT / "batchdiff").rglob("*.py")
        if branches(ast.parse(path.read_text())) > FEW_BRANCHES
    )


# Read by the tests that need them: each process of pytest-xdist imports this module.
@functools.cache
def by_test_module() -> dict[str, str]:
    """Return the docstrings of the test modules by their paths."""
    modules = (ROOT / "tests").rglob("test_*.py")
    return {path.relative_to(ROOT / "tests").as_posix(): docstring(path) for path in modules}


def names_of_tests(module: str) -> set[str]:
    """Return the paths that a module's own tests may have.

    The folder's name is added if another module has the same name; the tests of a verb are of its command.
    """
    folder, _, name = module.removesuffix(".py").rpartition("/")
    if folder == "cli/verbs":
        return {f"cli/test_{name}_command.py"}
    here = f"{folder}/" if folder else ""
    return {f"{here}test_{name}.py", f"{here}test_{folder.rpartition('/')[2]}_{name}.py"}


def guarded(tests: dict[str, str]) -> set[str]:
    """Return the modules that docstrings of tests name after the word "Guards"."""
    lists = [
        words
        for text in tests.values()
        for words in re.findall(r"^Guards ([^.]*\.py(?:[^.]*\.py)*)\.", text, re.M)
    ]
    return {module for words in lists for module in re.findall(r"[\w/]+\.py", words)}


def without_tests(modules: Iterable[str], tests: dict[str, str]) -> list[str]:
    named = guarded(tests)
    return [module for module in modules if module not in named and not names_of_tests(module) & tests.keys()]


def test_every_module_that_decides_has_tests():
    assert without_tests(deciding(), by_test_module()) == []


def test_every_module_that_a_test_guards_exists():
    assert [
        module for module in sorted(guarded(by_test_module())) if not (ROOT / "batchdiff" / module).exists()
    ] == []


@pytest.mark.parametrize(
    ("tests", "missing"),
    [
        ({}, ["linux/a.py"]),
        ({"linux/test_a.py": ""}, []),
        ({"linux/test_linux_a.py": ""}, []),
        ({"files/test_a.py": ""}, ["linux/a.py"]),
        ({"test_b.py": "Other.\n\nGuards linux/b.py,\nlinux/a.py."}, []),
        ({"test_b.py": "It is like linux/a.py."}, ["linux/a.py"]),
    ],
)
def test_a_module_without_tests_is_found(tests, missing):
    assert without_tests(["linux/a.py"], tests) == missing


def test_branches_are_counted():
    assert branches(ast.parse("if a and b:\n  x = [y for y in z if y]\nelse:\n  x = 1 if c else 2")) == 4

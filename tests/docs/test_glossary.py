"""docs/glossary.md has the words that the code is built from, and each of them has one definition."""

from __future__ import annotations

import ast
import functools
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GLOSSARY = (ROOT / "docs" / "glossary.md").read_text()
DEFINED_TWICE = {
    "exactly": "bytes that must be there, in headers; and a value that is known, beside intervals",
    "run": "the one function of each verb, of the command line and of programs; called by its module's name",
}
"""Names that several modules may define at top level, each with the reason."""


@functools.cache
def all_modules() -> dict[str, ast.Module]:
    """Return the syntax trees of the modules, which the tests of one process of pytest-xdist need."""
    return {
        path.relative_to(ROOT / "batchdiff").as_posix(): ast.parse(path.read_text())
        for path in sorted((ROOT / "batchdiff").rglob("*.py"))
    }


def entries(text: str) -> dict[str, str]:
    """Return words and meanings of all tables; a row may define several words."""
    rows = re.findall(r"^\| ([^|\n]+) \| ([^|\n]+) \|", text, re.MULTILINE)
    return {word.strip(): meaning for words, meaning in rows for word in words.lower().split(",")}


def definitions(tree: ast.Module) -> Iterator[str]:
    """Yield the public names that a module defines at top level."""
    for node in tree.body:
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.Assign(targets=targets):
                yield from (target.id for target in targets if isinstance(target, ast.Name))
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield name


def defined_twice(modules: dict[str, ast.Module]) -> dict[str, list[str]]:
    places = defaultdict(list)
    for module, tree in modules.items():
        for name in {name for name in definitions(tree) if not name.startswith("_")}:
            places[name].append(module)
    return {name: found for name, found in places.items() if len(found) > 1 and name not in DEFINED_TWICE}


def noun(word: str) -> set[str]:
    """The word as it is, and without the ending of a plural."""
    return {word, word.removesuffix("s"), word.removesuffix("es")}


def is_explained(name: str, words: Iterable[str]) -> bool:
    """Return True if a class has an entry: its whole name, or its last word, which is the noun."""
    parts = [part.lower() for part in re.findall(r"[A-Z][a-z0-9]+|[A-Z]+(?=[A-Z]|$)", name)]
    known = {form for word in words for form in noun(word.replace("-", " "))}
    return bool((noun(" ".join(parts)) | noun(parts[-1])) & known)


def classes() -> Iterator[tuple[str, str]]:
    for module, tree in all_modules().items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                yield module, node.name


def test_every_class_is_named_by_a_word_of_the_glossary():
    words = entries(GLOSSARY) | {"error": "errors.py"}
    assert [f"{module}: {name}" for module, name in classes() if not is_explained(name, words)] == []


def test_every_word_of_the_code_is_used_there():
    section = GLOSSARY.split("\n## Words of the code\n")[1]
    names = {part.lower() for _, name in classes() for part in re.findall(r"[A-Z][a-z0-9]+", name)}
    names |= {part for module in all_modules() for part in re.findall(r"[a-z0-9]+", module)}
    known = {form for name in names for form in noun(name)}
    unused = [word for word in entries(section) if not all(noun(part) & known for part in re.split("[ -]", word))]
    assert [word for word in unused if word not in {"word"}] == []


def test_no_word_has_two_entries():
    words = re.findall(r"^\| ([^|\n]+) \|", GLOSSARY, re.MULTILINE)
    single = [word.strip() for row in words for word in row.split(",") if word.strip() not in {"word", "kind"}]
    assert sorted({word for word in single if single.count(word) > 1}) == []


def test_no_name_has_two_definitions():
    assert defined_twice(all_modules()) == {}


def test_every_name_that_may_be_defined_twice_is():
    places = [name for tree in all_modules().values() for name in set(definitions(tree))]
    assert [name for name in DEFINED_TWICE if places.count(name) < 2] == []


@pytest.mark.parametrize("text", ["def scan(): ...", "class scan: ...", "scan = 1", "scan: int = 1"])
def test_two_definitions_are_found(text):
    assert defined_twice({"a": ast.parse(text), "b": ast.parse("scan = 2"), "c": ast.parse("_x = 1")}) == {
        "scan": ["a", "b"]
    }


@pytest.mark.parametrize(
    ("name", "explained"),
    [("RangeDigest", True), ("CopyUp", True), ("Losses", True), ("Way", False), ("DigestWay", False)],
)
def test_a_class_without_a_word_is_found(name, explained):
    assert is_explained(name, ["digest", "copy-up", "loss"]) is explained

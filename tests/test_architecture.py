"""The rules of docs/architecture.md, kept by parsing every module.

A rule is a function from a module to what breaks it, a line each; ``BAD`` shows that no rule is blind.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

import pytest

import batchdiff

ROOT = Path(batchdiff.__file__).parent

ROOMS = {
    "errors": 0,
    "units": 0,
    "signals": 0,
    "extents": 0,
    "qcow2": 1,
    "image": 2,
    "model": 3,
    "planning": 4,
    "applying": 4,
    "report": 5,
    "cli": 6,
    "__main__": 7,
}
"""From the ground up; imports point down, or stay in their room."""

PURE = (
    "extents.py",
    "units.py",
    "qcow2/*.py",
    "planning/compare.py",
    "planning/savings.py",
    "model/totals.py",
    "model/known_states.py",
    "applying/steps.py",
    "applying/notes.py",
    "applying/standings.py",
    "report/*.py",
)
IMPURE_IMPORTS = {"os", "subprocess", "multiprocessing", "shutil", "socket", "threading"}
PURE_EXCEPTIONS = {"qcow2/compression.py": {"threading"}}
"""zstd's compressors are no good for two threads at once, so each thread has its own."""

STARTS_PROGRAMS = "image/programs.py"
STARTS_ITSELF_ANEW = "__main__.py"
"""In another mode of Python's, before anything else is done."""
KNOWS_PROCESSES = "planning/pool.py"

CHANGES_NAMES = {
    "model/plan_file.py": {"os.rename", "os.unlink"},  # its own temporary file, and the plan
    "applying/renaming.py": {"os.link", "os.unlink"},  # the one rename that never replaces
    "applying/retire.py": {"os.unlink"},  # an original
    "applying/places.py": {"os.unlink"},  # its own temporary file
    "applying/journal.py": {"os.rename"},  # its own file
    "applying/kept_plan.py": {"os.link", "os.unlink"},  # a plan and its journal, which get other names
    "model/whole_file.py": {"os.rename", "os.unlink"},  # its own temporary file, and what it replaces
    "planning/checkpoint_file.py": {"os.unlink"},  # its own file
}
NAME_CHANGERS = {"unlink", "remove", "rename", "renames", "replace", "rmdir", "removedirs", "link", "symlink"}
HARMLESS_SHUTIL = {"shutil.which", "shutil.get_terminal_size"}
"""They only ask; all else in shutil is refused everywhere."""

RENAMERS = {"applying/retire.py"}
"""Who may call rename_without_replacing."""

LONGEST_MODULE = 300
LONGEST_FUNCTION = 50


class Module(NamedTuple):
    name: str
    text: str

    @property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.name)

    @property
    def room(self) -> str:
        return self.name.split("/", 1)[0].removesuffix(".py")


MODULES = [Module(path.relative_to(ROOT).as_posix(), path.read_text()) for path in sorted(ROOT.rglob("*.py"))]


def imports(module: Module) -> Iterator[tuple[int, str]]:
    """Line and full name of everything imported, ``from os import unlink`` as ``os.unlink``."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module.name}:{node.lineno}: relative imports hide the room"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def references(module: Module) -> Iterator[tuple[int, str]]:
    """Line and name of everything that is used, attributes with dots: ``os.unlink``, ``print``."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Name | ast.Attribute):
            yield node.lineno, ast.unparse(node)


def is_one_of(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def imports_point_down(module: Module) -> Iterator[str]:
    if module.name == "__init__.py":
        yield from (f"{line}: it must import nothing, not {name}" for line, name in imports(module))
        return
    for line, name in imports(module):
        package, _, rest = name.partition(".")
        room = rest.split(".", 1)[0]
        if package != "batchdiff" or room in {module.room, "__version__"}:
            continue
        if room not in ROOMS:
            yield f"{line}: {name} is in no room"
        elif ROOMS[module.room] <= ROOMS[room]:
            yield f"{line}: {module.room} imports {name}"


def is_imported_statically(module: Module) -> Iterator[str]:
    """Only the command line looks a module up by name: its verbs."""
    if module.name != "cli/main.py":
        for line, name in references(module):
            if name in {"importlib.import_module", "__import__"}:
                yield f"{line}: {name}"


def is_pure(module: Module) -> Iterator[str]:
    if is_one_of(module.name, PURE):
        forbidden = IMPURE_IMPORTS - PURE_EXCEPTIONS.get(module.name, set())
        for line, name in imports(module):
            if name.split(".")[0] in forbidden:
                yield f"{line}: a pure module imports {name}"


def starts_no_program(module: Module) -> Iterator[str]:
    if module.name != STARTS_PROGRAMS:
        yield from _named(imports(module), ("subprocess", "subprocess.*", "pty", "pty.*"))
        used = [each for each in references(module) if (module.name, each[1]) != (STARTS_ITSELF_ANEW, "os.execv")]
        yield from _named(used, ("os.system", "os.popen", "os.exec*", "os.spawn*", "os.posix_spawn*"))


def starts_no_process(module: Module) -> Iterator[str]:
    if module.name != KNOWS_PROCESSES:
        forbidden = ("multiprocessing", "multiprocessing.*", "*.ProcessPoolExecutor")
        yield from _named(imports(module), forbidden)
        yield from _named(references(module), ("os.fork*", "*.ProcessPoolExecutor"))


def changes_no_names(module: Module) -> Iterator[str]:
    allowed = CHANGES_NAMES.get(module.name, set())
    for line, name in imports(module):
        if name.split(".")[0] in {"os", "shutil"} and "." in name:
            yield f"{line}: {name}; call it by its full name, so that this test sees it"
    for line, name in references(module):
        owner, _, what = name.rpartition(".")
        if owner == "shutil" and name not in HARMLESS_SHUTIL:
            yield f"{line}: {name}"
        # Of strings and dataclasses `replace` is harmless, so only os's counts.
        changes = what in NAME_CHANGERS if owner == "os" else owner and what in NAME_CHANGERS - {"replace"}
        if changes and name not in allowed:
            yield f"{line}: {name}"


def renames_nothing(module: Module) -> Iterator[str]:
    if module.name not in RENAMERS:
        yield from _named(references(module), ("rename_without_replacing", "*.rename_without_replacing"))


def is_silent(module: Module) -> Iterator[str]:
    if module.room not in {"cli", "__main__"}:
        forbidden = ("print", "input", "exit", "sys.exit", "sys.argv", "sys.std*", "traceback.print*")
        yield from _named(references(module), forbidden)
        yield from _named(imports(module), ("sys.*",))


def is_short(module: Module) -> Iterator[str]:
    lines = module.text.count("\n")
    if lines > LONGEST_MODULE:
        yield f"1: {lines} lines, more than {LONGEST_MODULE}"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            if length > LONGEST_FUNCTION:
                yield f"{node.lineno}: {node.name} has {length} lines, more than {LONGEST_FUNCTION}"


def knows_old_pythons(module: Module) -> Iterator[str]:
    """Possessive quantifiers and atomic groups find nothing in Python 3.11.2, which Debian 12 has (gh-106052)."""
    if all(name != "re" for _, name in imports(module)):
        return
    for node in ast.walk(module.tree):
        text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
        if re.search(r"[*+?]\+|[0-9,]\}\+|\(\?>", text):
            yield f"{node.lineno}: a possessive quantifier or an atomic group"


def _named(found: Iterator[tuple[int, str]], patterns: tuple[str, ...]) -> Iterator[str]:
    yield from (f"{line}: {name}" for line, name in found if is_one_of(name, patterns))


Rule = Callable[[Module], Iterator[str]]

RULES: tuple[Rule, ...] = (
    imports_point_down,
    is_imported_statically,
    is_pure,
    starts_no_program,
    starts_no_process,
    changes_no_names,
    renames_nothing,
    is_silent,
    is_short,
    knows_old_pythons,
)

BAD = [
    (imports_point_down, "planning/scan.py", "from batchdiff.applying import retire"),
    (imports_point_down, "applying/retire.py", "from batchdiff.planning.scan import RANGE"),
    (imports_point_down, "model/plan.py", "import batchdiff.report.text"),
    (imports_point_down, "qcow2/header.py", "if TYPE_CHECKING:\n    from batchdiff.image.image import Image"),
    (imports_point_down, "units.py", "from batchdiff.extents import Kind"),
    (imports_point_down, "image/raw.py", "from batchdiff.newroom import thing"),
    (is_imported_statically, "image/raw.py", "importlib.import_module('batchdiff.cli')"),
    (is_pure, "report/html.py", "import os"),
    (is_pure, "planning/savings.py", "from os import path"),
    (is_pure, "qcow2/tables.py", "import threading"),
    (starts_no_program, "image/qemu_img.py", "import subprocess"),
    (starts_no_program, "cli/main.py", "os.system('true')"),
    (starts_no_process, "planning/planner.py", "from concurrent.futures import ProcessPoolExecutor"),
    (starts_no_process, "applying/storing.py", "import multiprocessing.pool"),
    (changes_no_names, "applying/executor.py", "os.unlink(path)"),
    (changes_no_names, "applying/retire.py", "os.replace(a, b)"),
    (changes_no_names, "applying/overlay.py", "from os import rename"),
    (changes_no_names, "cli/show.py", "Path(name).unlink()"),
    (changes_no_names, "image/programs.py", "shutil.rmtree(path)"),
    (renames_nothing, "applying/overlay.py", "rename_without_replacing(a, b)"),
    (is_silent, "planning/pool.py", "print('hello')"),
    (is_silent, "report/text.py", "sys.stdout.write(text)"),
    (is_short, "units.py", "x = 1\n" * 301),
    (is_short, "units.py", "def f():\n" + "    x = 1\n" * 50),
    (knows_old_pythons, "units.py", "import re\nx = r'[ab]*+'"),
    (knows_old_pythons, "units.py", "import re\nx = rf'(?:{x},)*+{x}'"),
    (knows_old_pythons, "units.py", "import re\nx = r'(?>ab)'"),
    (knows_old_pythons, "units.py", "import re\nx = r'[0-9]{1,18}+'"),
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_every_module_keeps_the_rule(rule: Rule):
    assert [f"batchdiff/{module.name}:{found}" for module in MODULES for found in rule(module)] == []


@pytest.mark.parametrize(("rule", "name", "text"), BAD)
def test_no_rule_is_blind(rule: Rule, name: str, text: str):
    assert list(rule(Module(name, text)))


def test_the_names_in_the_rules_exist():
    names = {module.name for module in MODULES}
    written = {*CHANGES_NAMES, *RENAMERS, *PURE_EXCEPTIONS, STARTS_PROGRAMS, KNOWS_PROCESSES}
    assert written <= names
    for pattern in PURE:
        assert any(fnmatch(name, pattern) for name in names), pattern
    assert {module.room for module in MODULES} - {"__init__"} == set(ROOMS)

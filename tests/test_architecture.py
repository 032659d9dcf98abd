"""The rules of docs/architecture.md, kept by parsing every module.

A rule is a function from a module to what breaks it, a line each; ``BAD`` shows that no rule is blind.
"""

from __future__ import annotations

import ast
import functools
import re
from collections import Counter
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

import pytest

import batchdiff

ROOT = Path(batchdiff.__file__).parent

ROOMS = {
    "errors": "The failures that batchdiff expects, with their exit codes.",
    "frozen": "A decorator for value classes: frozen dataclasses with slots, defined quickly.",
    "units": "Arithmetic on sizes, and the text of sizes and of lists of names.",
    "extents": "Run-length extents over units of an image, and their algebra.",
    "progress": "The progress of a command, in bytes: the total, the part that is done, and the pace.",
    "signals": "Signals: their names, for reports of a process's death, and code that they must not interrupt.",
    "quoting": "Words from users and files, quoted for messages and YAML, and suggestions of similar known words.",
    "choices": "The choices that an operator makes in manifests and on the command line, and a plan's verdicts.",
    "image_source": "The path, declared format, chain and secret of an image: all that a worker needs to open it.",
    "sampling": "Samples of images: which parts to read, and how far an estimate can be from the truth; pure.",
    "files": "Files and their names: identity, fingerprints, durable writing.",
    "linux": "Linux facilities beyond POSIX: extents, mounts, block devices, causes of failures.",
    "managers": "The folders and names that VM managers use for images: Proxmox VE, oVirt, Nova; pure.",
    "qcow2": "The qcow2 format, without any I/O: header, table entries, layout, compression.",
    "foreign": "Formats besides raw and qcow2: headers, inspected before QEMU opens a file, and new QED files.",
    "qemu": "Start programs: qemu-img and qemu-nbd, confined by Landlock, and virsh, unconfined.",
    "image/backing": "The files that images name: backing files, extents and data files.",
    "image": "Images with their backing chains, in every supported format; nothing here writes to them.",
    "image/in_use": "Find the other users of an image, and hold it while batchdiff works with it.",
    "image/storage": "The space that images take on disk: allocation, shared and preallocated blocks.",
    "throttle": "Leave resources for other programs during a scan: rate limit, page cache, priority.",
    "plan": "The diff plan and the sidecar as data, and the code that reads and writes them.",
    "manifest/text": "A manifest as text: its bytes, the line of each value, and every problem found in it.",
    "manifest": "The manifest: read, checked, and resolved to the images that it names.",
    "dependents": "Find the images that depend on a file.",
    "planning/scan": "Compare one range of all images, in worker processes.",
    "planning/remote": "Scan on several hosts that mount the same storage, by the workers of a Dask scheduler.",
    "planning/checkpoint": "The results of an unfinished scan, kept so that it can be resumed.",
    "planning/sizes": "The size of an overlay, in its file and on disk, and the space that it saves.",
    "planning": "The half that only reads: it compares guests with their template and makes the plan.",
    "discovery": "Find templates and their copies, by samples that are equal at the same offsets.",
    "estimation": "The savings of a fleet, estimated from samples of its guests.",
    "applying/journal": "The journal of a plan, and older plans that are kept so that they can be undone.",
    "applying/results": "The results of verbs, as data for reports.",
    "applying/guests": "The state of a guest: its files, their names, and the next action.",
    "applying/writer": "Write new images: overlays, and standalone images in any format.",
    "applying/sharing": "Share equal blocks of a guest with the template, in place.",
    "applying/session": "The context of one command: held images, the journal, a request to stop.",
    "applying/checks": "Checks of images and disk space.",
    "applying/template": "The template of overlays: its content, write protection and sidecar.",
    "applying/swap": "Put one file in the place of another, and retire the other.",
    "applying": "Carry out a plan: apply, restore, purge and verify, guest by guest.",
    "definitions": "VM definitions of libvirt and Proxmox VE, and what must change for a plan's guests.",
    "doctor": "Facts about a machine and its folders, and their meaning for batchdiff.",
    "report": "Plans and results as text, HTML, Markdown, CSV and JSON.",
    "report/plan": "The savings report of a plan, in each of its forms.",
    "report/estimate": "An estimate of savings as text or JSON.",
    "report/discovery": "What `batchdiff discover` has found, as text and as events.",
    "cli/logs": "The files that a command leaves for later readers: its log, a crash report, metrics.",
    "cli/options": "Options that only one verb has, and parsers of option values.",
    "cli/output": "stdout and stderr, the progress bar, and the fields of events.",
    "cli": "The command line: arguments, console, exit codes; no other package prints or exits.",
    "cli/new_plan": "The slow half of the verb plan, loaded once the manifest is known to be valid.",
    "cli/verbs": "One module for each verb of the command line, and one for a shell's completion.",
    "__main__": "The entry point of batchdiff.",
}
"""Each room and its purpose, from the ground up. Imports point to a room above in this list, or stay in theirs."""

NEVER_MEET = ("planning", "applying")
"""Two halves, with all the rooms inside them, that meet only at the plan's file."""

PURE = (
    "extents.py",
    "units.py",
    "sampling/*.py",
    "managers/*.py",
    "qcow2/*.py",
    "foreign/*.py",
    "planning/scan/compare.py",
    "image/backing/named_files.py",
    "planning/scan/spans.py",
    "planning/scan/range_kinds.py",
    "planning/checkpoint/records.py",
    "planning/checkpoint/resume.py",
    "planning/reuse_plan.py",
    "planning/sizes/geometry_choice.py",
    "planning/sizes/overlay_sizes.py",
    "plan/totals.py",
    "applying/guests/next_action.py",
    "applying/journal/records.py",
    "applying/guests/status.py",
    "definitions/xml_elements.py",
    "definitions/libvirt_domain.py",
    "definitions/proxmox_config.py",
    "discovery/copies.py",
    "discovery/exclusion.py",
    "discovery/grouping.py",
    "discovery/manifest_text.py",
    "discovery/sample_index.py",
    "discovery/sample_offsets.py",
    "discovery/sampled_image.py",
    "report/*.py",
    "report/plan/*.py",
    "report/estimate/*.py",
    "report/discovery/*.py",
)
IMPURE_IMPORTS = {"os", "subprocess", "multiprocessing", "shutil", "socket", "threading"}
PURE_EXCEPTIONS = {"qcow2/compression.py": {"threading"}}
"""zstd's compressors are no good for two threads at once, so each thread has its own."""

STARTS_PROGRAMS = {"qemu/programs.py", "qemu/background.py"}
STARTS_ITSELF_ANEW = "__main__.py"
"""In another mode of Python's, before anything else is done."""
KNOWS_PROCESSES = "planning/scan/workers.py"
KNOWS_DASK = "planning/remote"
"""A room, of which only the connection and what it imports are loaded late."""

CHANGES_NAMES = {
    "plan/file.py": {"os.unlink"},  # its own temporary file
    "linux/rename.py": {"os.link", "os.unlink"},  # the one rename that never replaces
    "applying/swap/retire.py": {"os.unlink"},  # an original
    "applying/guests/file_names.py": {"os.unlink"},  # its own temporary file
    "applying/journal/file.py": {"os.rename"},  # its own file
    "applying/journal/kept_plan.py": {"os.link", "os.unlink"},  # a plan and its journal, which get other names
    "cli/logs/crash_report.py": {"os.unlink"},  # its own file, written in part
    "definitions/saved.py": {"os.unlink"},  # its own file, written in part or of no use
    "files/atomic_write.py": {"os.rename", "os.unlink"},  # its own temporary file, and what it replaces
    "planning/checkpoint/file.py": {"os.unlink"},  # its own file
}
NAME_CHANGERS = {"unlink", "remove", "rename", "renames", "replace", "rmdir", "removedirs", "link", "symlink"}
HARMLESS_SHUTIL = {"shutil.which", "shutil.get_terminal_size"}
"""They only ask; all else in shutil is refused everywhere."""

RENAMERS = {"applying/swap/retire.py", "definitions/saved.py"}
"""Who may call rename_without_replacing."""

LONGEST_MODULE = 300
MOST_FILES = 16
"""In one folder."""

LONGEST_FUNCTION = 50


def room_of(name: str) -> str:
    """The innermost room of a module such as ``planning/scan/compare``; empty if it is in none."""
    while name and name not in ROOMS:
        name = name.rpartition("/")[0]
    return name


@functools.cache
def parsed(text: str, name: str) -> ast.Module:
    return ast.parse(text, name)


class Module(NamedTuple):
    name: str
    text: str

    @property
    def tree(self) -> ast.Module:
        return parsed(self.text, self.name)

    @property
    def room(self) -> str:
        return room_of(self.name.removesuffix(".py"))


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
    if module.name.endswith("__init__.py"):
        yield from (f"{line}: it must import nothing, not {name}" for line, name in imports(module))
        return
    floors = list(ROOMS)
    for line, name in imports(module):
        package, _, rest = name.partition(".")
        if package != "batchdiff" or rest == "__version__":
            continue
        room = room_of(rest.replace(".", "/"))
        halves = {room.split("/")[0], module.room.split("/")[0]}
        if not room:
            yield f"{line}: {name} is in no room"
        elif floors.index(module.room) < floors.index(room) or halves == set(NEVER_MEET):
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
    if module.name not in STARTS_PROGRAMS:
        yield from _named(imports(module), ("subprocess", "subprocess.*", "pty", "pty.*"))
        used = [each for each in references(module) if (module.name, each[1]) != (STARTS_ITSELF_ANEW, "os.execv")]
        yield from _named(used, ("os.system", "os.popen", "os.exec*", "os.spawn*", "os.posix_spawn*"))


def starts_no_process(module: Module) -> Iterator[str]:
    if module.name != KNOWS_PROCESSES:
        forbidden = ("multiprocessing", "multiprocessing.*", "*.ProcessPoolExecutor")
        yield from _named(imports(module), forbidden)
        yield from _named(references(module), ("os.fork*", "*.ProcessPoolExecutor"))


def knows_no_dask(module: Module) -> Iterator[str]:
    """Dask is an extra, has threads, and takes half a second to import: only scans on other hosts load it."""
    if module.room != KNOWS_DASK:
        yield from _named(imports(module), ("dask", "dask.*", "distributed", "distributed.*"))


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
    if module.room not in {"cli", "cli/output", "cli/new_plan", "cli/verbs", "__main__"}:
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
    knows_no_dask,
    changes_no_names,
    renames_nothing,
    is_silent,
    is_short,
    knows_old_pythons,
)

BAD = [
    (imports_point_down, "planning/scan/one_range.py", "from batchdiff.applying.swap import retire"),
    (imports_point_down, "applying/swap/retire.py", "from batchdiff.planning.scan.one_range import RANGE"),
    (imports_point_down, "plan/plan.py", "import batchdiff.report.plan.text"),
    (imports_point_down, "qcow2/header.py", "if TYPE_CHECKING:\n    from batchdiff.image.image import Image"),
    (imports_point_down, "units.py", "from batchdiff.extents import Kind"),
    (imports_point_down, "image/raw.py", "from batchdiff.newroom import thing"),
    (imports_point_down, "planning/scan/compare.py", "from batchdiff.planning import planner"),
    (imports_point_down, "applying/swap/swap.py", "from batchdiff.planning.scan.compare import WINDOW"),
    (imports_point_down, "applying/swap/__init__.py", "import os"),
    (is_imported_statically, "image/raw.py", "importlib.import_module('batchdiff.cli')"),
    (is_pure, "report/html.py", "import os"),
    (is_pure, "planning/sizes/overlay_sizes.py", "from os import path"),
    (is_pure, "qcow2/tables.py", "import threading"),
    (starts_no_program, "qemu/qemu_img.py", "import subprocess"),
    (starts_no_program, "cli/main.py", "os.system('true')"),
    (starts_no_process, "planning/planner.py", "from concurrent.futures import ProcessPoolExecutor"),
    (starts_no_process, "applying/writer/data_copy.py", "import multiprocessing.pool"),
    (knows_no_dask, "planning/scan_all.py", "from distributed import Client"),
    (knows_no_dask, "cli/new_plan/new_plan.py", "import dask.config"),
    (changes_no_names, "applying/apply.py", "os.unlink(path)"),
    (changes_no_names, "applying/swap/retire.py", "os.replace(a, b)"),
    (changes_no_names, "applying/writer/image_writer.py", "from os import rename"),
    (changes_no_names, "cli/verbs/show.py", "Path(name).unlink()"),
    (changes_no_names, "qemu/programs.py", "shutil.rmtree(path)"),
    (renames_nothing, "applying/writer/image_writer.py", "rename_without_replacing(a, b)"),
    (is_silent, "planning/scan/workers.py", "print('hello')"),
    (is_silent, "report/plan/text.py", "sys.stdout.write(text)"),
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


def test_every_room_says_its_purpose():
    """In the list above and in the room itself."""
    said = {
        module.name.removesuffix(".py").removesuffix("/__init__"): (ast.get_docstring(module.tree) or "").split(
            "\n"
        )[0]
        for module in MODULES
    }
    assert {room: said.get(room) for room in ROOMS} == ROOMS
    assert {module.room for module in MODULES} == {*ROOMS, ""}
    assert [module.name for module in MODULES if module.room == ""] == ["__init__.py"]


def test_no_folder_is_a_pile():
    folders = Counter(
        module.name.rpartition("/")[0] for module in MODULES if not module.name.endswith("__init__.py")
    )
    assert {folder: count for folder, count in folders.items() if count > MOST_FILES} == {}


def test_who_claims_to_be_pure_is_held_to_it():
    claims = {
        module.name
        for module in MODULES
        if re.search(r"\bpure\b", (ast.get_docstring(module.tree) or "").split("\n\n")[0].split(":")[-1].lower())
    }
    assert sorted(name for name in claims if not is_one_of(name, PURE)) == []


def test_every_allowance_is_used():
    by_name = {module.name: module for module in MODULES}
    unused = {
        name: allowed - {used for _, used in references(by_name[name])} for name, allowed in CHANGES_NAMES.items()
    }
    assert {name: left for name, left in unused.items() if left} == {}
    for name, allowed in PURE_EXCEPTIONS.items():
        assert allowed <= {imported.split(".")[0] for _, imported in imports(by_name[name])}, name
    for name in RENAMERS:
        assert "rename_without_replacing" in {used for _, used in references(by_name[name])}, name
    everywhere = {used for module in MODULES for _, used in references(module)}
    assert everywhere >= HARMLESS_SHUTIL


def test_the_names_in_the_rules_exist():
    names = {module.name for module in MODULES}
    written = {*CHANGES_NAMES, *RENAMERS, *PURE_EXCEPTIONS, *STARTS_PROGRAMS, KNOWS_PROCESSES}
    assert written <= names
    for pattern in PURE:
        assert any(fnmatch(name, pattern) for name in names), pattern

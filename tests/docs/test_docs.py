"""The documents are true where a program can tell: commands, options, codes, examples, links.

Conventions for fences: ``yaml`` is a whole manifest (``yaml fragment`` is not), ``json`` one document, ``jsonl``
one document a line; in ``console`` and ``sh`` every ``batchdiff`` command must parse, after ``$ `` in ``console``.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from manifest_texts import check_shape
from plans import guest_plan

from batchdiff import errors
from batchdiff.applying.journal.records import Step
from batchdiff.applying.results.finding import Finding, Health
from batchdiff.applying.results.outcome import GuestOutcome, Status
from batchdiff.applying.results.status_row import StatusRow
from batchdiff.cli.arguments import parser
from batchdiff.report.events import finding_event, guest_event, status_event

ROOT = Path(__file__).parents[2]
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
SCRIPTING = (ROOT / "docs" / "scripting.md").read_text()
KINDS = {
    "Tutorial": {"tour"},
    "How-to guides": {
        "adding-guests",
        "backups",
        "discover",
        "encrypted-images",
        "estimate",
        "in-place",
        "libvirt",
        "many-hosts",
        "many-vms",
        "monitoring",
        "moving",
        "new-template",
        "one-vm",
        "overlay-options",
        "proxmox",
        "recipes",
        "reflinks",
        "share",
        "security-labels",
        "undo",
    },
    "Reference": {"glossary", "manifest", "plan-format", "scripting"},
    "Explanation": {"architecture", "deep-chains", "packages", "performance", "safety", "small-savings"},
}
"""The pages of docs/, each of one kind, as docs/README.md lists them."""

EXPECTED = {"README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "docs/README.md"} | {
    f"docs/{name}.md" for names in KINDS.values() for name in names
}

MACHINE_PATHS = re.compile(r"(?<![\w.])/(?:home|root|tmp|work|Users|opt|build)(?:/|\b)")
"""Examples use /images and the like, and no folder of a developer."""


class Fence(NamedTuple):
    document: str
    line: int
    kind: str
    text: str


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def fences(path: Path) -> Iterator[Fence]:
    kind, start, lines = None, 0, []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip().startswith("```"):
            lines.append(line)
        elif kind is None:
            kind, start, lines = line.strip()[3:].strip(), number, []
        else:
            yield Fence(relative(path), start, kind, textwrap.dedent("\n".join(lines) + "\n"))
            kind = None
    assert kind is None, f"{path}:{start}: the fence is not closed"


FENCES = [fence for path in DOCUMENTS for fence in fences(path)]


def fenced(*kinds: str) -> list:
    found = [fence for fence in FENCES if fence.kind in kinds]
    return [pytest.param(fence, id=f"{fence.document}:{fence.line}") for fence in found]


def without_fences(text: str) -> str:
    return re.sub(r"^ *```.*?^ *```$", "", text, flags=re.DOTALL | re.MULTILINE)


def pairs(parts: list[str]) -> Iterator[tuple[str, str]]:
    """Yield each heading with its text, from a document that was split at its headings."""
    return zip(parts[1::2], parts[2::2], strict=True)


def sections() -> dict[str, str]:
    """Return the sections of scripting.md by their headings, without the marks."""
    parts = re.split(r"^## (.+)$", SCRIPTING, flags=re.MULTILINE)
    return {heading.replace("`", ""): text for heading, text in pairs(parts)}


def verbs() -> dict[str, argparse.ArgumentParser]:
    (found,) = (action for action in parser()._actions if isinstance(action, argparse._SubParsersAction))
    return dict(found.choices)


def common_options() -> set[str]:
    """Return the options of every verb."""
    return set.intersection(*({o for a in verb._actions for o in a.option_strings} for verb in verbs().values()))


def documented(words: str) -> set[str]:
    """Words in code spans: ``-o``, ``--output PLAN``, ``{text,json}``."""
    spans = re.findall(r"`([^`\n]+)`", words)
    return {word for span in spans for word in re.split(r"[\s,{}|=]+", span) if word}


LONGEST = {
    "CONTRIBUTING.md": 200,
    "docs/glossary.md": 390,
    "docs/manifest.md": 260,
    "CHANGELOG.md": 310,
    "docs/architecture.md": 240,
    "docs/scripting.md": 450,
    "docs/performance.md": 420,
    "docs/plan-format.md": 230,
    "docs/safety.md": 295,
}
"""Rows for words, figures and filesystems, sections for verbs and failures; every other page is short."""


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_is_there_and_one_page(name: str):
    lines = (ROOT / name).read_text().splitlines()
    assert 10 <= len(lines) <= LONGEST.get(name, 180)


@pytest.mark.parametrize("name", sorted(EXPECTED - {"docs/performance.md"}))
def test_percentages_are_written_as_reports_write_them(name: str):
    """The benchmark writes the tables of the page that is left out."""
    assert re.findall(r".*\d %.*", (ROOT / name).read_text()) == []


def test_every_page_is_listed_once_under_its_kind():
    text = (ROOT / "docs" / "README.md").read_text()
    assert [line for line in text.splitlines() if not re.match(r"#+ |- \[|$", line)] == []
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
    listed = {kind: re.findall(r"^- \[.+\]\((.+)\.md\): \w", pages, re.MULTILINE) for kind, pages in pairs(parts)}
    assert {kind: sorted(pages) for kind, pages in listed.items()} == {
        kind: sorted(pages) for kind, pages in KINDS.items()
    }
    assert {relative(path) for path in DOCUMENTS} == EXPECTED


@pytest.mark.parametrize("verb", sorted(verbs()))
def test_verb_is_documented_with_all_its_options(verb: str):
    words = documented(sections()[f"batchdiff {verb}"])
    for action in verbs()[verb]._actions:
        if set(action.option_strings) <= common_options():
            continue
        names = action.option_strings or [action.metavar]
        choices = [str(choice) for choice in action.choices or ()]
        missing = [name for name in [*names, *choices] if name not in words]
        assert missing == [], f"not in the section `batchdiff {verb}`"


def rows_of_options(text: str) -> list[str]:
    """Return the options of a section's tables, by the names that begin their rows."""
    return re.findall(r"^\| `(--?[\w-]+)", text, re.MULTILINE)


@pytest.mark.parametrize("section", sorted(sections()))
def test_no_option_is_documented_twice(section: str):
    rows = rows_of_options(sections()[section])
    assert sorted(rows) == sorted(set(rows))


def test_a_second_row_is_found():
    assert rows_of_options("| `--a B` | x |\n| `-j N`, `--jobs N` | x |\n| `--a` `x`, `y` | x |\n") == [
        "--a",
        "-j",
        "--a",
    ]


def test_common_options_are_documented():
    words = documented(sections()["Common options"])
    assert common_options() | {"--version"} <= words
    assert {"auto", "always", "never"} <= words


def test_no_option_or_verb_is_documented_that_does_not_exist():
    options = {option for verb in verbs().values() for action in verb._actions for option in action.option_strings}
    mentioned = {word for word in documented(without_fences(SCRIPTING)) if word.startswith("-") and word != "-"}
    assert mentioned <= options | {"--version"}
    written = {heading.split()[1] for heading in sections() if heading.startswith("batchdiff ")}
    assert written == set(verbs())


def test_every_exit_code_is_documented_and_no_other():
    classes = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    codes = {kind.exit_code for kind in classes if issubclass(kind, errors.BatchdiffError)}
    codes |= {value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    rows = re.findall(r"^\| (\d+) \|", sections()["Exit codes"], re.MULTILINE)
    assert sorted(int(row) for row in rows) == sorted(codes)


def test_every_event_is_documented():
    events = set()
    for path in (ROOT / "batchdiff" / "cli").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith((".event", "_line")):
                events |= {each.value for each in node.args[:1] if isinstance(each, ast.Constant)}
    rows = re.findall(r"^\| `(\w+)` \|[^|\n]+\|[^|\n]+\|$", sections()["Events"], re.MULTILINE)
    assert set(rows) == events


def test_the_fields_and_values_of_events_are_documented():
    words = documented(sections()["Events"])
    events = (
        guest_event(guest_plan(), GuestOutcome("a", Status.KEPT)),
        finding_event(Finding("a", "/a", Health.SOUND, "")),
        status_event(StatusRow("a", "", "", "", "")),
    )
    assert {name for event in events for name in event} <= words
    assert {status.value for status in Status} <= words
    assert {step.value for step in Step} <= words
    assert {health.value for health in Health} <= words


@pytest.mark.parametrize("path", DOCUMENTS, ids=relative)
def test_links_lead_somewhere(path: Path):
    text = without_fences(path.read_text())
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        there = (path.parent / name).resolve() if name else path
        assert there.exists(), f"{target} does not exist"
        assert there.is_relative_to(ROOT), f"{target} is outside"
        if anchor:
            assert anchor in anchors(there), f"{target}: no such heading"


def anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", without_fences(path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("fence", fenced("yaml"))
def test_manifest_is_valid(fence: Fence, tmp_path: Path):
    path = tmp_path / "manifest.yaml"
    path.write_text(fence.text)
    check_shape(str(path))


@pytest.mark.parametrize("path", sorted((ROOT / "manifests").glob("*.yaml")), ids=relative)
def test_example_manifest_is_valid(path: Path):
    check_shape(str(path))


@pytest.mark.parametrize("fence", fenced("json", "jsonl"))
def test_json_parses(fence: Fence):
    documents = fence.text.splitlines() if fence.kind == "jsonl" else [fence.text]
    assert documents
    for document in documents:
        json.loads(document)


def test_fences_are_of_known_kinds():
    known = {"yaml", "yaml fragment", "json", "jsonl", "console", "sh", "python", "text"}
    assert [fence[:3] for fence in FENCES if fence.kind not in known] == []


def commands(fence: Fence) -> Iterator[list[str]]:
    """The arguments of every batchdiff command: of one in a pipe or a loop too."""
    text = fence.text.replace("\\\n", " ")
    for line in text.splitlines():
        if fence.kind == "console" and not line.startswith("$ "):
            continue
        lexer = shlex.shlex(line.removeprefix("$ "), posix=True, punctuation_chars="|&;<>")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if not set(word) <= set("|&;<>"):
                words.append(word)
                continue
            for at, candidate in enumerate(words):
                if candidate.rpartition("/")[2] == "batchdiff":
                    yield words[at + 1 :]
                    break
            words = []


@pytest.mark.parametrize("fence", fenced("console", "sh"))
def test_commands_parse(fence: Fence):
    for arguments in commands(fence):
        if not {"--help", "-h", "--version"} & set(arguments):
            parser().parse_args(arguments)


def test_the_documents_have_commands():
    fences = [fence for fence in FENCES if fence.kind in {"console", "sh"}]
    found = {arguments[0] for fence in fences for arguments in commands(fence)}
    assert {"plan", "show", "apply", "validate"} <= found


def test_commands_are_found():
    text = "$ .venv/bin/batchdiff plan a.yaml | head\nnot: batchdiff x\n$ if ! batchdiff show b; then\n"
    assert list(commands(Fence("", 1, "console", text))) == [["plan", "a.yaml"], ["show", "b"]]


@pytest.mark.parametrize("path", DOCUMENTS, ids=relative)
def test_no_path_of_one_machine(path: Path):
    assert MACHINE_PATHS.findall(path.read_text()) == []

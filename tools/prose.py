"""Check the English of documents, docstrings, comments and messages for habits that read as translated.

    python tools/prose.py [FILE ...]

Without files, check the whole checkout except NOT_YET, and report entries of NOT_YET that have become clean.
Each finding is printed as ``FILE:LINE: "found words": hint``, and any finding makes the exit code 1.

Text is masked rather than extracted: whatever is not prose becomes blank or ``_``, but newlines stay. So a phrase
is found across line breaks and joined string literals, and a match's offset still gives its line.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CHECKED = ("*.md", "docs/*.md", "Makefile", "manifests/*.yaml", "batchdiff/**/*.py", "tools/**/*")
ABOUT_WORDS = frozenset({"tools/prose.py"})
"""Files that have to name the patterns."""

NOT_YET: tuple[str, ...] = ()
"""Files and folders (with a slash) still to be reworded. Only take entries out; one that is clean is an error."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """A habit to avoid, and what to write instead."""

    name: str
    regex: re.Pattern[str]
    hint: str
    unless_after: re.Pattern[str] | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """One match of a pattern, on a line counted from 1."""

    line: int
    words: str
    pattern: Pattern


def _pattern(name: str, regex: str, hint: str, *, unless_after: str = "") -> Pattern:
    """Compile a pattern in which a blank stands for any white space, so that phrases may cross lines."""
    after = re.compile(rf"\b(?:{unless_after})\s+$", re.IGNORECASE) if unless_after else None
    return Pattern(name, re.compile(regex.replace(" ", r"\s+"), re.IGNORECASE), hint, after)


_COMPARATIVES = "better|earlier|faster|fewer|higher|larger|later|less|longer|lower|more|older|shorter|slower|worse"
_PRONOUNS = "it|they|he|she|this|that|these|those|there|one|both|nothing|none|neither"
_AT = "be|goes|lies?|lives?|stands?|starts?|begins?|ends?|belongs?|stopped|left|came|comes|went|points?|leads?"
_CLAUSE = r"(?:\A|[.,;:(|\0]|\n\s*\n|\n\s*[-*])\s*|\b(?:but|only|even|except|also) "
_STAND_STILL = r"(?:is|are|was|were)(?=\s*[.,;:)]|\s+(?:now|today|kept|stored|found|written)\b)"

PATTERNS = (
    _pattern(
        "is no",
        rf"\b(?:is|are|was|were|be|been|being|becomes?) no (?!(?:{_COMPARATIVES})\b)[a-z]+",
        '"is not a ..."',
        unless_after=r"there(?:\s+[a-z]+)?",
    ),
    _pattern("all the same", r"\ball the same\b", '"still" or "anyway"; of equal things, "identical"'),
    _pattern("any more", r"\bany\s*more\b", '"no longer"; before a noun, "further"'),
    _pattern("shall", r"\bshall\b", '"must", "is to", or the plain present'),
    _pattern(
        "somebody",
        r"\b(?:some|any|every|no)body\b",
        "name who: a VM, another process, the operator",
        unless_after="root to|user",
    ),
    _pattern("tells", r"\b(?:tells|told)\b", '"reports", "shows", "distinguishes"'),
    _pattern("goes on", r"\b(?:go|goes|went|going) on\b(?! (?:a|an|the|one|every|each)\b)", '"continues"'),
    _pattern("look into", r"\blook(?:s|ed|ing)? into\b", '"read", "inspect", "see"'),
    _pattern("begun", r"\bbegun\b", '"started", "in progress"', unless_after="has|have|had|having"),
    _pattern("for one", r"(?<=,) for one(?=[.,;:)])", '"for example", or leave it out'),
    _pattern(
        "where",
        rf"(?:{_CLAUSE})where (?:{_PRONOUNS})\b(?! (?:{_AT})\b)(?! {_STAND_STILL})"
        r"|\b(?:none|null|empty|exact|refused|required|left out) where\b"
        r"|\bwhere (?:none|nothing|there (?:is|are) (?:no|none))\b"
        r"|\bwhere (?:an?|the) [a-z]+ (?:(?:is|are|was|were|could|did|has|have) (?:no|not|never)|cannot)\b",
        'a condition is "if" or "when"; "where" is for places',
    ),
)

INDIRECT = Pattern(
    "indirect question",
    re.compile(r"(?:Whether|What|How|Which|Where|Why)\b"),
    'begin with a verb: "Return ...", "Open ...", "Refuse ..."',
)


def main(arguments: list[str]) -> int:
    """Print all findings, and return the exit code."""
    failed = False
    if arguments:
        paths = [Path(argument).resolve() for argument in arguments]
    else:
        paths = [path for path in checked_files() if not is_listed(path)]
        for entry in NOT_YET:
            if not any(findings(path) for path in checked_files() if matches(path, entry)):
                print(f'tools/prose.py: "{entry}" has no findings left: take it out of NOT_YET')
                failed = True
    for path in paths:
        for finding in findings(path):
            print(f'{shown(path)}:{finding.line}: "{finding.words}": {finding.pattern.hint}')
            failed = True
    return int(failed)


def checked_files() -> list[Path]:
    """Return all files of the checkout that hold prose."""
    found = {path for glob in CHECKED for path in ROOT.glob(glob) if path.is_file()}
    return sorted(path for path in found if path.suffix not in {".pyc", ".svg"} and shown(path) not in ABOUT_WORDS)


def shown(path: Path) -> str:
    """Return a path relative to the checkout if it is inside, as messages print it."""
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else str(path)


def is_listed(path: Path) -> bool:
    """Return True if NOT_YET exempts a file."""
    return any(matches(path, entry) for entry in NOT_YET)


def matches(path: Path, entry: str) -> bool:
    """Return True if an entry of NOT_YET names a file or a folder above it."""
    return shown(path).startswith(entry) if entry.endswith("/") else shown(path) == entry


def findings(path: Path) -> list[Finding]:
    """Return what is found in one file, by line."""
    source = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        found = [*matched(python_prose(source)), *indirect_docstrings(source)]
    elif path.suffix == ".md":
        found = [*matched(markdown_prose(source))]
    else:
        found = [*matched(comments_of(source))]
    return sorted(found, key=lambda finding: finding.line)


def matched(text: str) -> Iterator[Finding]:
    """Yield each match of each pattern in masked text."""
    for pattern in PATTERNS:
        for match in pattern.regex.finditer(text):
            before = text[max(0, match.start() - 80) : match.start()]
            if pattern.unless_after and pattern.unless_after.search(before):
                continue
            words = re.sub(r"\A\W+", "", match.group().replace("\0", " "))
            line = text.count("\n", 0, match.end() - len(words)) + 1
            yield Finding(line, " ".join(words.split()), pattern)


def indirect_docstrings(source: str) -> Iterator[Finding]:
    """Yield functions whose docstring begins with a question word instead of a verb."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            match = INDIRECT.regex.match(ast.get_docstring(node) or "")
            if match:
                yield Finding(node.body[0].lineno, match.group(), INDIRECT)


def markdown_prose(source: str) -> str:
    """Mask fences and code spans."""
    without_fences = re.sub(r"^ *```.*?^ *```$", _blank, source, flags=re.DOTALL | re.MULTILINE)
    return _without_code_spans(without_fences)


def comments_of(source: str) -> str:
    """Mask all but the comments of a file whose comments start with ``#``, such as a shell script."""
    lines = [re.match(r"(?:.*?\s)?#(?P<text>.*)|", line) for line in source.splitlines()]
    texts = [match["text"] if match else None for match in lines]
    return _without_code_spans("\n".join("\0" if text is None else text for text in texts))


def python_prose(source: str) -> str:
    """Mask all but comments and string literals; in f-strings, mask what is filled in."""
    masked = _Masked(source)
    for node in _strings(ast.parse(source)):
        masked.uncover((node.lineno, node.col_offset), (node.end_lineno or 0, node.end_col_offset or 0))
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            before = len(token.line[: token.start[1]].encode())
            masked.uncover((token.start[0], before), (token.start[0], before + len(token.string.encode())))
    text = masked.text()
    filled_in = re.sub(r"\{[^{}\n]*\}", lambda match: "_" * len(match.group()), text)
    without_marks = re.sub(r"\b[bfru]{1,2}(?=\")|[\"#]|\\n", _blank, filled_in)
    return _without_code_spans(without_marks)


def _strings(node: ast.AST) -> Iterator[ast.expr]:
    """Yield the string literals below a node; an f-string as a whole, because Python 3.11 misplaces its parts."""
    if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str)):
        yield node
    else:
        for child in ast.iter_child_nodes(node):
            yield from _strings(child)


class _Masked:
    """A source of which only uncovered stretches are seen; the rest is NUL, but line breaks and indentation stay.

    Positions are those of ``ast``: lines from 1, columns in bytes of UTF-8.
    """

    def __init__(self, source: str) -> None:
        self._source = source.encode()
        self._seen = bytearray(re.sub(rb"[^\s]", b"\0", self._source))
        self._starts = [0]
        for line in self._source.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line))

    def uncover(self, start: tuple[int, int], end: tuple[int, int]) -> None:
        first = self._starts[start[0] - 1] + start[1]
        last = self._starts[end[0] - 1] + end[1]
        self._seen[first:last] = self._source[first:last]

    def text(self) -> str:
        return self._seen.decode()


def _without_code_spans(text: str) -> str:
    """Mask what stands between backquotes: names of programs, options and files."""
    return re.sub(r"(`+)(?!`)[^`]*\1", lambda match: re.sub(r"\S", "_", match.group()), text)


def _blank(match: re.Match[str]) -> str:
    """Replace a match by white space of the same shape."""
    return re.sub(r"\S", " ", match.group())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Names with any letter, under any locale: nothing fails for them, and files are the same everywhere."""

import os
import subprocess

import notation
import pytest
from commands import COMMAND, assert_no_traceback, events

from batchdiff.report.table import cells

NAMES = [
    "plain",
    "ümläut",
    "東京サーバ",
    "emoji-\U0001f600",
    "e\u0301",
    "q'uo\"te",
    "x" * 180,
    "ß" * 100,
    "あ" * 66 + "b",
]
"""The last two are cut, where a temporary name is made of them, in the middle of a letter."""

LOCALES = {
    "utf-8": ({"LC_ALL": "C.UTF-8"}, "utf-8"),
    "c": ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, "ascii"),
    "ascii-output": ({"PYTHONIOENCODING": "ascii"}, "ascii"),
    "latin-1": ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "latin-1"}, "latin-1"),
}


def run(folder, locale, *arguments, expect=0):
    """What a command prints, in the encoding that its locale has."""
    environment, encoding = LOCALES[locale]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHONIO"))}
    done = subprocess.run(
        [*COMMAND, *arguments],
        cwd=folder,
        env=kept | environment,
        capture_output=True,
        check=False,
        timeout=120,
        stdin=subprocess.DEVNULL,
    )
    text = subprocess.CompletedProcess(
        arguments, done.returncode, done.stdout.decode(encoding), done.stderr.decode(encoding)
    )
    assert_no_traceback(text.stdout + text.stderr)
    assert text.returncode == expect, text.stderr
    return text


@pytest.fixture
def folder(tmp_path):
    notation.write_raw(tmp_path / "t.img", "256k:A 768k:-")
    for name in NAMES:
        notation.write_raw(tmp_path / f"{name}.img", "252k:A 4k:B 512k:- 256k:C")
    (tmp_path / "m.yaml").write_text(
        'version: 1\ntemplate: {path: t.img, format: raw}\nguests:\n  - {glob: "*.img", format: raw}\n',
        encoding="utf-8",
    )
    return tmp_path


def rows(text):
    """The lines of a table, up to the empty line behind it."""
    first = next(number for number, line in enumerate(text.split("\n")) if line.startswith("guest "))
    return [line for line in text.split("\n")[first:] if line][: len(NAMES) + 1]


@pytest.mark.parametrize("locale", LOCALES)
def test_every_verb(folder, locale):
    run(folder, locale, "validate", "m.yaml")
    run(folder, locale, "plan", "m.yaml", "--progress", "always", "-j", "2")
    shown = rows(run(folder, locale, "show", "m.plan.json").stdout)
    assert len({cells(line[: line.rindex("  ")]) for line in shown[1:]}) == 1, shown
    run(folder, locale, "apply", "m.plan.json", "--retire", "quarantine", "--verify", "native")
    assert {f"{name}.qcow2" for name in NAMES} <= set(os.listdir(folder))
    state = rows(run(folder, locale, "status", "m.plan.json").stdout)
    assert len({cells(line[: line.index("retired")]) for line in state[1:]}) == 1, state
    run(folder, locale, "verify", "m.plan.json", "--guest", "ümläut")
    run(folder, locale, "restore", "m.plan.json", "--guest", "東京サーバ", "-y")
    run(folder, locale, "purge", "m.plan.json", "--guest", "ß" * 100, "-y")


@pytest.mark.parametrize("locale", ["c", "latin-1"])
def test_what_is_written_is_the_same(folder, locale):
    """Plans, reports and events depend on no locale."""
    plans, reports, said = [], [], []
    for each in ("utf-8", locale):
        said.append(run(folder, each, "plan", "m.yaml", "--json"))
        plans.append((folder / "m.plan.json").read_bytes())
        for form in ("text", "json"):
            run(folder, each, "show", "m.plan.json", "--format", form, "-o", f"{each}.{form}")
            reports.append((folder / f"{each}.{form}").read_bytes())
            os.unlink(folder / f"{each}.{form}")
    assert plans[0].isascii()
    created = [event["report"]["created"] for done in said for event in events(done)]
    first, second = (
        [text.replace(when.encode(), b"") for text in reports[at : at + 2]]
        for at, when in zip((0, 2), created, strict=True)
    )
    assert first == second
    assert "東京サーバ".encode() in reports[0]
    assert said[1].stdout.isascii()


@pytest.mark.parametrize("locale", ["utf-8", "c"])
def test_a_command_line_that_is_not_utf_8(folder, locale):
    bad = b"\xff\xc3\x1b"
    for arguments, code in (
        ([b"plan", bad], 3),
        ([b"status", bad], 5),
        ([b"plan", b"m.yaml", b"--" + bad], 2),
        ([bad], 2),
        ([b"plan", b"m.yaml", b"--guest", bad], 2),
        ([b"show", bad, b"--json"], 5),
    ):
        done = run(folder, locale, *arguments, expect=code)
        assert "\\udcff" in done.stderr

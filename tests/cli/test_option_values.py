"""What is wrong with the value of an option is said in words, with the choices; plan needs a name for its plan.

Guards cli/arguments.py, cli/verb_arguments.py, cli/options/option_values.py.
"""

from __future__ import annotations

import pytest

from batchdiff.cli import main
from batchdiff.cli.arguments import _SYNONYMS, parse_arguments, parser


def refusal(capsys, *argv: str) -> str:
    with pytest.raises(SystemExit) as ended:
        parse_arguments(list(argv))
    assert ended.value.code == 2
    return capsys.readouterr().err.strip().rpartition("error: ")[2]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (
            ["apply", "p", "--retire=remove"],
            "argument --retire: 'remove' is not one of: keep, quarantine, delete; did you mean \"delete\"?",
        ),
        (["apply", "p", "--retire="], "argument --retire: '' is not one of: keep, quarantine, delete"),
        (["apply", "p", "--verify=no"], "argument --verify: 'no' is not one of: full, changed, native"),
        (["plan", "m", "--progress=bar"], "argument --progress: 'bar' is not one of: auto, always, never"),
        (["plan", "m", "--cache=flush"], "argument --cache: 'flush' is not one of: keep, drop"),
        (["show", "p", "--format=pdf"], "argument --format: 'pdf' is not one of: text, json, html, markdown, csv"),
        (["restore", "p", "--allow-loss=all"], "argument --allow-loss: 'all' is not one of: snapshots, bitmaps"),
        (["plan", "m", "-j", "0"], "argument -j/--jobs: '0' is not a number of jobs from 1 to 1024"),
        (
            ["plan", "m", "--limit-rate=100"],
            "argument --limit-rate: '100' is not a rate from 1MiB to 1TiB a second",
        ),
        (
            ["plan", "m", "--limit-rate=1.5G"],
            "argument --limit-rate: '1.5G' is not a rate; write a whole number and",
        ),
        (
            ["plan", "m", "-o", "-"],
            "argument -o/--output: - does not mean stdout here; for a file of that name, write ./-",
        ),
        (["show", "p", "-o", ""], "argument -o/--output: the file name is empty"),
    ],
)
def test_what_is_wrong(capsys, argv, words):
    said = refusal(capsys, *argv)
    assert said.startswith(words)
    assert "invalid" not in said


@pytest.mark.parametrize(
    ("text", "rate"), [("100M/s", 100 << 20), ("100MB/s", 100 << 20), ("2000KiB", 2000 << 10)]
)
def test_rates(text, rate):
    assert parse_arguments(["plan", "m", "--limit-rate", text]).limit_rate == rate


@pytest.mark.parametrize(
    ("text", "absolute"),
    [
        ("/a=.", "/a={folder}"),
        ("/a=b/./c=d", "/a={folder}/b/c=d"),
        ("/a=b/../c", "/a={folder}/b/../c"),
        ("/a=/b/", "/a=/b/"),
        ("a", "a"),
        ("/a=", "/a="),
        ("=", "="),
    ],
)
def test_the_place_of_moved_images_is_absolute(tmp_path, monkeypatch, text, absolute):
    monkeypatch.chdir(tmp_path)
    assert parse_arguments(["status", "p", "--map", text]).moves == [absolute.format(folder=tmp_path)]


@pytest.mark.parametrize("name", ["-", "/dev/stdin", "/dev/fd/63"])
def test_a_plan_from_a_pipe_needs_a_name(capsys, monkeypatch, name):
    monkeypatch.setattr(main.signal, "signal", lambda *_: None)  # that of the tests stays
    assert main.run(["plan", name]) == 2
    assert capsys.readouterr().err == (
        "batchdiff: the plan has no default name: the manifest comes from stdin or a pipe."
        " Add `-o PLAN`, such as `-o fleet.plan.json`.\n"
    )


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["plna", "m"], 'there is no verb "plna"; did you mean "plan"?'),
        (["Plan", "m"], 'there is no verb "Plan"; did you mean "plan"?'),
        (["find", "p"], 'there is no verb "find"; did you mean "discover"?'),
        (["undo", "p"], 'there is no verb "undo"; did you mean "restore"?'),
        (["delete", "p"], 'there is no verb "delete"; did you mean "purge"?'),
        (
            ["frobnicate"],
            'there is no verb "frobnicate"; the verbs are discover, estimate, plan, show, apply, status,'
            " verify, restore, purge, definitions, validate, doctor, schema",
        ),
        (["apply", "p", "--guests", "a"], 'unrecognized arguments: --guests; did you mean "--guest"?'),
        (["apply", "--guests", "a", "p"], 'unrecognized arguments: --guests; did you mean "--guest"?'),
        (["apply", "p", "a"], "unrecognized arguments: a"),
        (["--json", "plan", "m"], "--json is an option of the verb: write it after the verb"),
        (["-v", "--format=html", "show", "p"], "-v is an option of the verb: write it after the verb"),
        (["--log-file", "x.log", "plan", "m"], "--log-file is an option of the verb: write it after the verb"),
        (["--dry-run", "restore", "p"], "--dry-run is an option of the verb: write it after the verb"),
        (["show", "p", "--fromat=html"], 'unrecognized arguments: --fromat=html; did you mean "--format"?'),
        (["show", "p", "--zzz"], "unrecognized arguments: --zzz"),
        (
            ["apply", "p", "--gues=a", "--retir=keep"],
            'unrecognized arguments: --gues=a --retir=keep; did you mean "--guest" and "--retire"?',
        ),
    ],
)
def test_what_was_probably_meant(capsys, argv, words):
    assert refusal(capsys, *argv) == words


def test_every_synonym_is_a_verb():
    assert set(_SYNONYMS.values()) <= set(verbs_of(parser()))
    assert not set(_SYNONYMS) & set(verbs_of(parser()))


def verbs_of(main):
    return next(action.choices for action in main._actions if action.dest == "verb")


@pytest.mark.parametrize(
    ("argv", "start"), [(["help"], "usage: batchdiff [-h]"), (["help", "show"], "usage: batchdiff show")]
)
def test_help_is_a_verb_too(capsys, argv, start):
    with pytest.raises(SystemExit) as ended:
        parse_arguments(argv)
    assert not ended.value.code
    assert capsys.readouterr().out.startswith(start)


def test_nothing_at_all_prints_the_help(capsys):
    with pytest.raises(SystemExit) as ended:
        parse_arguments([])
    assert ended.value.code == 2
    assert "  batchdiff plan manifest.yaml" in capsys.readouterr().err


def test_every_verb_begins_its_help_with_an_example_that_parses():
    for name, verb in verbs_of(parser()).items():
        example = verb.description.split("\n")[0]
        assert example.startswith(f"example: batchdiff {name}")
        assert parse_arguments(example.split()[2:]).verb == name


def test_exit_codes_are_in_the_main_help_only():
    assert "exit codes:" in parser().format_help()
    assert all("exit codes:" not in verb.format_help() for verb in verbs_of(parser()).values())

"""What is wrong with the value of an option is said in words, with the choices; plan needs a name for its plan."""

from __future__ import annotations

import pytest

from batchdiff.cli import main
from batchdiff.cli.arguments import parse_arguments


def refusal(capsys, *argv: str) -> str:
    with pytest.raises(SystemExit) as ended:
        parse_arguments(list(argv))
    assert ended.value.code == 2
    return capsys.readouterr().err.strip().rpartition("error: ")[2]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["apply", "p", "--retire=remove"], "argument --retire: 'remove' is not one of: keep, quarantine, delete"),
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
            "argument -o/--output: - does not mean stdout here; a file of that name is ./-",
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


@pytest.mark.parametrize("name", ["-", "/dev/stdin", "/dev/fd/63"])
def test_a_plan_from_a_pipe_needs_a_name(capsys, monkeypatch, name):
    monkeypatch.setattr(main.signal, "signal", lambda *_: None)  # that of the tests stays
    assert main.run(["plan", name]) == 2
    assert capsys.readouterr().err == (
        "batchdiff: the plan needs a name: a manifest from stdin or a pipe has none."
        " Add `-o PLAN`, such as `-o fleet.plan.json`.\n"
    )

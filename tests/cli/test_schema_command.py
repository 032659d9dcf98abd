"""Guards cli/verbs/schema.py: the shipped schemas are printed, for programs that check what batchdiff prints."""

import json
import re
import subprocess
from pathlib import Path

import jsonschema
import pytest
from commands import batchdiff, events

from batchdiff.plan.json_schema import schema_of


@pytest.mark.parametrize("name", ["manifest", "plan", "report", "events"])
def test_each_is_printed(tmp_path, capsys, name):
    from batchdiff.cli import main  # noqa: PLC0415

    assert main.run(["schema", name]) == 0
    assert json.loads(capsys.readouterr().out) == schema_of(name)


def test_what_is_printed_validates_what_is_printed(tmp_path):
    done = batchdiff("schema", "events", "--json", cwd=tmp_path)
    (event,) = events(done)
    assert event["name"] == "events"
    validator = jsonschema.Draft202012Validator(event["schema"])
    for line in done.stdout.splitlines():
        validator.validate(json.loads(line))


def test_the_recipe_for_a_validator_that_reads_one_document(tmp_path):
    """docs/scripting.md, with events of a command; one that is wrong is found."""
    (tmp_path / "events.jsonl").write_text(batchdiff("schema", "plan", "--json", cwd=tmp_path).stdout)
    (tmp_path / "events.schema.json").write_text(json.dumps(schema_of("events")))
    page = (Path(__file__).parents[2] / "docs/scripting.md").read_text()
    recipe = re.findall(r"^\$ (jq .*)$", page, re.MULTILINE)
    assert len(recipe) == 2
    subprocess.run(["sh", "-ec", "\n".join(recipe)], cwd=tmp_path, check=True)
    found = json.loads((tmp_path / "events.json").read_text())
    validator = jsonschema.Draft202012Validator(json.loads((tmp_path / "list.schema.json").read_text()))
    validator.validate(found)
    assert not validator.is_valid([*found, {"event": "summary"}])


@pytest.mark.parametrize(("word", "meant"), [("event", "events"), ("plans", "plan"), ("xyz", None)])
def test_an_unknown_name(tmp_path, word, meant):
    done = batchdiff("schema", word, cwd=tmp_path, expect=2)
    hint = f'; did you mean "{meant}"?' if meant else ""
    assert f"'{word}' is not one of: manifest, plan, report, events{hint}\n" in done.stderr

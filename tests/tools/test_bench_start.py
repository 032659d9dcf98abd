"""The benchmark's measure of a start ends when an image is opened, and takes no other end for that."""

import dataclasses
import os
from pathlib import Path

import bench
import notation
import pytest
from bench.contestants import until_first_open
from bench.fleets import fleet_of


@pytest.fixture
def fleet(tmp_path, monkeypatch):
    tools = str(Path(*bench.__path__).parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([tools, os.environ.get("PYTHONPATH", "")]))
    paths = [str(tmp_path / name) for name in ("template.raw", "guest.raw")]
    for path in paths:
        notation.write_raw(path, "64k:A 64k:-")
    return fleet_of("a fleet", paths[0], paths[1:])


def test_it_ends_when_an_image_is_opened(fleet):
    before = set(os.listdir(fleet.folder))
    assert until_first_open(fleet).seconds > 0
    assert set(os.listdir(fleet.folder)) == before


def test_a_failure_is_no_start(fleet):
    Path(fleet.manifest).write_text("version: 1\n")
    with pytest.raises(RuntimeError, match="ended with exit code 3"):
        until_first_open(fleet)


def test_a_whole_plan_is_no_start(fleet, tmp_path_factory):
    """Its images are others than those that were looked out for."""
    other = dataclasses.replace(fleet.template, path=str(tmp_path_factory.mktemp("other") / "image"))
    Path(other.path).touch()
    with pytest.raises(RuntimeError, match="did not open any image"):
        until_first_open(dataclasses.replace(fleet, template=other, guests=()))
